"""What is done about samples that fail and workers that die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

ON_ERROR = "raise", "skip", "replace"


@dataclass(frozen=True, slots=True)
class Policy:
    """The user's choice.

    Attributes:
        on_error: "raise"; "skip", which leaves a bad sample out; or "replace", by another of the dataset.
        max_errors: how many bad samples end the run: a number, or a share of all (a float below 1).
        none_is_error: whether a sample that is None is bad; left out, for "skip" and "replace" alone.
        max_retries: how many workers one sample may kill before it counts as bad.
        sample_timeout: how many seconds a sample may take in a worker before it counts as bad.

    Raises:
        ValueError: if one of them isn't such a value.
    """

    on_error: str = "raise"
    max_errors: float | None = None
    none_is_error: bool | None = None
    max_retries: int = 3
    sample_timeout: float | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error should be 'raise', 'skip' or 'replace', but got {self.on_error!r}")
        if self.max_errors is not None and not (_is(Real, self.max_errors) and self.max_errors >= 0):
            raise ValueError(f"max_errors should be a number or a share, but got {self.max_errors!r}")
        if not (_is(Integral, self.max_retries) and self.max_retries >= 1):
            raise ValueError(f"max_retries should be 1 or more, but got {self.max_retries!r}")
        limit = self.sample_timeout
        if limit is not None and not (_is(Real, limit) and limit > 0):
            raise ValueError(f"sample_timeout should be more than 0 seconds, but got {limit!r}")

    @property
    def tolerant(self) -> bool:
        """Whether a bad sample leaves the rest of its batch as it is."""
        return self.on_error != "raise"

    @property
    def refuses_none(self) -> bool:
        return self.tolerant if self.none_is_error is None else self.none_is_error


def _is(kind: Any, value: object) -> bool:
    return isinstance(value, kind)


class Deaths:
    """Counts what workers died of, to tell bad luck from a cause that stays."""

    def __init__(self, policy: Policy) -> None:
        self._limit = policy.max_retries
        self._count: Counter[Hashable] = Counter()

    def add(self, cause: Hashable) -> bool:
        """Count one more of this cause; whether there were too many of it."""
        self._count[cause] += 1
        return self._count[cause] >= self._limit

    def forget(self, cause: Hashable) -> None:
        """It did no harm after all."""
        self._count.pop(cause, None)
