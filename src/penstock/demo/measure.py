"""Runs contenders in turn and times them. Times are in seconds; `rate` is samples per second.

Nothing here knows what is loaded. The benchmarks stand on this module too.
"""

import gc
import random
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch.utils.data import DataLoader


@dataclass(frozen=True, slots=True)
class Pass:
    """So many epochs, from `iter()` until the iterator and its workers are gone."""

    samples: int
    batches: int
    first_samples: int  # how many of the samples came in the first batch
    seconds: float
    first_batch: float  # from `iter()` to the first batch
    last_batch: float  # from `iter()` to the last batch
    cpu_seconds: float  # of this process and of the workers

    @property
    def rate(self) -> float:
        """Samples per second, starting and stopping the workers included."""
        return self.samples / self.seconds

    @property
    def steady_rate(self) -> float | None:
        """Samples per second between the first batch and the last; None if there is one batch."""
        if self.batches < 2:
            return None
        return (self.samples - self.first_samples) / (self.last_batch - self.first_batch)

    @property
    def cpu_per_sample(self) -> float:
        """CPU seconds per sample, over all processes."""
        return self.cpu_seconds / self.samples


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to time: who it is, and how to run one pass."""

    loader: str
    workers: int
    run: Callable[[], Pass]


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some figures, and how far they reach."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> "Spread":
        """Summarise at least one figure."""
        known = sorted(figures)
        return cls(statistics.median(known), known[0], known[-1])


@dataclass(frozen=True, slots=True)
class Summary:
    """All passes of one contender, and what they come to."""

    loader: str
    workers: int
    passes: tuple[Pass, ...]

    @property
    def rate(self) -> Spread:
        """Samples per second over whole passes."""
        return Spread.of(run.rate for run in self.passes)

    @property
    def steady_rate(self) -> Spread | None:
        """Samples per second once the first batch has come; None if there is one batch."""
        rates = [rate for run in self.passes if (rate := run.steady_rate) is not None]
        return Spread.of(rates) if rates else None

    @property
    def first_batch(self) -> Spread:
        """Seconds from `iter()` to the first batch."""
        return Spread.of(run.first_batch for run in self.passes)

    @property
    def cpu_per_sample(self) -> Spread:
        """CPU seconds per sample, over all processes."""
        return Spread.of(run.cpu_per_sample for run in self.passes)


def paired(above: Summary, below: Summary, figure: Callable[[Pass], float] = lambda run: run.rate) -> Spread:
    """The ratio of a figure of two contenders, taken within each round.

    A machine whose speed drifts from round to round slows both, which a ratio of two medians would not
    cancel.
    """
    pairs = zip(above.passes, below.passes, strict=True)
    return Spread.of(figure(ours) / figure(theirs) for ours, theirs in pairs)


def contender(
    kind: Callable[..., DataLoader[Any]],
    name: str,
    workers: int,
    options: dict[str, Any],
    visit: Callable[[Any], None] | None = None,
    epochs: int = 1,
) -> Contender:
    """A loader of this kind, made anew for each pass of so many epochs; `visit` sees every batch."""
    make = partial(kind, num_workers=workers, **options)
    return Contender(name, workers, lambda: _run(make, visit, epochs))


def measure(
    contenders: Sequence[Contender], rounds: int, advance: Callable[[], None] = lambda: None
) -> tuple[Summary, ...]:
    """Run every contender once to warm up and then `rounds` times, and summarise.

    In each round all have their turn, so that a change in the machine's speed meets all alike, in an order
    drawn anew, so that none always runs after the same one. `advance` is called after each pass, warm-up
    included: `passes(...)` times in all.

    Meanwhile torch's operations have one thread in this process, as they have in every worker.
    """
    runs: list[list[Pass]] = [[] for _ in contenders]
    turns, order = random.Random(0), range(len(contenders))
    with _one_thread():
        for _ in range(rounds + 1):
            for which in turns.sample(order, len(order)):
                runs[which].append(contenders[which].run())
                advance()
    return tuple(
        Summary(who.loader, who.workers, tuple(done[1:])) for who, done in zip(contenders, runs, strict=True)
    )


def passes(contenders: Sequence[Contender], rounds: int) -> int:
    """How many passes `measure` makes."""
    return len(contenders) * (rounds + 1)


def cpu_seconds() -> float:
    """CPU time of this process and of all its children, and theirs, that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give torch's operations one thread.

    On images of this size a second one gains nothing, burns as much CPU again while it waits, and
    slows the process down tenfold as soon as another program wants the core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(make: Callable[[], DataLoader[Any]], visit: Callable[[Any], None] | None, epochs: int) -> Pass:
    """One pass with a new loader, until its workers are gone."""
    gc.collect()  # an old iterator in a cycle may still have workers
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create .* worker processes")
        loader = make()
        samples = len(cast(Sized, loader.dataset))
        cpu, start = cpu_seconds(), time.perf_counter()
        with _closing(loader):
            arrivals = [at for _ in range(epochs) for at in _iterate(loader, visit)]
        seconds = time.perf_counter() - start
    return Pass(
        samples=epochs * samples,
        batches=len(arrivals),
        first_samples=min(loader.batch_size or 1, samples),
        seconds=seconds,
        first_batch=arrivals[0] - start,
        last_batch=arrivals[-1] - start,
        cpu_seconds=cpu_seconds() - cpu,
    )


def _iterate(loader: DataLoader[Any], visit: Callable[[Any], None] | None) -> list[float]:
    """Take all batches of an epoch; the times at which they came. The iterator is gone on return."""
    clock = time.perf_counter
    if visit is None:
        return [clock() for _ in loader]  # little beside the quickest batches
    arrivals = []
    for batch in loader:
        arrivals.append(clock())
        visit(batch)
    return arrivals


def _closing(loader: DataLoader[Any]) -> AbstractContextManager[object]:
    """The loader's own scope where it has one; torch's loader stops with its iterator."""
    return loader if isinstance(loader, AbstractContextManager) else nullcontext()
