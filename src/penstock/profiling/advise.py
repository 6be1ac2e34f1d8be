"""What to change, as exact settings, each with what it would bring. Pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from penstock.profiling import figures
from penstock.profiling.data import Measurement, Part
from penstock.profiling.diagnose import ENOUGH, Cause
from penstock.profiling.predict import CACHE_SAMPLE_S, Prediction, predict

CACHE_UNTIL = "cache_until"
"""The change that puts a cache around the dataset: up to this step, or as far as it goes."""
FILL_S = 60.0
"""A cache that takes longer to fill isn't tried."""
WORTH = 1.05
"""A change that brings less than this factor isn't advised."""
AS_GOOD = 0.97
"""Fewer workers that keep this factor are."""
CACHE_WORTH = 1.25
"""A cache takes memory, and a while to fill: it has to bring more."""
MORE_EPOCHS = "there are more epochs"
SHARED = (
    "the dataset shares its samples out among its workers (get_worker_info; "
    "penstock.DistributedIterableDataset does)"
)
"""Else each of an iterable dataset's workers gives all of its samples."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to change."""

    setting: str
    """As it is written: ``num_workers=4``."""
    why: str
    prediction: Prediction | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    """The loader's arguments that it sets, where it is only those: `--check` applies them."""
    only_if: str = ""
    """What has to hold and can't be told from here, if anything; `why` says it as well."""


def advise(m: Measurement, cause: Cause) -> tuple[Advice, ...]:
    """The best first; empty where nothing is worth a change."""
    if cause in (Cause.NOTHING, Cause.UNKNOWN):
        return tuple(_fewer_workers(m) if cause is Cause.NOTHING else ())
    found = list(_for_cause(m, cause))
    if cause is not Cause.CHEAP:
        known = {advice.setting for advice in found}
        found += [each for each in _general(m, cause) if each.setting not in known]
    if cause in (Cause.CPU, Cause.STARTUP) and not any("num_workers" in a.setting for a in found):
        found += _as_good_with_fewer(m)
    found = [each for each in found if gains(m, each) or _as_good(m, each)]
    return tuple(sorted(found, key=lambda each: (bool(each.only_if), not gains(m, each))))


def gains(m: Measurement, advice: Advice) -> bool:
    """Whether it promises more than there is now."""
    return advice.prediction is None or _rate_of(advice) >= WORTH * figures.samples_per_s(m)


def _as_good(m: Measurement, advice: Advice) -> bool:
    """Whether it does what there is now, with fewer workers."""
    fewer = advice.changes.get("num_workers", math.inf) < m.setting.num_workers
    return fewer and _rate_of(advice) >= AS_GOOD * figures.samples_per_s(m)


def _for_cause(m: Measurement, cause: Cause) -> Iterator[Advice]:
    setting = m.setting
    if cause is Cause.CHEAP and setting.num_workers:
        yield _with(m, 0, "the loop's own process makes a batch sooner than a worker hands it over")
    if cause is Cause.STARTUP and setting.num_workers and not setting.persistent_workers:
        yield _persistent(m)
    if cause is Cause.OUTLIERS and m.samples is not None and m.samples.slowest:
        slow = m.samples.slowest[0]
        what = slow.path or f"sample {slow.index}"
        yield Advice(
            f"look at {what}",
            f"it took {slow.seconds:.3g} s; the median sample takes {m.samples.p50_s:.3g} s",
        )
        if setting.num_workers:
            yield _more_ahead(m)
    if cause is Cause.THREADS:
        yield Advice(
            "OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1",
            "in the environment; where the program sets them, torch.set_num_threads(1) and "
            "cv2.setNumThreads(0): one thread a worker",
        )
    if cause is Cause.INTERPRETER:
        yield Advice(
            "no threads of the dataset's own that run Python",
            "each worker is a process with an interpreter lock of its own: do that work in dataset[i] itself",
        )
    if cause is Cause.SERIALISED:
        few = _fewest(m, range(1, max(2, setting.num_workers)))
        if few is not None and few < setting.num_workers:
            yield _with(m, few, "the others wait for the source as well")
        yield Advice(
            "open the source in each worker",
            "one handle, connection or file for each (in worker_init_fn, or at the first sample), instead of "
            "one that they share under a lock",
        )


