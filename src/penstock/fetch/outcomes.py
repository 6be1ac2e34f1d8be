"""What can come of a task, and the time it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.collate import Spec
from penstock.streams import Standing


@dataclass(frozen=True, slots=True)
class Rows:
    """The task's samples stand in their rows of the slot, laid out as `spec` says."""

    spec: Spec
    rows: int
    """Of the whole batch."""
    left_out: tuple[int, ...] = ()
    """The rows of bad samples, which hold nothing."""


@dataclass(frozen=True, slots=True)
class Block:
    """The whole batch stands in the slot as `collate.BlockWriter` writes it."""

    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Direct:
    """The whole batch as an object; only where the caller is in the same process."""

    batch: Any


@dataclass(frozen=True, slots=True)
class NotRegular:
    """The samples can't be placed as rows; the batch has to be collated as a whole."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The iterable dataset of this process has no further batch."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """All samples of the task were bad."""

    left_out: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """The task was abandoned."""


@dataclass(slots=True)
class Failed:
    """User code raised.

    Attributes:
        error: the exception, with its traceback where it was raised in this process.
        position: of the sample in the batch, or None in collating.
        text: the formatted traceback.
    """

    error: BaseException
    position: int | None
    text: str

    def take(self) -> BaseException:
        """The error, which is kept no longer: its traceback leads to frames that may keep this."""
        error, self.error = self.error, RuntimeError("raised already")
        return error


Outcome = Rows | Block | Direct | NotRegular | Exhausted | LeftOut | Dropped | Failed


@dataclass(slots=True)
class Timing:
    """How many samples one task made, the seconds it took, and when it ended (``time.perf_counter``, which is
    one clock for all processes); how the iterator over an iterable dataset stands after it."""

    fetch_s: float = 0.0
    collate_s: float = 0.0
    samples: int = 0
    standing: Standing | None = None
    ended: float = 0.0
