"""Times a training loop from inside its loader's iterator. Only arithmetic: the clocks can be injected."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.profiling.data import Ceiling, Loop
from penstock.profiling.figures import mean

Clock = Callable[[], float]
CPU_EVERY = 8
"""The CPU clocks are read for one batch in so many: the kernel has to be asked, which takes microseconds."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """What is read at each batch: the time, and the CPU time of the loop's thread and of its process."""

    wall: Clock = time.perf_counter
    thread_cpu: Clock = time.thread_time
    process_cpu: Clock = time.process_time


UNKNOWN = float("inf")
"""The end of a step that isn't over, or of which nobody was told that it is."""
NOT_COUNTED = -1
"""The samples of a batch that wasn't looked at."""


@dataclass(slots=True)
class _Batches:
    """All batches up to now, each with the moments at which it was asked for, came and was done with.

    Numbers in arrays, which the garbage collector has nothing to look through.
    """

    asked: array[float] = field(default_factory=lambda: array("d"))
    got: array[float] = field(default_factory=lambda: array("d"))
    done: array[float] = field(default_factory=lambda: array("d"))
    samples: array[int] = field(default_factory=lambda: array("q"))


class LoopRecorder:
    """Of one loop over a loader, for any number of epochs.

    `begin`, then for each batch `ask` and `got`, then `ask` and `end`; `close` where the loop is left early.
    An epoch's first batch isn't counted, nor are `settle` batches after the very first: the workers' head
    start is in them.

    Attributes:
        batches: how many there were.
        wall: the clock.
        asked: when ``next()`` was called last.
        passed: of each batch of which nothing but the time is to be known, when it was asked for and when it
            came; whoever notes that here sets `asked` as well. None is the first of an epoch.
        started: when ``iter()`` was called first.
    """

    def __init__(self, settle: int = 0, clocks: Clocks | None = None) -> None:
        self._settle, self._clocks = settle, clocks or Clocks()
        self.wall = self._clocks.wall
        self._begun = self.asked = 0.0
        self._iterating, self._lasted = False, 0.0
        self._thread = self._process = 0.0
        self._reads_cpu = self._stepping = False
        self._gaps: list[float] = []
        self._end_s = 0.0
        self._batches = _Batches()
        self._firsts: list[int] = []
        self._first_s: float | None = None
        self._in_epoch = False
        self._epochs = 0
        self._cpu: dict[int, tuple[float, float]] = {}
        """CPU time of waiting and of the step, by the batch's number."""
        self.batches = 0
        self.passed: list[float] = []
        self.started: float | None = None

    def begin(self) -> None:
        """``iter()`` is called."""
        self.close()
        now = self.wall()
        if self._iterating:  # the epoch before was left early, nobody knows when
            self._over(now)
        self._begun, self._iterating = now, True
        self.started = self._begun if self.started is None else self.started
        self._epochs += 1
        self._in_epoch = False

    def ask(self) -> None:
        """``next()`` is called: the step before it is over."""
        if self.passed:
            self._take_in_passed()
        self.asked = now = self.wall()
        if self._stepping:
            self._stepping = False
            self._batches.done[-1] = now
            if self._reads_cpu:
                self._cpu[self.batches - 1] = self._thread, self._clocks.process_cpu() - self._process
        self._reads_cpu = self.batches % CPU_EVERY == 1
        if self._reads_cpu:
            self._thread = self._clocks.thread_cpu()

    def _take_in_passed(self) -> None:
        """Count them with the others."""
        asked, got, batches = self.passed[::2], self.passed[1::2], self._batches
        self.passed.clear()
        if self._stepping:
            batches.done[-1] = asked[0]
        batches.asked.extend(asked)
        batches.got.extend(got)
        batches.done.extend(asked[1:])
        batches.done.append(UNKNOWN)
        batches.samples.extend(NOT_COUNTED for _ in asked)
        self._stepping, self._reads_cpu = True, False
        self.batches += len(asked)

    def got(self, samples: int) -> float:
        """A batch is there. Returns the time."""
        now, batches = self.wall(), self._batches
        if self._reads_cpu:
            self._thread = self._clocks.thread_cpu() - self._thread
            self._process = self._clocks.process_cpu()
        if not self._in_epoch:
            self._first_batch(now)
        batches.asked.append(self.asked)
        batches.got.append(now)
        batches.done.append(UNKNOWN)
        batches.samples.append(samples)
        self._stepping = True
        self.batches += 1
        return now

    def _first_batch(self, now: float) -> None:
        self._in_epoch = True
        self._firsts.append(self.batches)
        if self._first_s is None:
            self._first_s = now - self._begun
        if self._epochs > 1:
            self._gaps.append(now - self._begun + self._end_s)

    def end(self) -> None:
        """``StopIteration`` is about to be raised."""
        now = self.wall()
        if self.passed:
            self._take_in_passed()
        if self._stepping:  # it ended where a batch would have been passed by
            self._stepping = False
            self._batches.done[-1] = self.asked
        self._end_s = now - self.asked
        self._over(now)

    def _over(self, now: float) -> None:
        self._lasted += now - self._begun
        self._iterating = False

    def close(self) -> None:
        """Nobody will tell how long the last step took."""
        if self.passed:
            self._take_in_passed()
        self._stepping = False
        self._end_s = 0.0 if not self._in_epoch else self._end_s

    @property
    def elapsed(self) -> float:
        """Seconds from ``iter()`` to ``StopIteration``, of all epochs; of one that is left early, to the next
        ``iter()``, as nobody tells when it was."""
        return self.elapsed_at(self.wall())

    def elapsed_at(self, now: float) -> float:
        """The same, where it is known what time it is."""
        return self._lasted + (now - self._begun if self._iterating else 0.0)

    @property
    def spent(self) -> float:
        """Seconds of waiting and stepping that were counted."""
        counted = self._counted()
        return float((_of(self._batches.done) - _of(self._batches.asked))[counted].sum())

    def moments(self, most: int) -> list[tuple[float, float, float]]:
        """When the first so many batches were asked for, came and were done with (`UNKNOWN`: nobody told)."""
        columns = self._batches.asked, self._batches.got, self._batches.done
        return list(zip(*(column[:most] for column in columns), strict=True))

    def _counted(self) -> NDArray[np.intp]:
        """Which batches count, but for those in which the workers' head start may be."""
        known = np.isfinite(_of(self._batches.done))
        known[self._firsts] = False
        return np.flatnonzero(known)

    def loop(self) -> Loop | None:
        """What was measured; None before two batches were there."""
        counted, batches = self._counted(), self._batches
        if len(counted) > 3 * self._settle:
            counted = counted[self._settle :]
        if not len(counted) or self._first_s is None:
            return None
        asked, got, done = (_of(column)[counted] for column in (batches.asked, batches.got, batches.done))
        cpu = [self._cpu[number] for number in counted.tolist() if number in self._cpu]
        return Loop(
            len(counted),
            self._samples_of(counted),
            tuple((got - asked).tolist()),
            tuple((done - got).tolist()),
            self._first_s,
            mean(self._gaps) if self._gaps else None,
            self._epochs,
            mean(waiting for waiting, _ in cpu),
            mean(stepping for _, stepping in cpu),
        )

    def _samples_of(self, counted: NDArray[np.intp]) -> int:
        """In these batches; those that weren't looked at hold as many as others."""
        every = _of(self._batches.samples)
        seen, known = every[counted], every[every != NOT_COUNTED]
        missing = int((seen == NOT_COUNTED).sum())
        return int(seen[seen != NOT_COUNTED].sum()) + round(missing * float(known.mean()))