def _persistent(m: Measurement) -> Advice:
    """Where only one epoch was seen, that may be all there is."""
    why = "the workers start once instead of in every epoch"
    if m.loop.epochs == 1:
        return Advice("persistent_workers=True", f"{why}, if {MORE_EPOCHS}", only_if=MORE_EPOCHS)
    return Advice("persistent_workers=True", why, None, {"persistent_workers": True})


def _general(m: Measurement, cause: Cause) -> Iterator[Advice]:
    """More workers, a cache, both; what helps most first, the smaller change before the larger."""
    cores = m.machine.cores
    most = 4 * cores if cause is Cause.STORAGE else cores
    found = []
    if cause not in (Cause.SERIALISED, Cause.STARTUP):
        found += list(_enough_workers(m, _affordable(m, most)))
    cached = _caches(m)[:1]
    found += [advice for advice, _ in cached]
    fast = [a for a in found if a.prediction is not None and a.prediction.stall < ENOUGH]
    if not fast and cached:
        found += [a for a in _both(m, *cached[0], most) if _better(a, found)]
    yield from sorted(found, key=_merit, reverse=True)


def _merit(advice: Advice) -> tuple[bool, float]:
    """First what ends the wait, then what is fastest; a cache has to be clearly faster than other workers."""
    expected = advice.prediction
    if expected is None:
        return False, 0.0
    handicap = 0.85 if "cache" in advice.setting else 1.0
    return expected.stall < 2 * ENOUGH, handicap * expected.samples_per_s


def _fewer_workers(m: Measurement) -> Iterator[Advice]:
    """For a loop that doesn't wait: whether it wouldn't with fewer, either."""
    few = _fewest(m, range(m.setting.num_workers))
    if few is not None:
        yield _with(m, few, "it is enough: the others only take memory")


def _as_good_with_fewer(m: Measurement) -> Iterator[Advice]:
    """Where there are more workers than cores: fewer start sooner and get in each other's way less."""
    now = _rate(m, m.setting.num_workers)
    for n in range(1, min(m.setting.num_workers, m.machine.cores + 1)):
        if _rate(m, n) >= AS_GOOD * now:
            yield _with(m, n, "it is as fast, and fewer workers start sooner")
            return


def _enough_workers(m: Measurement, up_to: int) -> Iterator[Advice]:
    """The fewest with which the loop no longer waits, or those with which it waits least; of an iterable
    dataset the best that is right in any case, too."""
    counts = [n for n in range(up_to + 1) if n != m.setting.num_workers]
    any_case = [n for n in counts if not _shares_out(m, n)]
    found = {n: None for each in (any_case, counts) if (n := _best_count(m, each)) is not None}
    for n in found:
        more = n > m.setting.num_workers
        yield _with(m, n, "more samples are made at once" if more else "it has less to hand over")


def _best_count(m: Measurement, counts: list[int]) -> int | None:
    """None where none of them brings much."""
    few = _fewest(m, counts)
    if few is None and counts:
        few = max(counts, key=lambda n: (round(_rate(m, n) / _rate(m, m.setting.num_workers), 2), -n))
    now = max(figures.samples_per_s(m), _rate(m, m.setting.num_workers))  # which may have been disturbed
    return few if few is not None and _rate(m, few) >= WORTH * now else None


def _shares_out(m: Measurement, workers: int) -> bool:
    """Whether so many workers give every sample once only if the dataset sees to it."""
    return m.setting.iterable and workers > max(1, m.setting.num_workers)


def _fewest(m: Measurement, counts: Iterable[int]) -> int | None:
    """The fewest workers whose prediction, at its lower end, leaves the loop no wait worth the name."""
    for n in counts:
        expected = _try(m, num_workers=n)
        if (
            expected is not None
            and figures.has_step(m)
            and expected.stall < ENOUGH
            and expected.stall_high < 0.25
        ):
            return n
    return None


