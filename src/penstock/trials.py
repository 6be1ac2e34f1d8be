"""`penstock.tune`: tries numbers of workers on a real loader, one after the other, and says which to take."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import IterableDataset

from penstock.bad import ErrorBook
from penstock.indices import unmoved
from penstock.loader import DataLoader
from penstock.tuning import rate

TOLERANCE = 0.05
"""More workers are worth it if they make the loop faster by more than this share."""
DOUBT = 0.15
"""No workers are tried if the figures let expect that they are slower by no more than this share."""
WAITS = 0.1
"""Batches further ahead are tried if the loop waits for a larger share of its time."""
MOST_AHEAD = 8
LEAST_S = 0.25
"""In less time the machine's speed is one thing or another, however many batches come."""
CHEAP_S = 0.005
"""Of batches that take less, the figures tell too little of how fast the loop is without workers: it is
tried."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured under one setting."""

    num_workers: int
    prefetch_factor: int | None
    batches: int
    """How many batches were timed, after those that the start disturbs."""
    batches_per_s: float
    """Batches that the loop got through in a second, its step included."""
    waiting: float
    """The share of its time that the loop waited for batches."""
    work_s: float
    """Seconds of the workers' time that making a batch took; without workers, of the loop's."""

    def __str__(self) -> str:
        ahead = "" if self.prefetch_factor is None else f", prefetch_factor={self.prefetch_factor}"
        return (
            f"num_workers={self.num_workers}{ahead}: {rate(self.batches_per_s)} batches/s, "
            f"the loop waits {self.waiting:.0%} of the time"
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """What `tune` found; to be given to the loader."""

    num_workers: int
    prefetch_factor: int | None
    why: str
    trials: tuple[Trial, ...]


def show(trial: Trial) -> None:
    """Print what was measured to the standard error."""
    print(trial, file=sys.stderr, flush=True)


def tune(
    loader: DataLoader[Any],
    step: Callable[[Any], object] | None = None,
    *,
    workers: Iterable[int] | None = None,
    batches: int = 50,
    seconds: float = 5.0,
    progress: Callable[[Trial], object] | None = show,
) -> Settings:
    """Try settings on `loader`, and return those to take.

    `step` is what the training loop does with a batch. Without it batches are asked for as fast as they come,
    which takes as many workers as the machine has any use for. Each setting is measured for so many
    `batches`, and not for less than a quarter of a second, or for so many `seconds`; `progress` is told of
    each.

    Numbers are doubled up to the number of processors, as long as that helps; those between are tried where
    fewer might do. If the loop still waits, batches further ahead are tried. No workers, with ``dataset[i]``
    in this process, are tried if a batch takes less than 5 ms, or if by the others' figures that may be as
    fast. `workers` names the numbers to try instead. The loader itself isn't iterated; what its samplers
    draw from, and their own attributes, are put back.

    Raises:
        TypeError: if `loader` is no penstock.DataLoader, or what should be a number or a function is none.
        ValueError: if the loader gives no batch; if `batches`, `seconds` or `workers` can't be; or if what it
            gives depends on the number of workers (iterable datasets, ``seeding="worker"``) and `workers`
            isn't given.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"tune() takes a penstock.DataLoader, not {type(loader).__name__}: "
            "penstock.upgrade(loader) makes one of torch's"
        )
    if not all(callable(each) for each in (step, progress) if each is not None):
        raise TypeError(f"step= and progress= take functions, but got {step!r} and {progress!r}")
    if not hasattr(batches, "__index__") or not hasattr(seconds, "__float__"):
        raise TypeError(f"batches= and seconds= take numbers, but got {batches!r} and {seconds!r}")
    if batches < 1 or not seconds > 0:
        raise ValueError(f"at least 1 batch and some seconds are needed, got {batches=} and {seconds=}")
    bench = _Bench(loader, step or (lambda _: None), batches, seconds, progress or (lambda _: None))
    if workers is not None:
        for number in _numbers(workers):
            bench.cycle(number)
    elif isinstance(loader.dataset, IterableDataset) or loader._seeding == "worker":
        raise ValueError("what it gives depends on the number of workers: name those to try by workers=")
    else:
        _search(bench, most=DataLoader(loader.dataset, num_workers="auto").num_workers)
    return bench.settings()


def _numbers(workers: Iterable[int]) -> list[int]:
    if not isinstance(workers, Iterable):
        raise TypeError(f"workers= takes several numbers of workers, such as [0, 2, 4], but got {workers!r}")
    numbers = list(workers)
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ValueError(f"workers= takes numbers of workers, 0 or more, but got {number!r}")
    return numbers


def _search(bench: _Bench, most: int) -> None:
    number, helps = 1, True
    bench.cycle(1)
    while helps and number < most:
        before, number = number, min(2 * number, most)
        helps = bench.cycle(number) * (1 + TOLERANCE) < bench.cycle(before)
    between = range(bench.fewest() // 2 + 1, bench.fewest())
    while between:  # by halves, down to the fewest that do
        middle = between[len(between) // 2]
        enough = bench.cycle(middle) <= (1 + TOLERANCE) * bench.best()
        between = range(between.start, middle) if enough else range(middle + 1, between.stop)
    bench.look_further_ahead()
    if bench.may_do_without():
        bench.cycle(0)


class _Bench:
    """Measures settings, each once."""

    def __init__(
        self,
        loader: Any,
        step: Callable[[Any], object],
        batches: int,
        seconds: float,
        progress: Callable[[Trial], object],
    ) -> None:
        self._loader, self._step, self._progress = loader, step, progress
        self._batches, self._seconds = batches, seconds
        self._trials: dict[int, Trial] = {}
        self._all: list[Trial] = []

    def cycle(self, workers: int) -> float:
        """Seconds from one batch to the next."""
        if workers not in self._trials:
            self._trials[workers] = self._measured(workers, self._loader._prefetch_given or 2)
        return 1 / self._trials[workers].batches_per_s

    def best(self) -> float:
        return min(map(self.cycle, self._trials))

    def fewest(self) -> int:
        """The fewest workers that keep the best pace."""
        bound = (1 + TOLERANCE) * self.best()
        return min(number for number in self._trials if self.cycle(number) <= bound)

    def look_further_ahead(self) -> None:
        workers = self.fewest()
        while self._loader._prefetch_given is None:
            now = self._trials[workers]
            ahead = 2 * (now.prefetch_factor or MOST_AHEAD)
            if ahead > MOST_AHEAD or now.waiting < WAITS:
                return
            trial = self._measured(workers, ahead)
            if trial.batches_per_s < (1 + TOLERANCE) * now.batches_per_s:
                return
            self._trials[workers] = trial

    def may_do_without(self) -> bool:
        """Whether the loop may be as fast if it makes the batches itself; not where only workers can."""
        loader, one = self._loader, self._trials[1]
        if loader.worker_init_fn is not None or loader.timeout or loader._policy.sample_timeout is not None:
            return False
        step = min((1 - trial.waiting) / trial.batches_per_s for trial in self._all)
        return bool(one.work_s < CHEAP_S or step + one.work_s <= (1 + DOUBT) * self.best())

    def settings(self) -> Settings:
        """What the trials come to."""
        if not self._trials:
            raise ValueError("no number of workers was given to try")
        found = self._trials[self.fewest()]
        fastest = min(self._trials.values(), key=lambda trial: 1 / trial.batches_per_s)
        why = str(found)
        if fastest is not found:
            more = "worker gives" if fastest.num_workers == 1 else "workers give"
            why += f"; {fastest.num_workers} {more} {rate(fastest.batches_per_s)}"
        return Settings(found.num_workers, found.prefetch_factor, why, tuple(self._all))

    def _measured(self, workers: int, prefetch_factor: int) -> Trial:
        loader = copy.copy(self._loader)
        loader.num_workers = workers
        loader.prefetch_factor = prefetch_factor if workers else None
        loader._book = ErrorBook(None, None)  # what fails here is none of the run's errors
        with unmoved(loader), loader:  # each trial has the same order
            trial = self._run(loader)
        self._all.append(trial)
        self._progress(trial)
        return trial

    def _run(self, loader: Any) -> Trial:
        """Pass over what the start disturbs, and time what follows, over as many epochs as it takes."""
        passing = 1 + loader.num_workers * (loader.prefetch_factor or 1)
        given = 0
        waits: list[float] = []
        steps: list[float] = []
        work: list[float] = []
        while not self._enough(waits, steps):
            before = given
            for wait, step in self._timed(loader):
                given += 1
                if given > passing:
                    waits.append(wait)
                    steps.append(step)
                if self._enough(waits, steps):
                    break
            if given == before:
                raise ValueError("this loader gives no batches: there is nothing to measure")
            stats = loader.stats()
            work.append(sum(each.busy_s for each in stats.workers.values()) / stats.batches)
            passing = min(passing, given)
        seconds = sum(waits) + sum(steps)
        return Trial(
            loader.num_workers,
            loader.prefetch_factor,
            len(waits),
            len(waits) / seconds,
            sum(waits) / seconds,
            min(work),
        )

    def _timed(self, loader: Any) -> Iterator[tuple[float, float]]:
        """Seconds of waiting for each batch of an epoch, and of the step."""
        asked = time.perf_counter()
        for batch in loader:
            got = time.perf_counter()
            self._step(batch)
            done = time.perf_counter()
            yield got - asked, done - got
            asked = time.perf_counter()

    def _enough(self, waits: list[float], steps: list[float]) -> bool:
        seconds, most = sum(waits) + sum(steps), self._seconds
        enough = len(waits) >= self._batches and seconds >= min(LEAST_S, most)
        return enough or (len(waits) > 1 and seconds > most)
