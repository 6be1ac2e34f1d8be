"""Batches that lie in memory, and how many of them were handed over.

To hand one over is to pop its part, which takes no lock, and to make the batch of it. Who keeps books of what
was handed over isn't told of each, which would take longer, but looks here when asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any


class AtHand:
    """Some batches of an epoch; any thread may pop their parts, and ask how many were.

    Attributes:
        parts: what those that are left are made of.
        make: makes a batch of its part.
        numbers: of all the batches, in the epoch.
        sizes: how many samples each has.
    """

    def __init__(
        self,
        parts: Iterable[Any] = (),
        make: Callable[[Any], Any] = iter,
        numbers: Sequence[int] = (),
        sizes: Sequence[int] = (),
    ) -> None:
        self.parts, self.make = deque(parts), make
        self.numbers, self.sizes = numbers, sizes
        self._counted: tuple[deque[Any], int] = self.parts, len(sizes)

    @property
    def given(self) -> int:
        """How many were handed over."""
        left, count = self._counted
        return count - len(left)

    def drop(self) -> None:
        """Let go of those that weren't."""
        self._counted = deque(), self.given
        self.parts = self._counted[0]


NOTHING = AtHand()
