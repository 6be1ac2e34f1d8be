"""Where an epoch stands: which of its batches were handed over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.at_hand import NOTHING, AtHand


@dataclass(frozen=True, slots=True)
class Place:
    """Where an epoch stands; plain enough for JSON.

    Attributes:
        count: how many of its batches were handed over.
        missing: the numbers of those that weren't, while a later one was.
        origin: from what its order can be made again.
    """

    count: int = 0
    missing: Sequence[int] = ()
    origin: dict[str, Any] = field(default_factory=dict)


class Progress:
    """Which batches were handed over: all before `next` but the `missing` ones, which are few.

    Those that are at hand count in `now` only. One thread changes it; any may ask for `now` meanwhile.
    """

    def __init__(self, count: int = 0, missing: Iterable[int] = ()) -> None:
        """`count` were, and those `missing` have later ones among these."""
        self.missing = set(missing)
        self.next = count + len(self.missing)
        self._at_hand = NOTHING

    @property
    def count(self) -> int:
        return self.next - len(self.missing)

    @property
    def wanted_from(self) -> int:
        """The first that was not."""
        return min(self.missing, default=self.next)

    def wants(self, number: int) -> bool:
        return number >= self.next or number in self.missing

    def follow(self, at_hand: AtHand) -> None:
        """Count these as they are handed over; of those before no more will be."""
        self._add_given(self._at_hand)
        self._at_hand = at_hand

    def now(self) -> Progress:
        """A copy, with those that were handed over by now."""
        at_hand = self._at_hand  # first: what was given of it may be added meanwhile, but is once only
        now = Progress()
        now.missing, now.next = set(self.missing), self.next
        now._add_given(at_hand)
        return now

    def _add_given(self, at_hand: AtHand) -> None:
        numbers = at_hand.numbers[: at_hand.given]
        if isinstance(numbers, range) and numbers and numbers[0] == self.next:
            self.next = numbers[-1] + 1
            return
        for number in numbers:
            self.add(number)

    def add(self, number: int) -> None:
        if number == self.next:
            self.next += 1
            return
        self.missing.update(range(self.next, number))
        self.missing.discard(number)
        self.next = max(self.next, number + 1)
