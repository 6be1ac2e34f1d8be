"""Iterating samplers without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import Sampler

from penstock.indices.dice import Dice, global_dice, restore, sources_of, state_of
from penstock.stateful import is_stateful

Loader = Any
"""One of torch's or ours."""


@contextmanager
def unmoved(loader: Loader) -> Iterator[None]:
    """Leave as they were: the global generators, the loader's, and its samplers with what they hold.

    Of a sampler, these are its generators, its own attributes (such as a count of its epochs), and what its
    ``state_dict`` tells; not what it has changed inside other objects.
    """
    samplers = list(_samplers(loader.batch_sampler, loader.sampler))
    sources = [*global_dice().values(), *(s for s in samplers if is_stateful(s))]
    sources += [source for sampler in samplers for source in sources_of(sampler).values()]
    sources += [loader.generator] if isinstance(loader.generator, Dice) else []
    states = [(source, state_of(source)) for source in sources]
    attributes = [
        (vars(sampler), dict(vars(sampler))) for sampler in samplers if hasattr(sampler, "__dict__")
    ]
    try:
        yield
    finally:
        for source, state in states:
            restore(source, state)
        for now, before in attributes:  # last: loading a state may leave a mark
            now.clear()
            now.update(before)


def _samplers(*found: Any) -> Iterator[Any]:
    """These, and those that they wrap."""
    for sampler in found:
        if sampler is not None:
            yield sampler
            yield from _samplers(
                *(v for v in getattr(sampler, "__dict__", {}).values() if isinstance(v, Sampler))
            )
