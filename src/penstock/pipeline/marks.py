"""Private markers that stand, in a sample, for what a transform hasn't finished yet."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NoReturn

from penstock.pipeline.compositions import CannotCut, Parts
from penstock.tree import Structure, flatten, structure_of, unflatten

TOUCHED = "the dataset works on what its transform gives it, so only its whole samples could be cached"


class Mark:
    """One part of a transform's unfinished result. Code that does anything but pass it on is told off.

    Attributes:
        call: which of the calls for this sample it came from.
        key: which part.
        value: what is there up to now.
    """

    __slots__ = ("call", "key", "value")

    def __init__(self, call: int, key: Any, value: Any) -> None:
        self.call, self.key, self.value = call, key, value

    def __getattr__(self, name: str) -> NoReturn:
        raise CannotCut(TOUCHED)

    def _touched(self, *_: Any) -> NoReturn:
        raise CannotCut(TOUCHED)

    __bool__ = __len__ = __iter__ = __getitem__ = __setitem__ = __call__ = __float__ = __int__ = _touched
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _touched
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __rdivmod__ = __pow__ = __rpow__ = (
        _touched
    )
    __matmul__ = __rmatmul__ = __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _touched
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = __neg__ = __pos__ = __abs__ = __invert__ = _touched
    __index__ = __complex__ = __round__ = __contains__ = __enter__ = __exit__ = _touched
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __array__ = __str__ = __repr__ = _touched
    __hash__ = None  # type: ignore[assignment]


class Calls(threading.local):
    """The calls of cut transforms for the sample in the making, in order: which transform, which parts."""

    def __init__(self) -> None:
        self.made: list[tuple[int, tuple[Any, ...]]] = []

    def note(self, site: int, parts: Parts) -> int:
        """Enter one call; returns its number."""
        self.made.append((site, tuple(parts)))
        return len(self.made) - 1

    def take(self) -> tuple[tuple[int, tuple[Any, ...]], ...]:
        """All of them; the next sample starts anew."""
        made, self.made = tuple(self.made), []
        return made


calls = Calls()


@dataclass(frozen=True, slots=True)
class Marks:
    """Where the unfinished parts are in a sample, and what they came from. Compares by value.

    Attributes:
        structure: of the sample, each unfinished part being a leaf.
        places: for each, the number of the leaf, of the call, and the part's key.
        calls: for each call, which transform it was and the keys of its parts.
    """

    structure: Structure
    places: tuple[tuple[int, int, Any], ...]
    calls: tuple[tuple[int, tuple[Any, ...]], ...]

    def parts(self, values: Any) -> list[Parts]:
        """The parts of each call."""
        leaves = flatten(values, self.structure)
        found: list[Parts] = [dict.fromkeys(keys) for _, keys in self.calls]
        for place, call, key in self.places:
            found[call][key] = leaves[place]
        return found

    def put_back(self, values: Any, finished: list[Parts]) -> Any:
        """The sample with the finished parts in their places."""
        leaves = flatten(values, self.structure)
        for place, call, key in self.places:
            leaves[place] = finished[call][key]
        return unflatten(self.structure, iter(leaves))


def open_marks(sample: Any) -> tuple[Any, Marks]:
    """The sample with the values that its marks hold, and where they are.

    Raises:
        CannotCut: if a part that was made for it isn't in it.
    """
    made = calls.take()
    structure = structure_of(sample)
    leaves = flatten(sample, structure)
    marked = [(place, leaf) for place, leaf in enumerate(leaves) if type(leaf) is Mark]
    places = tuple((place, mark.call, mark.key) for place, mark in marked)
    there = {(call, key) for _, call, key in places}
    if any((call, key) not in there for call, (_, keys) in enumerate(made) for key in keys):
        raise CannotCut(
            "what the transform gives isn't found in the sample (a dict, list or tuple of leaves), "
            "or only a part of it"
        )
    for place, mark in marked:
        leaves[place] = mark.value
    return unflatten(structure, iter(leaves)), Marks(structure, places, made)
