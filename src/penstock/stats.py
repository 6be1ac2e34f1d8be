"""Counters and timers of one loader, and the frozen snapshot that ``loader.stats()`` returns.

The recorder is written by the engine alone, in the process and thread that calls ``next()``.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from penstock.at_hand import NOTHING, AtHand

Clock = Callable[[], float]

observers: list[Callable[[float], None]] = []
"""Each is told of every batch that is handed over in this process: the seconds that its caller waited."""


task_observers: list[Callable[[int, int, float, float, float], None]] = []
"""Each is told of every task that is done for this process: the worker's number, how many samples it made,
when it ended by ``time.perf_counter``, and the seconds that it took in ``dataset[i]`` and in collating."""


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What one worker did: times in seconds."""

    samples: int = 0
    tasks: int = 0
    fetch_s: float = 0.0
    """In ``dataset[i]``."""
    collate_s: float = 0.0
    """Collating, and placing into shared memory."""

    @property
    def busy_s(self) -> float:
        return self.fetch_s + self.collate_s


@dataclass(frozen=True, slots=True)
class Decision:
    """What ``num_workers="auto"`` decided."""

    batch: int
    """How many batches the loader had handed over by then, over all epochs."""
    workers: int
    """How many workers there are from then on; 0 for none."""
    prefetch_factor: int
    """How many batches each has ahead, at least."""
    settled: bool
    """Whether the search is over; otherwise this is tried."""
    why: str


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache did up to now, in all processes that share it; times in seconds, sizes in bytes."""

    samples: int = 0
    """Samples of the dataset."""
    stored: int = 0
    """Of these, in memory."""
    stored_bytes: int = 0
    """What they take."""
    budget: int = 0
    """What they may take."""
    left_out: int = 0
    """Samples that were made and not stored, as there was no room for them or they can't be pickled."""
    hits: int = 0
    """Samples that were found in the cache, in memory or on the disk."""
    misses: int = 0
    """Samples that had to be made."""
    saved_s: float = 0.0
    """The time that making the found ones took when they were made, all processes together; of those that
    came into memory from the disk, reading them."""
    on_disk: int = 0
    """Samples that are on the disk."""
    disk_bytes: int = 0
    """What their files take."""


@dataclass(frozen=True, slots=True)
class Stats:
    """One epoch of a loader up to now; times in seconds, sizes in bytes."""

    batches: int = 0
    """Batches handed over."""
    samples: int = 0
    """Samples in them."""
    wait_s: float = 0.0
    """Time that ``next()`` kept its caller waiting for a batch (the data stall)."""
    first_batch_s: float | None = None
    """From ``iter()`` to the first batch in hand; None before that."""
    batch_bytes: int = 0
    """Bytes handed over through shared memory."""
    copied_batches: int = 0
    """Batches copied out, as the memory budget was held by batches that the user keeps."""
    slots: int = 0
    """Slots of shared memory made so far."""
    slots_in_use: int = 0
    """Slots that a batch in the making or a batch of the user's holds."""
    workers_replaced: int = 0
    """Workers that died, and whose place another took."""
    batches_left_out: int = 0
    """Batches of which every sample was bad."""
    workers: Mapping[int, WorkerStats] = field(default_factory=lambda: MappingProxyType({}))
    """By the worker's number; 0 is the calling process when ``num_workers=0``."""
    decisions: tuple[Decision, ...] = ()
    """What ``num_workers="auto"`` decided, in this epoch and those before it; the last one holds."""
    cache: CacheStats | None = None
    """What the dataset's `penstock.cache` did since it was made, for all who read it; None if it has none."""


@dataclass(slots=True)
class _Tally:
    """Of one worker."""

    samples: int = 0
    tasks: int = 0
    fetch_s: float = 0.0
    collate_s: float = 0.0

    def stats(self) -> WorkerStats:
        return WorkerStats(self.samples, self.tasks, self.fetch_s, self.collate_s)


