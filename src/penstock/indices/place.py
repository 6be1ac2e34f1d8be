"""Where an epoch stands: which of its batches were handed over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


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
    """Which batches were handed over: all before `next` but the `missing` ones, which are few."""

    def __init__(self, count: int = 0, missing: Iterable[int] = ()) -> None:
        """`count` were, and those `missing` have later ones among these."""
        self.missing = set(missing)
        self.next = count + len(self.missing)

    @property
    def count(self) -> int:
        return self.next - len(self.missing)

    @property
    def wanted_from(self) -> int:
        """The first that was not."""
        return min(self.missing, default=self.next)

    def wants(self, number: int) -> bool:
        return number >= self.next or number in self.missing

    def add(self, number: int) -> None:
        if number == self.next:
            self.next += 1
            return
        self.missing.update(range(self.next, number))
        self.missing.discard(number)
        self.next = max(self.next, number + 1)
