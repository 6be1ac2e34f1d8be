"""Puts every sample under its own random state, as cheaply as the dataset's habits allow.

The state is that of every generator that the dataset may draw from: the global ones of torch (CPU),
``random`` and ``numpy.random``, and those that it keeps (`find_generators`). torch's is always seeded: a
sample may read ``torch.initial_seed()``, or draw in a scope that puts the old state back, and nobody would
notice. Seeding another takes 1 to 6 us here, more than a cheap sample does, and most datasets use none of
them. So one that was left alone in `LEARN` tasks is no longer seeded but watched: if a task drew from it
after all, it is seeded from then on, and that task is run again. Every sample has thus either run under its
own seed or left the generator as it was. (What draws from these and puts the old state back isn't noticed.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import torch

from penstock.seeding.find import find_generators
from penstock.seeding.generators import Generator, Step, global_generators

LEARN = 4
"""How many tasks to study, by their last sample, before a generator counts as unused."""
NEAR = 2000
"""How many objects to look at behind a ``collate_fn``, which may be a method of the whole program; 10 ms."""


class Seeds:
    """Sets the generators for the samples of one task, in their order or one by one.

    `steps` are taken in turn for each sample; the plainer their functions, the less it costs.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def set(self, k: int) -> None:
        """For the k-th sample."""
        for call, values in self._steps:
            call(values[k])

    def all(self) -> Iterator[object]:
        """For the next one, whenever an item is asked for."""
        return zip(*[map(call, values) for call, values in self._steps], strict=False)


class _Source:
    """A generator, and what is known of its use."""

    def __init__(self, generator: Generator, salt: int) -> None:
        self.generator = generator
        self.salt = salt
        self.used = generator.identity is torch.default_generator
        self.quiet = 0
        self.before: Any = None

    @property
    def watched(self) -> bool:
        return not self.used and self.quiet >= LEARN


class SampleSeeder:
    """Owned by one process; not for several threads at once.

    A task runs between `begin` and `end`, again if `end` says so. With `keep_state`, `end` leaves all
    generators as `begin` found them. What `collate_fn` draws follows from the last sample's seed.
    """

    def __init__(self, dataset: Any, collate_fn: Any = None, keep_state: bool = False) -> None:
        self._dataset, self._collate_fn, self._keep_state = dataset, collate_fn, keep_state
        self._sources = [_Source(generator, 0) for generator in global_generators()]
        self._global = len(self._sources)
        self._studied = 0
        self._put_back: list[Callable[[], None]] = []
        self.look_again()

    def look_again(self) -> bool:
        """Look for generators that have come since; whether there are any."""
        known = {id(source.generator.identity): source for source in self._sources}
        found = find_generators(self._dataset)
        for path, generator in find_generators(self._collate_fn, "collate_fn", NEAR).items():
            if all(generator.identity is not its.identity for its in found.values()):
                found[path] = generator
        own = [
            known.get(id(generator.identity)) or _Source(generator, _salt(path))
            for path, generator in found.items()
        ]
        own = [source for source in own if source not in self._sources[: self._global]]
        new = any(source not in self._sources for source in own)
        self._sources[self._global :] = own
        return new

    def seed_global(self, seed: int) -> None:
        """Set the global generators, once, for what can't be seeded sample by sample."""
        for source in self._sources[: self._global]:
            source.generator.seed(seed)

    def begin(self, seeds: Sequence[int], studied: int) -> Seeds:
        """Before a task; what sets the state for each of its samples.

        `seeds` are the 64-bit seeds of the samples; `studied` is the sample to learn from.
        """
        active = [source for source in self._sources if not source.watched]
        for source in self._sources:
            source.before = source.generator.state() if source.watched else None
        if self._keep_state:
            self._put_back = [source.generator.keep() for source in active]
        return self._seed_for(active, seeds, studied)

    def _seed_for(self, active: list[_Source], values: Sequence[int], studied: int) -> Seeds:
        steps = [step for source in active for step in source.generator.setters(_salted(values, source.salt))]
        learning = [source for source in active if not source.used]

        def look(k: int) -> None:
            if k == studied:
                for source in learning:
                    source.before = source.generator.state()

        return Seeds([*steps, (look, range(len(values)))] if learning else steps)

    def end(self, completed: bool) -> bool:
        """After a task; whether it has to be run again, as it used what wasn't seeded.

        `completed` says that the studied sample was made to its end.
        """
        again = False
        for source in self._sources:
            watched, before = source.watched, source.before
            if before is None or not (watched or completed):
                continue
            source.used = source.generator.state() != before
            source.quiet += 1
            if source.used and watched:
                again = True
                if self._keep_state:
                    source.generator.restore(before)
        for put_back in self._put_back:
            put_back()
        self._put_back = []
        if self._studied < LEARN:
            self._studied += 1
            again |= self.look_again()
        return again


def _salted(values: Sequence[int], salt: int) -> Sequence[int]:
    return [value ^ salt for value in values] if salt else values


def _salt(path: str) -> int:
    """Tells the generators of a dataset apart, whatever others there are."""
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "little")
