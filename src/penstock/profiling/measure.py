"""`penstock.profile`: a loop over a loader, its ceiling, its samples, and the loader alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import IterableDataset

from penstock.indices import unmoved
from penstock.loader import DataLoader
from penstock.machine import available_memory, cpus
from penstock.original import TorchDataLoader
from penstock.profiling import device, figures
from penstock.profiling.alone import DISTURBED, source_of, try_workers, worker_counts
from penstock.profiling.data import Loop, Machine, Measurement, Samples, Setting, Trial
from penstock.profiling.samples import MOST_SAMPLES, SamplesNotMeasured, measure_inline, measure_samples
from penstock.profiling.watching import Limits, Watch

SAMPLES_S = 4.0
"""How long the samples are measured, in all."""
TRIAL_S = 1.5
"""How long each number of workers is tried."""
QUICK_S = 0.02
"""What a loader adds to a sample that takes longer isn't worth a trial without workers."""
FULL_S = 10.0
"""Where the loop is to be watched for less, the rest is measured for less as well, down to `LEAST` of it."""
LEAST = 0.2
ROUGH = 0.2
"""More of the samples' cost shouldn't hang on a single one."""

Say = Callable[[str], None]


class NothingToProfile(ValueError):
    """The loader gave fewer than three batches, so that there is nothing to time."""


@dataclass(slots=True)
class Details:
    """What was found out beside the loop."""

    samples: Samples | None = None
    trials: tuple[Trial, ...] = ()
    problems: list[str] = field(default_factory=list)


def machine() -> Machine:
    used = device.in_use()
    name = "cpu" if used is None else torch.cuda.get_device_name(used)
    return Machine(cpus(), available_memory(), name)


def setting_of(loader: Any, where: str = "", has_step: bool = True) -> Setting:
    """The loader, as it is set."""
    dataset, iterable = loader.dataset, isinstance(loader.dataset, IterableDataset)
    return Setting(
        loader="penstock" if isinstance(loader, DataLoader) else "torch",
        dataset=type(dataset).__qualname__,
        num_workers=loader.num_workers,
        batch_size=loader.batch_size,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        iterable=iterable,
        epoch_batches=length(loader),
        dataset_size=None if iterable else length(dataset),
        has_step=has_step,
        where=where,
    )


def length(thing: Any) -> int | None:
    """How long a loader or a dataset is, if it can tell."""
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None


def measure_loop(
    loader: Any, step: Callable[[Any], object] | None, limits: Limits, tick: Callable[[Watch], None]
) -> Watch:
    """Run the loop until enough was seen, for as many epochs as that takes."""
    watch = watch_of(loader, limits, step is not None, tick)
    seen = -1
    while not watch.over and seen != watch.recorder.batches:
        seen = watch.recorder.batches
        for batch in watch.iterate(lambda: iter(loader), _nothing):
            if step is not None:
                step(batch)
            del batch
    return watch


def watch_of(loader: Any, limits: Limits, ceiling: bool, tick: Callable[[Watch], None]) -> Watch:
    settle = loader.num_workers * (loader.prefetch_factor or 2)
    return Watch(loader, limits, settle, ceiling, tick)


def _nothing(_: Watch) -> None:
    """An epoch is over: on with the next."""


def measure_details(loader: Any, loop: Loop | None, say: Say, seconds: float) -> Details:
    """The samples, and the loader alone, where the loop was watched for so many seconds.

    What fails or hangs is told in the problems: half a report is better than none.
    """
    details = Details()
    with unmoved(loader):
        _measure(
            loader,
            batch_at_most_s(loop, loader.num_workers),
            details,
            say,
            min(1.0, max(LEAST, seconds / FULL_S)),
        )
    return details


def batch_at_most_s(loop: Loop | None, workers: int) -> float:
    """What a batch takes at most to make, if as many workers as there are made one each while the loop went
    round once."""
    if loop is None:
        return 0.0
    rounds = (wait + step for wait, step in zip(loop.waits, loop.steps, strict=True))
    return max(1, workers) * max(loop.first_batch_s, *rounds)


def _measure(loader: Any, batch_s: float, details: Details, say: Say, part: float) -> None:
    source = source_of(loader, MOST_SAMPLES, batch_s)
    say("measuring samples in a worker")
    try:
        details.samples = measure_samples(source, SAMPLES_S * part, details.problems)
    except SamplesNotMeasured as error:
        details.problems.append(f"no sample could be measured: {error}")
        return
    samples = details.samples
    if (chance := figures.by_chance(samples)) >= ROUGH:
        seen = f"of the {samples.measured} that were looked at, one took {chance:.0%} of the time"
        details.problems.append(f"what a sample costs, but roughly: {seen}")
    sample_s = figures.alone_s(samples) + samples.collate_s
    if loader.num_workers and sample_s < QUICK_S:
        say("trying the loader alone without workers, in a worker")
        inline = measure_inline(source, TRIAL_S * part, sample_s, details.problems)
        details.trials += (inline,) if inline is not None else ()
    waiting = figures.waiting_share(samples) >= 0.5
    patient = True
    for workers in worker_counts(machine().cores, loader.num_workers, waiting):
        say(f"trying the loader alone with num_workers={workers}")
        try:
            trial = try_workers(source, workers, TRIAL_S * part, sample_s, patient)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            details.problems.append(f"num_workers={workers} couldn't be tried: {failure}")
            continue
        details.trials += (trial,)
        patient = trial.foreign < DISTURBED
    worst = max((trial.foreign for trial in details.trials), default=0.0)
    if worst >= DISTURBED:
        busy = f"other programs used up to {worst:.0%} of the cores meanwhile"
        details.problems.append(f"the loader alone without disturbance: {busy}")


def assemble(watch: Watch, details: Details, setting: Setting, of: Machine) -> Measurement:
    """All that was measured.

    Raises:
        NothingToProfile: if there were too few batches.
    """
    loop = watch.loop
    if loop is None:
        batches = watch.recorder.batches
        if batches >= 3:
            raise NothingToProfile(
                f"all {batches} batches of the loop were the first of their epochs, which tells how long a "
                "start takes, and no more. Profile a loop that takes three batches of one iterator, at least."
            )
        raise NothingToProfile(
            f"the loop took {batches} batch{'' if batches == 1 else 'es'}: profiling needs three at least"
        )
    return Measurement(
        setting,
        of,
        loop,
        watch.ceiling.ceiling(),
        details.samples,
        details.trials,
        watch.spans,
        tuple(watch.levels),
        tuple(details.problems),
    )


def require_loader(loader: Any) -> None:
    """Raise TypeError for what is no loader."""
    if not isinstance(loader, TorchDataLoader):
        raise TypeError(
            f"profile() takes a DataLoader, torch's or Penstock's, not {type(loader).__qualname__}"
        )