class Recorder:
    """Counts one epoch; `clock` returns seconds.

    Attributes:
        decisions: what the snapshot is to tell of, now and later.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self.decisions: Sequence[Decision] = ()
        self._start = clock()
        self._batches = self._samples = self._bytes = self._copied = 0
        self._at_hand = 0, 0, NOTHING
        """How many batches, of how many samples, were handed over of those that were at hand; and those that
        are."""
        self._fetched = self._replaced = self._left_out = 0
        self._wait = self._work_s = self._untold = 0.0
        self._first: float | None = None
        self._workers: defaultdict[int, _Tally] = defaultdict(_Tally)

    def task_done(
        self, worker: int, samples: int, fetch_s: float, collate_s: float, ended: float = 0.0
    ) -> None:
        tally = self._workers[worker]
        tally.samples += samples
        tally.tasks += 1
        tally.fetch_s += fetch_s
        tally.collate_s += collate_s
        self._fetched += samples
        self._work_s += fetch_s + collate_s
        for tell in task_observers:
            tell(worker, samples, ended, fetch_s, collate_s)

    def batch_left_out(self) -> None:
        self._left_out += 1

    def worker_replaced(self) -> None:
        self._replaced += 1

    def batch_out(self, samples: int, waited_since: float, nbytes: int, copied: bool) -> None:
        """Count one batch handed over now, to a caller that has waited since `waited_since`."""
        now = self.clock()
        waited = now - waited_since
        self._wait += waited
        if self._first is None:
            self._first = now - self._start
        self._batches += 1
        self._samples += samples
        self._bytes += nbytes
        self._copied += copied
        for tell in observers:
            tell(waited)

    def follow(self, at_hand: AtHand) -> None:
        """Count these as they are handed over; of those before no more will be."""
        self._at_hand = *self._of_those_at_hand(), at_hand

    def gathered(self, samples: int, seconds: float) -> None:
        """So many samples were gathered, while the caller waited for the first batch of them."""
        self.task_done(0, samples, seconds, 0.0)
        self._wait += seconds
        self._untold = seconds
        if self._first is None:
            self._first = self.clock() - self._start

    def tell(self) -> None:
        """Tell the observers, if there are any, of a batch that was at hand."""
        waited, self._untold = self._untold, 0.0
        for tell in observers:
            tell(waited)

    def _of_those_at_hand(self) -> tuple[int, int]:
        """How many batches were handed over of those that were or are at hand, and their samples."""
        batches, samples, at_hand = self._at_hand
        if at_hand is NOTHING:
            return batches, samples
        given = at_hand.given
        return batches + given, samples + sum(at_hand.sizes[:given])

    @property
    def batches(self) -> int:
        """How many were handed over."""
        return self._batches + self._of_those_at_hand()[0]

    @property
    def samples(self) -> int:
        """How many are in them."""
        return self._samples + self._of_those_at_hand()[1]

    def sample_cost(self) -> float | None:
        """Mean seconds of work that a sample takes; None before the first task is done."""
        return self._work_s / self._fetched if self._fetched else None

    def batch_cost(self) -> float | None:
        """Mean seconds of work that a batch takes; None before the first batch is out."""
        cost = self.sample_cost()
        return cost * self.samples / self.batches if cost is not None and self.batches else None

    def totals(self) -> tuple[float, int, int]:
        """Seconds of work of the workers, the samples that they made in it, and the samples handed over."""
        return self._work_s, self._fetched, self.samples

    def snapshot(self, slots: int = 0, slots_in_use: int = 0) -> Stats:
        return Stats(
            self.batches,
            self.samples,
            self._wait,
            self._first,
            self._bytes,
            self._copied,
            slots,
            slots_in_use,
            self._replaced,
            self._left_out,
            MappingProxyType({number: tally.stats() for number, tally in sorted(self._workers.items())}),
            tuple(self.decisions),
        )
