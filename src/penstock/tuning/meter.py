"""Makes an observation of what was seen batch by batch."""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from penstock.tuning.observation import Observation

FEWEST_BATCHES, MOST_BATCHES = 8, 24
FEWEST_BLOCKS = 3
PATIENT_BATCHES = 64
"""An observation of a patient meter covers so many."""
ENOUGH_S = 0.02
"""An observation goes on to `MOST_BATCHES` while it covers less than this many seconds."""


class Totals(NamedTuple):
    """Counts from the start of the epoch on: seconds of the workers' time, the samples they made in it, the
    samples handed over, and seconds of processor time of the training process."""

    work_s: float
    made: int
    samples: int
    cpu_s: float


class _Block(NamedTuple):
    batches: int
    cycle_s: float
    step_s: float
    hand_s: float
    work_s: float | None
    main_cpu: float


class Span:
    """Batches that came one after the other.

    Attributes:
        count: how many they are.
    """

    def __init__(self, start: Totals) -> None:
        self._start = start
        self.count = 0
        self._wait = self._step = self._hand = 0.0

    def add(self, wait_s: float, step_s: float, hand_s: float) -> None:
        """One batch more, as in `Meter.add`."""
        self.count += 1
        self._wait += wait_s
        self._step += step_s
        self._hand += hand_s

    def add_last_step(self, step_s: float) -> None:
        """That after the last batch; the one before the first isn't known then."""
        self._step += step_s

    def block(self, totals: Totals) -> _Block:
        start, count = self._start, self.count
        made, cycle = totals.made - start.made, self._wait + self._step
        work = None
        if made:
            work = (totals.work_s - start.work_s) / made * (totals.samples - start.samples) / count
        cpu = (totals.cpu_s - start.cpu_s) / cycle if cycle else 0.0
        return _Block(count, cycle / count, self._step / count, self._hand / count, work, cpu)


class Meter:
    """Of one number of workers.

    Workers deliver in bursts, each one batch after about the same time. So the batches are looked at in
    blocks of as many as there are workers; and as a disturbance hits one block, the median of these counts.

    The beginning of an epoch is left out: all workers are at its first batch, and they may have to start. But
    an epoch without a block after that consists of its beginning, and is one block as a whole (`add_block`).

    A median knows nothing of batches that are rare and slow. A patient meter takes, of many, the mean of what
    they are waited for and of the work in them; of the steps still the median, as a pause is no step.
    """

    def __init__(self, workers: int, totals: Totals, patient: bool = False) -> None:
        self.workers = workers
        self._size, self._patient = max(2, workers), patient
        self._blocks: list[_Block] = []
        self.begin_block(totals)

    def begin_block(self, totals: Totals) -> None:
        """Leave out what the last block has so far: an epoch begins, with totals of its own."""
        self._span = Span(totals)

    @property
    def between_blocks(self) -> bool:
        return not self._span.count

    def add(self, wait_s: float, step_s: float, hand_s: float, totals: Totals) -> Observation | None:
        """One batch more: how long the caller waited for it, in which it computed `hand_s`, and what the step
        before it took. An observation, once there is enough for one."""
        self._span.add(wait_s, step_s, hand_s)
        return self.add_block(self._span, totals) if self._span.count == self._size else None

    def add_block(self, span: Span, totals: Totals) -> Observation | None:
        """These batches are a block, however many they are."""
        self._blocks.append(span.block(totals))
        self.begin_block(totals)
        return self._observation() if self._enough() else None

    def _enough(self) -> bool:
        blocks = self._blocks
        batches = sum(block.batches for block in blocks)
        if len(blocks) < FEWEST_BLOCKS or batches < FEWEST_BATCHES or all(b.work_s is None for b in blocks):
            return False
        if self._patient:
            return batches >= PATIENT_BATCHES
        seconds = sum(block.cycle_s * block.batches for block in blocks)
        return batches + self._size > MOST_BATCHES or seconds >= ENOUGH_S

    def _observation(self) -> Observation:
        blocks = self._blocks
        step = median(block.step_s for block in blocks)
        cycle = median(block.cycle_s for block in blocks)
        made = [(block.batches, block.work_s) for block in blocks if block.work_s is not None]
        work = median(work_s for _, work_s in made)
        if self._patient:
            cycle = step + _mean([(block.batches, block.cycle_s - block.step_s) for block in blocks])
            work = _mean(made)
        return Observation(
            self.workers,
            max(cycle, work / self.workers),  # what came faster than it is made had been in store
            step,
            median(block.hand_s for block in blocks),
            work,
            median(block.main_cpu for block in blocks),
        )


def _mean(figures: list[tuple[int, float]]) -> float:
    """Of so many batches each."""
    return sum(batches * each for batches, each in figures) / sum(batches for batches, _ in figures)