def _caches(m: Measurement) -> list[tuple[Advice, str]]:
    """After each step up to which all is deterministic, with its name; the one that brings most first."""
    parts = m.samples.parts if m.samples is not None else ()
    steady = tuple(itertools.takewhile(lambda part: part.deterministic is True, parts))
    ends = [*(part.kind == "transform" for part in parts[1:]), True]
    cuts = [part for part, end in zip(steady, ends, strict=False) if end]
    found = [(a, part.name) for part in cuts if (a := _cache_after(m, part)) is not None]
    return sorted(found, key=lambda each: _rate_of(each[0]), reverse=True)


def _cache_after(m: Measurement, part: Part) -> Advice | None:
    expected = _try(m, cache_after=part.name)
    if expected is None or part.wall_s < CACHE_SAMPLE_S:
        return None
    if expected.samples_per_s < CACHE_WORTH * figures.samples_per_s(m):
        return None
    if expected.memory_bytes > 0.5 * m.machine.memory_bytes:
        return None
    parts = m.samples.parts if m.samples is not None else ()
    following = parts[parts.index(part) + 1] if part is not parts[-1] else None
    steady = following is None or following.deterministic is not True
    until = "" if steady or following is None else f", until={following.name!r}"
    upto = part.name if part.kind == "transform" else "the transforms"
    why = f"all up to {upto} is the same every time"
    fill_s = (m.setting.dataset_size or 0) / max(figures.samples_per_s(m), 1e-9)
    cut = following.name if until and following is not None else None
    changes = {CACHE_UNTIL: cut} if fill_s <= FILL_S else {}
    return Advice(f"penstock.cache(dataset{until})", why, expected, changes)


def _both(m: Measurement, cached: Advice, part: str, most: int) -> Iterator[Advice]:
    for n in range(1, most + 1):
        expected = _try(m, num_workers=n, cache_after=part)
        if expected is not None and expected.stall < ENOUGH:
            yield Advice(f"num_workers={n} and {cached.setting}", "both together", expected)
            return


def _better(advice: Advice, others: list[Advice]) -> bool:
    return all(_rate_of(advice) > WORTH * _rate_of(other) for other in others)


def _more_ahead(m: Measurement) -> Advice:
    """So many batches ahead that the workers ride over one slow sample."""
    assert m.samples is not None
    needed = m.samples.max_s / max(figures.period(m.loop), 1e-6) / max(1, m.setting.num_workers)
    factor = min(16, max(2 * (m.setting.prefetch_factor or 2), int(needed) + 1))
    changes: dict[str, Any] = {"prefetch_factor": factor}
    return Advice(
        f"prefetch_factor={factor}", "more batches in hand to live on while one is late", None, changes
    )


def _affordable(m: Measurement, most: int) -> int:
    """So many workers as half of the free memory holds."""
    each = max((t.worker_bytes for t in m.trials), default=0)
    if not each or not m.machine.memory_bytes:
        return most
    return max(1, min(most, int(0.5 * m.machine.memory_bytes / each)))


def _with(m: Measurement, workers: int, why: str) -> Advice:
    setting, expected = f"num_workers={workers}", _try(m, num_workers=workers)
    if _shares_out(m, workers):
        return Advice(setting, f"{why}, if {SHARED}", expected, only_if=SHARED)
    return Advice(setting, why, expected, {"num_workers": workers})


def _try(m: Measurement, **settings: Any) -> Prediction | None:
    try:
        return predict(m, **settings)
    except ValueError:
        return None


def _rate(m: Measurement, workers: int) -> float:
    expected = _try(m, num_workers=workers)
    return expected.samples_per_s if expected is not None else 0.0


def _rate_of(advice: Advice) -> float:
    return advice.prediction.samples_per_s if advice.prediction is not None else 0.0
