"""What is done about samples that fail and workers that die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """The user's choice.

    Attributes:
        max_retries: how many workers one sample may kill before it counts as bad.
    """

    max_retries: int = 3

    def __post_init__(self) -> None:
        if self.max_retries < 1:
            raise ValueError(f"max_retries should be 1 or more, but got {self.max_retries}")


class Deaths:
    """Counts what workers died of, to tell bad luck from a cause that stays."""

    def __init__(self, policy: Policy) -> None:
        self._limit = policy.max_retries
        self._count: Counter[Hashable] = Counter()

    def add(self, cause: Hashable) -> bool:
        """Count one more of this cause; whether there were too many of it."""
        self._count[cause] += 1
        return self._count[cause] >= self._limit

    def of(self, cause: Hashable) -> int:
        return self._count[cause]

    def forget(self, cause: Hashable) -> None:
        """It did no harm after all."""
        self._count.pop(cause, None)
