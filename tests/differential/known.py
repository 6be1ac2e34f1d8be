"""The differences that are on purpose: each names its row in docs/differences.md, and is narrow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from tests.differential.recording import Event, Raised, Setting
from tests.differential.samples import Box, Description, Failing, Leaf, Now, Shelf, Sized

# -- settings that aren't compared ---------------------------------------------------------------


def leaves(sample: Description) -> Iterator[str]:
    """The names of all leaves that a sample may have."""
    match sample:
        case Leaf(name):
            yield name
        case Box(_, items) | Shelf(_, items):
            yield from itertools.chain.from_iterable(map(leaves, items))
        case Now(_, _, rare, usual):
            yield from itertools.chain(leaves(rare), leaves(usual))
        case Failing() | Sized():
            return


def _holds(*names: str) -> Callable[[Setting], bool]:
    return lambda setting: not set(names).isdisjoint(leaves(setting.source.sample))


def _order(setting: Setting) -> str | None:
    order = setting.arguments.get("sampler") or setting.arguments.get("batch_sampler")
    return getattr(order, "name", None)


SETTINGS: dict[str, Callable[[Setting], bool]] = {
    "an exception in a sampler": lambda s: _order(s) in ("failing", "number", "of indices"),
    "what `__getitems__` is given": lambda s: (
        _order(s) == "generators" and any(word in s.source.kind for word in ("bulk", "stack", "subset"))
    ),
}
"""By row: the settings in which it shows."""

WITH_WORKERS: dict[str, Callable[[Setting], bool]] = {
    **SETTINGS,
    "tensors of one batch that share memory": _holds("strided", "strided array"),
    "tensors that require a gradient, with workers": _holds(
        "requires grad", "result that requires grad", "parameter"
    ),
    "batches made ahead": lambda s: _order(s) in ("iterator", "generators") and len(s.steps) > 1,
}
"""The same for a loader of ours with workers beside one of torch's without."""

WITH_TORCHS_WORKERS: dict[str, Callable[[Setting], bool]] = {
    **WITH_WORKERS,
    "views and types that torch can't send": _holds(
        "conjugate", "negative", "quantised", "quantised by channel", "big-endian array"
    ),
    "tensors of several types in one batch, with workers": lambda s: any(
        isinstance(part, Now) and not isinstance(part.rare, Failing) for part in parts(s)
    ),
}
"""The same where torch's has workers too."""


def parts(setting: Setting) -> Iterator[Description]:
    """All descriptions in a setting's sample, itself included."""
    waiting: list[Description] = [setting.source.sample]
    while waiting:
        part = waiting.pop()
        yield part
        match part:
            case Box(_, items) | Shelf(_, items):
                waiting.extend(items)
            case Now(_, _, rare, usual):
                waiting.extend((rare, usual))


# -- events that are compared less strictly ------------------------------------------------------


def not_of_workers(events: Sequence[Event]) -> list[Event]:
    """Without what a loader with workers is meant to say otherwise than one without."""

    def of_workers(event: Event) -> bool:
        words = ("This DataLoader will create", "Triggered internally")
        told = event.what == "warning" and any(word in event.value[1] for word in words)
        return told or event.what in ("attributes", "asked")

    return [event for event in events if not of_workers(event)]


def _wrapped_by_torch(ours: Event, theirs: Event) -> bool:
    """torch makes the exception anew, with the worker's traceback as its message, or a RuntimeError."""
    if not (isinstance(ours.value, Raised) and isinstance(theirs.value, Raised)):
        return False
    (kind, text), (their_kind, their_text) = vars(ours.value).values(), vars(theirs.value).values()
    caught = their_text.startswith(f"Caught {kind.__name__} in DataLoader worker process")
    return caught and text in their_text and their_kind in (kind, RuntimeError)


EVENTS: dict[str, Callable[[Event, Event], bool]] = {"an exception in `dataset[i]`": _wrapped_by_torch}


def unlike(ours: Sequence[Event], theirs: Sequence[Event]) -> str | None:
    """The first difference that is no known one."""
    for place, (our, their) in enumerate(
        itertools.zip_longest(ours, theirs, fillvalue=Event("nothing more"))
    ):
        found = our.unlike(their)
        if found and not any(known(our, their) for known in EVENTS.values()):
            return f"event {place}, {found}"
    return None


def rows() -> set[str]:
    """The rows of docs/differences.md that are used here."""
    return {*SETTINGS, *WITH_WORKERS, *WITH_TORCHS_WORKERS, *EVENTS}


def intended(setting: Setting, differences: dict[str, Callable[[Setting], bool]]) -> bool:
    """Whether one of `differences` shows in this setting."""
    return any(shows(setting) for shows in differences.values())
