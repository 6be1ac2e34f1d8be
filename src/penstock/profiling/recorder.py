"""Times a training loop from inside its loader's iterator. Only arithmetic: the clocks can be injected."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(slots=True)
class _Batch:
    """One batch, from the moment that it was asked for."""

    asked: float
    got: float
    samples: int
    wait_cpu: float | None = None
    step_cpu: float | None = None
    ended: float | None = None


class LoopRecorder:
    """Of one loop over a loader, for any number of epochs.

    `begin`, then for each batch `ask` and `got`, then `ask` and `end`; `close` where the loop is left early.
    `settle` batches after the first aren't counted: the workers' head start is in them.
    """

    def __init__(self, settle: int = 0, clocks: Clocks | None = None) -> None:
        self._settle, self._clocks = settle, clocks or Clocks()
        self._begun = self._asked = 0.0
        self._iterating, self._lasted = False, 0.0
        self._thread = self._process = 0.0
        self._reads_cpu = False
        self._epochs = 0
        self._first_s: float | None = None
        self._gaps: list[float] = []
        self._end_s = 0.0
        self._in_epoch = 0
        self._open: _Batch | None = None
        self._counted: list[_Batch] = []
        self.batches = 0
        self.started: float | None = None

    def begin(self) -> None:
        """``iter()`` is called."""
        self.close()
        now = self._clocks.wall()
        if self._iterating:  # the epoch before was left early, nobody knows when
            self._over(now)
        self._begun, self._iterating = now, True
        self.started = self._begun if self.started is None else self.started
        self._epochs += 1
        self._in_epoch = 0

    def ask(self) -> float:
        """``next()`` is called: the step before it is over. Returns the time."""
        self._asked = self._clocks.wall()
        if self._open is not None:
            self._open.ended = self._asked
            if self._open.wait_cpu is not None:
                self._open.step_cpu = self._clocks.process_cpu() - self._process
            self._counted.append(self._open)
            self._open = None
        self._reads_cpu = self.batches % CPU_EVERY == 1
        if self._reads_cpu:
            self._thread = self._clocks.thread_cpu()
        return self._asked

    def got(self, samples: int) -> float:
        """A batch is there. Returns the time."""
        now = self._clocks.wall()
        used = None
        if self._reads_cpu:
            used = self._clocks.thread_cpu() - self._thread
            self._process = self._clocks.process_cpu()
        if self._in_epoch == 0:
            self._first_batch(now)
        else:
            self._open = _Batch(self._asked, now, samples, used)
        self._in_epoch += 1
        self.batches += 1
        return now

    def _first_batch(self, now: float) -> None:
        if self._first_s is None:
            self._first_s = now - self._begun
        if self._epochs > 1:
            self._gaps.append(now - self._begun + self._end_s)

    def end(self) -> None:
        """``StopIteration`` is about to be raised."""
        now = self._clocks.wall()
        self._end_s = now - self._asked
        self._over(now)

    def _over(self, now: float) -> None:
        self._lasted += now - self._begun
        self._iterating = False

    def close(self) -> None:
        """Nobody will tell how long the last step took."""
        self._open = None
        self._end_s = 0.0 if self._in_epoch == 0 else self._end_s

    @property
    def elapsed(self) -> float:
        """Seconds from ``iter()`` to ``StopIteration``, of all epochs."""
        return self.elapsed_at(self._clocks.wall())

    def elapsed_at(self, now: float) -> float:
        """The same, where it is known what time it is."""
        return self._lasted + (now - self._begun if self._iterating else 0.0)

    @property
    def spent(self) -> float:
        """Seconds of waiting and stepping that were counted."""
        return sum((batch.ended or batch.got) - batch.asked for batch in self._counted)

    def loop(self) -> Loop | None:
        """What was measured; None before two batches were there."""
        skip = self._settle if len(self._counted) > 3 * self._settle else 0
        batches = self._counted[skip:]
        if not batches or self._first_s is None:
            return None
        return Loop(
            len(batches),
            sum(batch.samples for batch in batches),
            tuple(batch.got - batch.asked for batch in batches),
            tuple((batch.ended or batch.got) - batch.got for batch in batches),
            self._first_s,
            mean(self._gaps) if self._gaps else None,
            self._epochs,
            mean(batch.wait_cpu for batch in batches if batch.wait_cpu is not None),
            mean(batch.step_cpu for batch in batches if batch.step_cpu is not None),
        )


class CeilingRecorder:
    """Of the same loop, with one batch again and again; the first round isn't counted."""

    def __init__(self, clocks: Clocks | None = None) -> None:
        self._clocks = clocks or Clocks()
        self._given: tuple[float, float] | None = None
        self._rounds: list[tuple[float, float]] = []

    def asked(self) -> None:
        now, cpu = self._clocks.wall(), self._clocks.process_cpu()
        if self._given is not None:
            self._rounds.append((now - self._given[0], cpu - self._given[1]))

    def gives(self) -> None:
        self._given = self._clocks.wall(), self._clocks.process_cpu()

    @property
    def rounds(self) -> int:
        return len(self._rounds)

    @property
    def seconds(self) -> float:
        return sum(wall for wall, _ in self._rounds)

    def ceiling(self) -> Ceiling | None:
        counted = self._rounds[1:] or self._rounds
        if not counted:
            return None
        return Ceiling(len(counted), mean(wall for wall, _ in counted), mean(cpu for _, cpu in counted))
