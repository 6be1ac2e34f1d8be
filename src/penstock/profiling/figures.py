"""Figures that follow from a measurement: pure functions, no judgement."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from penstock.profiling.data import Loop, Measurement, Samples, Trial

TOO_CHEAP_S = 0.005
"""A batch that takes less is made while a worker would still be woken up."""
BELIEVED = 0.8
"""Where the loader alone came to less than this part of the loop's own rate, something disturbed it."""


def mean(values: Iterable[float]) -> float:
    known = list(values)
    return fmean(known) if known else 0.0


def waited_in_epochs(loop: Loop) -> float:
    """The share of the loop's time that went by waiting, between an epoch's first batch and its last."""
    total = loop.waited_s + loop.stepped_s
    return loop.waited_s / total if total > 0 else 0.0


def waited_share(m: Measurement) -> float:
    """The share of the loop's time that went by waiting; where epochs have an end, their beginning counts."""
    startup = startup_each_s(m)
    total = period(m.loop) + startup
    return (mean(m.loop.waits) + startup) / total if total > 0 else 0.0


def period(loop: Loop) -> float:
    """Seconds from one batch to the next."""
    return mean(loop.waits) + mean(loop.steps)


def batch_size(m: Measurement) -> float:
    """Samples in a batch, in the mean."""
    if m.loop.batches:
        return m.loop.samples / m.loop.batches
    return float(m.setting.batch_size or 1)


def step_s(m: Measurement) -> float:
    """A step when data is free; as measured in the loop where there is no ceiling."""
    if not m.setting.has_step:
        return 0.0
    return m.ceiling.batch_s if m.ceiling is not None else mean(m.loop.steps)


def step_cpu_s(m: Measurement) -> float:
    return m.ceiling.cpu_s if m.ceiling is not None else m.loop.step_cpu_s


def samples_per_s(m: Measurement) -> float:
    """Of the loop, as it ran; where epochs have an end, their beginning counts."""
    each = period(m.loop) + startup_each_s(m)
    return batch_size(m) / each if each > 0 else 0.0


def lost_in_epochs(m: Measurement) -> float:
    """How much slower the loop is than with data for free, between an epoch's first batch and its last."""
    each = period(m.loop)
    return max(0.0, 1 - step_s(m) / each) if each > 0 else 0.0


def lost_share(m: Measurement) -> float:
    """The same with the beginning of epochs."""
    each = period(m.loop) + startup_each_s(m)
    return max(0.0, 1 - step_s(m) / each) if each > 0 else 0.0


def has_step(m: Measurement) -> bool:
    """Whether the loop does anything with a batch that is worth the name."""
    return m.setting.has_step and step_s(m) > 0.05 * period(m.loop) and step_s(m) > 20e-6


def startup_s(m: Measurement) -> float:
    """What the beginning of an epoch costs, beyond making a batch: of the second on, where there was one."""
    gap = m.loop.first_batch_s if m.loop.epoch_gap_s is None else m.loop.epoch_gap_s
    making = batch_size(m) * (alone_s(m.samples) + m.samples.collate_s) if m.samples is not None else 0.0
    return max(0.0, gap - max(making, period(m.loop)))


def startup_each_s(m: Measurement) -> float:
    """A batch's part of that."""
    return startup_s(m) / m.setting.epoch_batches if m.setting.epoch_batches else 0.0


def startup_share(m: Measurement) -> float:
    """Of an epoch's time; 0 where the epoch's length isn't known."""
    if not m.setting.epoch_batches:
        return 0.0
    whole = startup_s(m) + m.setting.epoch_batches * period(m.loop)
    return startup_s(m) / whole if whole > 0 else 0.0


def by_chance(samples: Samples) -> float:
    """How much of the mean cost hangs on a single slow sample: with more of them it may be otherwise."""
    slow = samples.max_s > 3 * samples.p50_s
    return samples.max_s / (samples.measured * samples.wall_s) if slow and samples.wall_s > 0 else 0.0


def alone_s(samples: Samples) -> float:
    """A sample's wall time, on a core that is free when wanted."""
    return max(samples.wall_s - samples.unscheduled_s, samples.cpu_s, 1e-9)


def waiting_s(samples: Samples) -> float:
    """How long a sample stands still, for whatever reason but a core."""
    return max(0.0, samples.wall_s - samples.cpu_s - samples.unscheduled_s)