def _of(column: array[Any]) -> NDArray[Any]:
    """A copy: the array itself must stay free to grow."""
    return np.array(column)


class CeilingRecorder:
    """Of the same loop, with one batch again and again; the first round isn't counted. What the program does
    between two epochs (`begin`) is no round.

    Attributes:
        epochs: how many were begun.
        seconds: that all rounds took.
        copy_s: as in `Ceiling`, if somebody measured it.
    """

    def __init__(self, clocks: Clocks | None = None) -> None:
        self._clocks = clocks or Clocks()
        self._given: tuple[float, float] | None = None
        self.epochs, self.seconds = 1, 0.0
        self.copy_s: float | None = None
        self._rounds: list[tuple[float, float]] = []

    def begin(self) -> None:
        self._given = None
        self.epochs += 1

    def asked(self) -> None:
        now, cpu = self._clocks.wall(), self._clocks.process_cpu()
        if self._given is not None:
            self._rounds.append((now - self._given[0], cpu - self._given[1]))
            self.seconds += now - self._given[0]

    def gives(self) -> None:
        self._given = self._clocks.wall(), self._clocks.process_cpu()

    @property
    def rounds(self) -> int:
        return len(self._rounds)

    def ceiling(self) -> Ceiling | None:
        counted = self._rounds[1:] or self._rounds
        if not counted:
            return None
        wall_s, cpu_s = mean(wall for wall, _ in counted), mean(cpu for _, cpu in counted)
        return Ceiling(len(counted), wall_s, cpu_s, self.copy_s)
