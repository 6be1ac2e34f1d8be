"""What another setting would bring: operational bounds over what was measured. Pure functions.

A loop with workers is a pipeline, which goes no faster than its slowest stage: the workers, the cores that
all share, a source that serves one at a time, the hand-off together with the step. The loop without
workers does one thing after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.loader import MAX_WORKERS
from penstock.profiling import figures
from penstock.profiling.data import Measurement, Part, Trial

if TYPE_CHECKING:
    import torch

KNEE = 6
"""Near the point where two stages are equally slow, the pipeline falls short of both: a power mean of this
order is the lower end of the interval."""
MODEL_ERROR = 0.08
BEYOND_MEASURED = 0.12
CACHE_SAMPLE_S = 1e-5
"""What it takes to read a cached sample, beside copying it."""
MOST_SAVED = 0.999
SIZES = {
    "uint8": 1, "int8": 1, "bool": 1, "float16": 2, "bfloat16": 2, "int16": 2,
    "float32": 4, "int32": 4, "float64": 8, "int64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is to be expected, with an interval."""

    samples_per_s: float
    low: float
    high: float
    stall: float
    """The share of the loop's time that it would wait."""
    stall_low: float
    stall_high: float
    memory_bytes: int
    """Of the workers, the batches in the making, and the cache."""
    bound: str
    """What holds it back: "loop", "workers", "cores", "source" or, without workers, "loading"."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An advice that was followed: what it promised, and what came of it."""

    setting: str
    predicted: Prediction | None
    """None where the advice promised no figure."""
    samples_per_s: float
    stall: float

    @property
    def outside(self) -> bool:
        """Whether it isn't in the interval that was predicted."""
        expected = self.predicted
        return expected is not None and not expected.low <= self.samples_per_s <= expected.high


@dataclass(frozen=True, slots=True)
class _Saving:
    """What a change takes off a sample's cost: shares, as the machine may have been slower or faster when the
    parts of a sample were measured than when the loader was."""

    wall: float = 0.0
    cpu: float = 0.0
    cached_bytes: int = 0
    size: float = 1.0
    """Of a sample, to what it is now."""
    reads: bool = True
    """Whether the source is still read."""


def predict(
    m: Measurement,
    num_workers: int | None = None,
    cache_after: str | None = None,
    dtype: str | torch.dtype | None = None,
    prefetch_factor: int | None = None,
) -> Prediction:
    """What the measured loop would do with these settings; what is None stays as it was.

    Raises:
        TypeError: if a number isn't whole.
        ValueError: if the setting can't be, or nothing was measured that tells.
    """
    workers = m.setting.num_workers if num_workers is None else _whole("num_workers", num_workers, 0)
    if workers > MAX_WORKERS:
        raise ValueError(f"num_workers can be {MAX_WORKERS} at most, got {workers}")
    if prefetch_factor is not None:
        _whole("prefetch_factor", prefetch_factor, 1)
    saving = _saving(m, cache_after, dtype)
    bounds = _inline(m, saving) if workers == 0 else _pooled(m, workers, saving)
    only_of_workers = m.setting.num_workers and not workers
    startup = 0.0 if only_of_workers else figures.startup_each_s(m)
    error, memory = _error(m, workers, cache_after, dtype), _memory(m, workers, prefetch_factor, saving)
    runs = (cache_after, dtype) == (None, None) and workers == m.setting.num_workers
    runs &= prefetch_factor in (None, m.setting.prefetch_factor)
    return _conclude(m, bounds, startup, error, memory, figures.samples_per_s(m) if runs else None)


def _whole(name: str, value: int, least: int) -> int:
    """A number of something, as predictions take it."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):  # NumPy's integers have it
        raise TypeError(f"{name} should be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} should be {least} or more, got {value}")
    return value


def _conclude(
    m: Measurement,
    bounds: dict[str, float],
    startup: float,
    error: float,
    memory: int,
    seen: float | None,
) -> Prediction:
    """`bounds` are batches per second; `startup` is what the beginning of an epoch adds to each batch; `seen`
    are samples per second, where the loop ran like this: what has been isn't beyond the interval."""
    b = figures.batch_size(m)
    tightest = min(bounds, key=lambda name: bounds[name])
    best = 1 / (1 / bounds[tightest] + startup)
    knee = 1 / (sum(rate**-KNEE for rate in bounds.values()) ** (1 / KNEE) + startup)
    ceiling = bounds.get("loop", math.inf)
    low, high = knee * (1 - error), min(best * (1 + error), ceiling * (1 + MODEL_ERROR))
    if seen is not None:
        low, high = min(low, seen / b), max(high, seen / b)
    step = figures.step_s(m)

    def stall(rate: float) -> float:
        return min(1.0, max(0.0, 1 - rate * step))

    return Prediction(
        best * b, low * b, high * b,
        stall(best), stall(high), stall(low), memory, tightest,
    )  # fmt: skip


def _inline(m: Measurement, saving: _Saving) -> dict[str, float]:
    rate = figures.inline_rate(m)
    if rate is None:
        raise ValueError("it wasn't measured what a sample costs without workers")
    each = (1 - saving.wall) / rate
    return {"loading": 1 / (figures.step_s(m) + figures.batch_size(m) * each)}


