"""The order of any other sampler: what its own iterator gives.

It goes on in the middle of an epoch by its own ``state_dict``, or its iterator's, where it has one. Otherwise
it is walked again from its beginning, with the generators as they were then, and what it gives on the way is
compared by a checksum with what it gave before. Its indices are all that this costs.
"""

from __future__ import annotations

import copy
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from penstock.errors import StateError
from penstock.indices.dice import Notes, restore, sources_of, state_of
from penstock.indices.orders import Order, Origin
from penstock.plan import indices_of
from penstock.stateful import is_stateful

_AT_ONCE = 4096
_NOTHING = object()
_MARK = "sampler", "iterator", "checksum", "last", "ended"
"""Of an origin, what changes from batch to batch."""


class Walk(Order):
    """See above; with `nested`, what the sampler gives are batches, not indices."""

    def __init__(self, sampler: Any, origin: Mapping[str, Any], nested: bool) -> None:
        super().__init__(sampler, origin)
        self._nested = nested
        self._beginning: Origin = {}
        self._marks: dict[int, Origin] = {}
        self._checksum = 0
        self._iterator: Any = None

    # -- its indices -----------------------------------------------------------------------------

    def begins_at(self, given: int) -> int:
        return 0 if self._has_state else given

    @property
    def _has_state(self) -> bool:
        return bool(self._origin.keys() & {"sampler", "iterator"})

    def indices(self, start: int) -> Iterator[Any]:
        """Asks the sampler for its iterator here and now, as torch does."""
        origin = self._origin
        self._load_sampler()
        sources = sources_of(self._sampler)
        for name in sources.keys() & origin.get("sources", {}).keys():
            restore(sources[name], origin["sources"][name])
        notes = Notes(origin.get("drawn", {}))
        self._beginning = {**self._sources(), "drawn": notes.drawn}
        self._marks[start] = {name: origin[name] for name in _MARK if name in origin} or self._mark()
        if "last" in origin and self._has_state:
            return self._nothing()
        call = _plain_call if is_stateful(self._sampler) or self._has_state else notes.call
        self._iterator = call("iter", lambda: iter(self._sampler))
        if "iterator" in origin:
            self._iterator.load_state_dict(copy.deepcopy(origin["iterator"]))
        return self._walk(call, start)

    def _walk(self, call: Callable[..., Any], start: int) -> Iterator[Any]:
        first = call("first", lambda: next(self._iterator, _NOTHING))
        if first is _NOTHING and "ended" in self._origin:  # it had nothing left of the epoch that was saved
            self._iterator = iter(self._sampler)
            first = next(self._iterator, _NOTHING)
        if first is not _NOTHING:
            rest = self._rest(first)
            self._skip(rest, start)
            yield from rest

    def _rest(self, following: Any) -> Iterator[Any]:
        """Only by ``next``, as in torch: there are iterators that ``iter`` sets back to their beginning."""
        while following is not _NOTHING:
            yield following
            following = next(self._iterator, _NOTHING)

    def _load_sampler(self) -> None:
        if "sampler" in self._origin:
            self._sampler.load_state_dict(copy.deepcopy(self._origin["sampler"]))

    def _nothing(self) -> Iterator[Any]:
        """The end of an epoch that it had come to the end of. Its state may still have that end before it, or
        be the next epoch's beginning."""
        if "sampler" in self._origin and next(iter(self._sampler), _NOTHING) is not _NOTHING:
            self._load_sampler()
        return iter(())

    def _skip(self, items: Iterator[Any], count: int) -> None:
        left = count
        while left and (skipped := list(islice(items, min(left, _AT_ONCE)))):
            left -= len(skipped)
            for piece in map(indices_of, skipped) if self._nested else (skipped,):
                self._checksum = _checksum(self._checksum, piece)
        if self._checksum != self._origin.get("checksum", self._checksum):
            raise StateError(
                f"the sampler {type(self._sampler).__qualname__} doesn't give the indices again that it gave "
                f"in the run that was saved, so this one can't go on where that stopped: make its order a "
                f"function of a seed, or give it state_dict() and load_state_dict()."
            )

    # -- where it stands -------------------------------------------------------------------------

    def note(self, given: int, batch: tuple[Any, ...], wanted_from: int, last: bool) -> None:
        self._checksum = _checksum(self._checksum, batch)
        self._marks[given] = self._mark() | ({"last": True} if last else {})
        for old in [mark for mark in islice(self._marks, 2) if mark < wanted_from]:
            del self._marks[old]

    def _mark(self) -> Origin:
        things = {"sampler": self._sampler, "iterator": self._iterator}
        states = {name: copy.deepcopy(it.state_dict()) for name, it in things.items() if is_stateful(it)}
        return states or {"checksum": self._checksum}

    def origin(self, given: int) -> Origin:
        if not self._marks:  # not begun
            return dict(self._origin) or self.outlook()
        mark = self._marks[given]
        has_state = mark.keys() & {"sampler", "iterator"}
        return copy.deepcopy(mark) if has_state else {**self._beginning, **mark}

    def outlook(self, besides: Any = None) -> Origin:
        if is_stateful(self._sampler):
            return {"sampler": copy.deepcopy(self._sampler.state_dict()), "ended": True}
        return self._sources(besides)

    def _sources(self, besides: Any = None) -> Origin:
        sources = sources_of(self._sampler).items()
        return {"sources": {name: state_of(source) for name, source in sources if source is not besides}}


def _plain_call(_: str, function: Callable[[], Any]) -> Any:
    return function()


def _checksum(before: int, indices: Iterable[Any]) -> int:
    """Of all indices together, however they come in batches; only of those that are integers."""
    try:
        return zlib.crc32(array("q", indices), before)
    except (TypeError, OverflowError):
        pass
    for index in indices:
        try:
            before = zlib.crc32(array("q", (index,)), before)
        except (TypeError, OverflowError):
            continue
    return before
