"""Runs the loader alone, with nothing done with its batches, with several numbers of workers."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from dataclasses import dataclass
from itertools import chain
from typing import Any

import psutil
import torch
from torch.utils.data import BatchSampler, IterableDataset
from torch.utils.data import DataLoader as TorchDataLoader

from penstock.indices import Listed, is_known
from penstock.loader import DataLoader
from penstock.profiling.data import Trial
from penstock.profiling.watching import close_iterator, samples_in

BLOCKS = 8
"""Into so many parts a trial is divided, to see how much its speed varies."""
MOST_BATCHES = 5000
MANY_SAMPLES, DRAWING_S = 20_000, 0.05
"""So many different samples are tried, if their indices are drawn in such a time: the same few, again and
again, would lie in the processor's caches."""
PATIENCE_S, PATIENT_TIMES = 60.0, 20.0
"""A sample counts as hanging after this time and as many times what a batch took in the loop."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is loaded, and how: the same for every trial."""

    kind: str
    """"penstock" or "torch"."""
    dataset: Any
    batches: tuple[Any, ...]
    """Batches of indices; of an iterable dataset, none."""
    batch_size: int | None
    plain: bool
    """They are cut from an order that it costs nothing to follow."""
    options: dict[str, Any]
    patience_s: float = PATIENCE_S
    """A worker that gives nothing for so long is waited for no longer."""

    @property
    def iterable(self) -> bool:
        return isinstance(self.dataset, IterableDataset)

    def loader(self, workers: int, batch_size: int | None, kind: str | None = None) -> Any:
        """A loader with so many workers, and batches of at most this size."""
        options = {**self.options, "num_workers": workers}
        if workers:
            options |= {"timeout": self.patience_s}
        else:
            options = {
                k: v for k, v in options.items() if k not in ("multiprocessing_context", "prefetch_factor")
            }
        if self.iterable:
            options |= {"batch_size": batch_size}
        elif self.batch_size is None:
            options |= {"sampler": Listed(self.batches, MOST_BATCHES), "batch_size": None}
        elif self.plain and batch_size is not None:
            indices = tuple(chain.from_iterable(self.batches))
            options |= {
                "batch_sampler": BatchSampler(Listed(indices, MOST_BATCHES * batch_size), batch_size, False)
            }
        else:
            batches = [list(batch)[:batch_size] for batch in self.batches]
            options |= {"batch_sampler": Listed(batches, MOST_BATCHES)}
        ours = (kind or self.kind) == "penstock"
        return (
            DataLoader(self.dataset, **options)
            if ours
            else TorchDataLoader(self.dataset, **_for_torch(options))
        )


def _for_torch(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in options.items() if name not in ("seeding", "on_error", "none_is_error")
    }


def source_of(loader: Any, samples: int, batch_s: float = 0.0) -> Source:
    """What `loader` loads: at least `samples` indices, or all of an epoch, as its sampler gives them; in
    `unmoved` only. `batch_s` is what a batch took at most in the loop."""
    kind = "penstock" if isinstance(loader, DataLoader) else "torch"
    options: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
        "generator": torch.Generator().manual_seed(0),
    }
    if kind == "penstock":
        options |= {name: getattr(loader, name) for name in ("seeding", "on_error", "none_is_error")}
    batches: list[Any] = []
    if not isinstance(loader.dataset, IterableDataset):
        taken, until = 0, time.perf_counter() + DRAWING_S
        for batch in loader._index_sampler:
            batches.append(batch)
            taken += len(batch) if loader._auto_collation else 1
            if taken >= samples and (taken >= MANY_SAMPLES or time.perf_counter() > until):
                break
    size = loader.batch_size or _common_size(loader, batches)
    plain = is_known(loader._index_sampler, loader._auto_collation)
    patience_s = PATIENCE_S + PATIENT_TIMES * batch_s
    return Source(kind, loader.dataset, tuple(batches), size, plain, options, patience_s)


def _common_size(loader: Any, batches: list[Any]) -> int | None:
    if not loader._auto_collation or not batches:
        return None
    return max(len(batch) for batch in batches)


def worker_counts(cores: int, used: int, waiting: bool) -> list[int]:
    """Which numbers of workers to try: few, as each takes its time."""
    counts = {1, 2, cores, used}
    if used == 0:
        counts.add(0)
    else:
        counts.discard(0)
    if waiting:
        counts.add(2 * cores)
    return sorted(counts)


DISTURBED = 0.15
"""A trial during which other programs used such a share of the cores is made once more."""


def try_workers(source: Source, workers: int, seconds: float, sample_s: float, patient: bool) -> Trial:
    """The better of two trials, where the first one was disturbed, and it may be less so a second time."""
    first = run_trial(source, workers, seconds, sample_s)
    if first.foreign < DISTURBED or not patient:
        return first
    again = run_trial(source, workers, seconds, sample_s)
    return max(first, again, key=lambda trial: trial.samples_per_s)