def _pooled(m: Measurement, workers: int, saving: _Saving) -> dict[str, float]:
    b, step = figures.batch_size(m), figures.step_s(m)
    trials = {n: t for n, t in figures.trials_of(m).items() if n > 0}
    each, handoff, cpu = _costs(m, trials)
    rate = _loader_rate(m, trials, workers, each)
    loading = rate / (1 - saving.wall) / b
    main_cpu = handoff + figures.step_cpu_s(m)
    cpu_batch = b * cpu * (1 - saving.cpu) + main_cpu
    source = figures.plateau(m)
    served = {"source": source / b} if source is not None and saving.reads else {}
    return {  # of two that are equal, the first is named
        **served,
        "loop": 1 / max(step + handoff, 1e-9),
        "cores": m.machine.cores / cpu_batch,
        "workers": loading,
    }


def _costs(m: Measurement, trials: dict[int, Trial]) -> tuple[float, float, float]:
    """(a sample's seconds in one worker, CPU seconds of the hand-off of a batch, a sample's CPU seconds)."""
    if trials:
        each = trials[1].samples_per_s if 1 in trials else min(t.samples_per_s / n for n, t in trials.items())
        handoff = figures.mean(t.main_cpu_s * figures.batch_size(m) / t.batch_size for t in trials.values())
        return 1 / each, handoff, min(t.cpu_s for t in trials.values())
    if m.samples is None:
        raise ValueError("neither the loader alone nor its samples could be measured")
    return figures.alone_s(m.samples) + m.samples.collate_s, m.loop.wait_cpu_s, figures.sample_cpu_s(m)


def _loader_rate(m: Measurement, trials: dict[int, Trial], workers: int, each: float) -> float:
    """Samples per second of the loader alone: as measured, between two measured ones, or on from the last."""
    if not trials:
        return workers / each
    if workers in trials:
        return trials[workers].samples_per_s
    below = max((n for n in trials if n < workers), default=None)
    above = min((n for n in trials if n > workers), default=None)
    if below is not None and above is not None:
        share = (workers - below) / (above - below)
        return trials[below].samples_per_s * (1 - share) + trials[above].samples_per_s * share
    if below is None:
        assert above is not None
        return trials[above].samples_per_s * workers / above
    rate = trials[below].samples_per_s
    cpu = min(t.cpu_s for t in trials.values())
    room = m.machine.cores / max(cpu, 1e-9)
    return max(rate, min(rate * workers / below, room))


def _saving(m: Measurement, cache_after: str | None, dtype: str | torch.dtype | None) -> _Saving:
    wall = cpu = 0.0
    cached, size, reads = 0, 1.0, True
    samples = m.samples
    nbytes = samples.nbytes if samples is not None else 0
    if cache_after is not None:
        before = prefix(m, cache_after)
        assert samples is not None  # whose parts these are
        nbytes_there = before[-1].nbytes or nbytes
        load = CACHE_SAMPLE_S + nbytes_there / samples.copy_bytes_per_s
        wall, cpu = sum(p.wall_s for p in before) - load, sum(p.cpu_s for p in before) - load
        cached, reads = nbytes_there * (m.setting.dataset_size or 0), False
    if dtype is not None:
        size = _size_ratio(m, dtype)
        collate = samples.collate_s if samples is not None else 0.0
        wall, cpu = wall + collate * (1 - size), cpu + collate * (1 - size)
    if samples is None:
        return _Saving(0.0, 0.0, cached, size, reads)
    of_wall, of_cpu = samples.wall_s + samples.collate_s, figures.sample_cpu_s(m)
    return _Saving(_share(wall, of_wall), _share(cpu, of_cpu), cached, size, reads)


def _share(saved: float, whole: float) -> float:
    """Something is always left to do."""
    return min(MOST_SAVED, saved / whole) if whole > 0 else 0.0


def prefix(m: Measurement, name: str) -> tuple[Part, ...]:
    """The parts up to the one of this name, which a cache after it would spare.

    Raises:
        ValueError: if there is no such part, or one of them is random.
    """
    parts = m.samples.parts if m.samples is not None else ()
    names = [part.name for part in parts]
    if name not in names:
        known = ", ".join(names) or "none was measured"
        raise ValueError(f"there is no part called {name!r} to cache after; the parts are: {known}")
    before = parts[: names.index(name) + 1]
    for part in before:
        if part.deterministic is False:
            raise ValueError(f"what comes after {part.name!r}, which is random, can't be cached")
    return before


def _size_ratio(m: Measurement, dtype: str | torch.dtype) -> float:
    name = str(dtype).removeprefix("torch.")
    if name not in SIZES:
        raise ValueError(f"dtype should be one of {', '.join(SIZES)}, got {dtype!r}")
    now = m.samples.dtype if m.samples is not None else None
    if now not in SIZES:
        raise ValueError("it isn't known of what dtype the samples are now")
    return SIZES[name] / SIZES[now]


def _memory(m: Measurement, workers: int, prefetch_factor: int | None, saving: _Saving) -> int:
    each = max((t.worker_bytes for t in m.trials), default=0)
    nbytes = m.samples.nbytes if m.samples is not None else 0
    window = workers * (prefetch_factor or m.setting.prefetch_factor or 2) + 1
    batches = window * figures.batch_size(m) * nbytes * saving.size
    return int(workers * each + batches + saving.cached_bytes)


def _error(m: Measurement, workers: int, cache_after: str | None, dtype: str | torch.dtype | None) -> float:
    trials = figures.trials_of(m)
    noise = max((t.spread for t in trials.values()), default=0.1)
    beyond = bool(trials) and workers > max(trials)
    changed = (cache_after is not None) + (dtype is not None)
    model = MODEL_ERROR * (1 + changed) + BEYOND_MEASURED * beyond
    chance = figures.by_chance(m.samples) if m.samples is not None else 0.0
    return min(0.5, math.hypot(model, 2 * noise, chance))
