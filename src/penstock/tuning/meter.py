"""Makes an observation of what was seen batch by batch."""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from penstock.tuning.observation import Observation

FEWEST_BATCHES, MOST_BATCHES = 8, 24
FEWEST_BLOCKS = 3
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
    cycle_s: float
    step_s: float
    hand_s: float
    work_s: float | None
    main_cpu: float


class Meter:
    """Of one number of workers.

    Workers deliver in bursts, each one batch after about the same time. So the batches are looked at in
    blocks of as many as there are workers; and as a disturbance hits one block, the median of these counts.
    """

    def __init__(self, workers: int, totals: Totals) -> None:
        self.workers = workers
        self._size = max(2, workers)
        self._least = max(FEWEST_BLOCKS, -(-FEWEST_BATCHES // self._size))
        self._most = max(self._least, MOST_BATCHES // self._size)
        self._blocks: list[_Block] = []
        self.begin_block(totals)

    def begin_block(self, totals: Totals) -> None:
        """Leave out what the last block has so far: an epoch begins, with totals of its own."""
        self._start = totals
        self._count = 0
        self._wait = self._step = self._hand = 0.0

    def add(self, wait_s: float, step_s: float, hand_s: float, totals: Totals) -> Observation | None:
        """One batch more: how long the caller waited for it, in which it computed `hand_s`, and what the step
        before it took. An observation, once there is enough for one."""
        self._count += 1
        self._wait += wait_s
        self._step += step_s
        self._hand += hand_s
        if self._count == self._size:
            self._blocks.append(self._block(totals))
            self.begin_block(totals)
        return self._observation() if self._enough() else None

    def _block(self, totals: Totals) -> _Block:
        start, size = self._start, self._size
        made, cycle = totals.made - start.made, self._wait + self._step
        work = None
        if made:
            work = (totals.work_s - start.work_s) / made * (totals.samples - start.samples) / size
        cpu = (totals.cpu_s - start.cpu_s) / cycle if cycle else 0.0
        return _Block(cycle / size, self._step / size, self._hand / size, work, cpu)

    def _enough(self) -> bool:
        blocks = self._blocks
        if self._count or len(blocks) < self._least or all(block.work_s is None for block in blocks):
            return False
        return len(blocks) >= self._most or sum(b.cycle_s for b in blocks) * self._size >= ENOUGH_S

    def _observation(self) -> Observation:
        blocks = self._blocks
        return Observation(
            self.workers,
            median(block.cycle_s for block in blocks),
            median(block.step_s for block in blocks),
            median(block.hand_s for block in blocks),
            median(block.work_s for block in blocks if block.work_s is not None),
            median(block.main_cpu for block in blocks),
        )