def run_trial(
    source: Source, workers: int, seconds: float, sample_s: float, kind: str | None = None
) -> Trial:
    """Load for so many seconds; a sample takes about `sample_s`, which decides the size of the batches."""
    size = source.batch_size
    if size is not None and sample_s > 0:
        size = max(1, min(size, int(seconds / 4 / sample_s)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = source.loader(workers, size, kind)
        before = {child.pid for child in _children()}
        begin = time.perf_counter()
        iterator = iter(loader)
        try:
            return _load(loader, iterator, workers, seconds, begin, before, kind or source.kind)
        finally:
            close_iterator(loader, iterator)
            del iterator


@dataclass(slots=True)
class _Load:
    """What is read at the beginning and the end of what counts."""

    cpu: float
    memory: int
    idle: tuple[float, float]


def _load(
    loader: Any, iterator: Any, workers: int, seconds: float, begin: float, before: set[int], kind: str
) -> Trial:
    first = samples_in(next(iterator), loader)
    first_s = time.perf_counter() - begin
    settled = _settle(iterator, workers, seconds)
    start = _read(before, workers)
    started, main_cpu = time.perf_counter(), time.thread_time()
    arrivals: list[tuple[float, int]] = []
    end = started + seconds
    for batch in iterator:
        arrivals.append((time.perf_counter(), samples_in(batch, loader)))
        del batch
        if arrivals[-1][0] > end and len(arrivals) > 1:
            break
    main_cpu = time.thread_time() - main_cpu
    stop = _read(before, workers)
    if not arrivals:  # so short an epoch that its first batches are all there is
        took = time.perf_counter() - begin
        return Trial(workers, (settled + 1) * first / took, 0.5, first, first_s, 0.0, 0.0, 1.0, loader=kind)
    made = sum(samples for _, samples in arrivals)
    busy, total = stop.idle[0] - start.idle[0], stop.idle[1] - start.idle[1]
    own = stop.cpu - start.cpu + main_cpu
    return Trial(
        workers=workers,
        samples_per_s=made / (arrivals[-1][0] - started),
        spread=_spread(started, arrivals, max(1, workers)),
        batch_size=round(made / len(arrivals)) or 1,
        first_batch_s=first_s,
        cpu_s=(stop.cpu - start.cpu if workers else main_cpu) / made,
        main_cpu_s=main_cpu / len(arrivals) if workers else 0.0,
        idle=1 - busy / total if total > 0 else 0.0,
        foreign=max(0.0, busy - own) / total if total > 0 else 0.0,
        worker_bytes=stop.memory,
        growth_bytes=max(0.0, (stop.memory - start.memory) * workers / made),
        loader=kind,
    )


def _settle(iterator: Any, workers: int, seconds: float) -> int:
    """Take what the workers made while they started: as many batches as they have ahead."""
    until = time.perf_counter() + seconds / 3
    taken = 0
    while taken < 2 * workers and time.perf_counter() < until and next(iterator, None) is not None:
        taken += 1
    return taken


def _spread(start: float, arrivals: list[tuple[float, int]], together: int) -> float:
    """The relative standard error of the rate, from that of parts of it; batches come so many together."""
    size = -(-max(1, len(arrivals) // BLOCKS) // together) * together
    rates, since = [], start
    for place in range(size, len(arrivals) + 1, size):
        block = arrivals[place - size : place]
        if block[-1][0] > since:
            rates.append(sum(samples for _, samples in block) / (block[-1][0] - since))
        since = block[-1][0]
    if len(rates) < 2:
        return 0.25
    return float(statistics.stdev(rates) / statistics.fmean(rates) / len(rates) ** 0.5)


def _read(before: set[int], workers: int) -> _Load:
    children = [child for child in _children() if child.pid not in before]
    cpu, sizes = 0.0, []
    for child in children:
        try:
            used = child.cpu_times()
            cpu += used.user + used.system
            sizes.append(child.memory_full_info().uss)
        except psutil.Error:
            continue
    memory = sorted(sizes)[-workers:] if workers else []
    each = int(statistics.fmean(memory)) if memory else 0
    return _Load(cpu, each, _busy_and_total())


def _children() -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def _busy_and_total() -> tuple[float, float]:
    """CPU seconds, used and in all, of the cores that this process may use."""
    usable = os.sched_getaffinity(0)
    busy = total = 0.0
    for number, core in enumerate(psutil.cpu_times(percpu=True)):
        if number in usable:
            idle = core.idle + getattr(core, "iowait", 0.0)
            everything = sum(core) - getattr(core, "guest", 0.0) - getattr(core, "guest_nice", 0.0)
            busy, total = busy + everything - idle, total + everything
    return busy, total
