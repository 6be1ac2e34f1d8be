"""Batches that are had some at a time, from memory, and how many of them were handed over.

To hand one over is to take the next one from an iterator, which takes no lock. Who keeps books of what was
handed over isn't told of each, which would take longer, but looks here when asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import Any


class AtHand:
    """Some batches of an epoch; any thread may take the next one, and ask how many were taken.

    Args:
        numbers: of all the batches, in the epoch.
        sizes: how many samples each has.
        pieces: the parts that some of the batches are made of, then those of some more, and so on; each has
            one at least, is a list or an array, whose iterators know how much is left, and is made when it is
            asked for.
        make: makes a batch of its part.

    Attributes:
        batches: those of the latest piece that are left, each made when it is asked for.
    """

    def __init__(
        self,
        numbers: Sequence[int] = (),
        sizes: Sequence[int] = (),
        pieces: Iterable[Any] = (),
        make: Callable[[Any], Any] = iter,
    ) -> None:
        self.numbers, self.sizes = numbers, sizes
        self._pieces, self._make = iter(pieces), make
        self.batches: Iterator[Any] = iter(())
        self._latest: tuple[int, Iterator[Any]] = 0, self.batches
        """How many batches there are up to the end of the latest piece, and its parts that are left."""

    @property
    def given(self) -> int:
        """How many were handed over."""
        reached, left = self._latest
        return reached - length_hint(left)

    def go_on(self) -> int:
        """Have the next piece; one thread at a time, when all batches of the latest were taken.

        Returns:
            How many samples it has; 0 if there are no more batches.
        """
        parts = next(self._pieces, None)
        if parts is None:
            return 0
        count = len(parts)
        begin, left = self._latest[0], iter(parts)
        self._latest = begin + count, left
        self.batches = map(self._make, left)
        return sum(self.sizes[begin : begin + count])

    def drop(self) -> None:
        """Let go of those that weren't handed over."""
        self._latest = self.given, iter(())
        self.batches = self._pieces = iter(())
        self._make = iter


NOTHING = AtHand()
NONE_LEFT = object()
"""Instead of a batch, where none is at hand."""