def waiting_share(samples: Samples) -> float:
    return waiting_s(samples) / alone_s(samples)


def waits_for(samples: Samples) -> str:
    """What it mostly stands still for; "other" where that isn't known."""
    return (
        max(samples.waits, key=lambda kind: samples.waits[kind]) if any(samples.waits.values()) else "other"
    )


def interpreter_share(samples: Samples) -> float:
    """The share of its time for which it waits for the interpreter lock."""
    return samples.waits.get("interpreter", 0.0) / alone_s(samples)


def threads_share(samples: Samples) -> float:
    """The share of its CPU time that a sample spends in other threads than its own."""
    total = samples.cpu_s + samples.other_cpu_s
    return samples.other_cpu_s / total if total > 0 else 0.0


def sample_cpu_s(m: Measurement) -> float:
    """CPU time of a sample with its collating; 0 if nothing is known."""
    if m.samples is not None:
        return m.samples.cpu_s + m.samples.other_cpu_s + m.samples.collate_s
    pooled = [trial.cpu_s for trial in m.trials if trial.workers]
    return min(pooled, default=0.0)


def making_s(m: Measurement) -> float:
    """What a sample with its collating takes alone: computing, or standing still if that is longer."""
    waiting = alone_s(m.samples) + m.samples.collate_s if m.samples is not None else 0.0
    return max(sample_cpu_s(m), waiting)


def trials_of(m: Measurement, loader: str | None = None) -> dict[int, Trial]:
    """By the number of workers; of the loader that ran, or the one named."""
    kind = loader or m.setting.loader
    return {
        trial.workers: trial for trial in sorted(m.trials, key=lambda t: t.workers) if trial.loader == kind
    }


def inline_rate(m: Measurement) -> float | None:
    """Samples per second that the loop's own process makes without workers."""
    trial = trials_of(m).get(0)
    if trial is not None:
        return trial.samples_per_s
    if m.samples is None:
        return None
    return 1 / (m.samples.wall_s + m.samples.collate_s)


def handover_s(m: Measurement) -> float | None:
    """CPU time by which workers make a sample dearer than it is without them: the hand-off, at both ends."""
    trials = [trial for n, trial in trials_of(m).items() if n > 0]
    alone = sample_cpu_s(m)
    if not trials or m.samples is None:
        return None
    return max(0.0, min(trial.cpu_s + trial.main_cpu_s / trial.batch_size for trial in trials) - alone)


def beside_samples_s(m: Measurement) -> dict[str, float]:
    """Seconds that a batch takes beside ``dataset[i]``, by what is done; without what wasn't measured.

    All but the last are computing: "collating" as without workers; where there are workers, "placing", what
    one does beyond that to put a batch where the loop finds it, and "hand-off", of the loop's thread;
    "copying to the device".
    """
    found: dict[str, float] = {}
    trials = [trial for n, trial in trials_of(m).items() if n > 0] if m.setting.num_workers else []
    if m.samples is not None:
        found["collating"] = batch_size(m) * m.samples.collate_s
    if m.samples is not None and trials:
        each = max(0.0, min(trial.cpu_s for trial in trials) - sample_cpu_s(m))
        found["placing"] = batch_size(m) * each
    if trials:
        found["hand-off"] = batch_size(m) * min(trial.main_cpu_s / trial.batch_size for trial in trials)
    if m.ceiling is not None and m.ceiling.copy_s is not None:
        found["copying to the device"] = m.ceiling.copy_s
    return found


def plateau(m: Measurement) -> float | None:
    """Samples per second at which more workers no longer help, although cores idle; None if they do help.

    It takes two numbers of workers of which one is twice the other.
    """
    trials = {n: trial for n, trial in trials_of(m).items() if n > 0}
    cores = m.machine.cores
    if m.samples is not None and batch_size(m) * alone_s(m.samples) < TOO_CHEAP_S:
        return None  # what they wait for is the hand-off
    for n, trial in trials.items():
        fewer = [each for k, each in trials.items() if 2 * k <= n]
        if not fewer:
            continue
        gain = trial.samples_per_s / fewer[-1].samples_per_s
        busy = trial.samples_per_s * trial.cpu_s / min(n, cores)
        if gain < 1.3 and busy < 0.7 and trial.idle > 0.2:
            most = max(each.samples_per_s for each in trials.values())
            return most if most >= BELIEVED * samples_per_s(m) else None
    return None
