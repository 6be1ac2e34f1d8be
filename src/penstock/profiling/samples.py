"""What one sample costs, and where: asks a `Probe` in a worker, and puts its answers together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from penstock.errors import BatchTimeoutError
from penstock.loader import DataLoader
from penstock.profiling.alone import Source
from penstock.profiling.data import Line, Part, Samples, SlowSample, Trial
from penstock.profiling.lines import Seen
from penstock.profiling.probe import (
    COSTS,
    INLINE,
    LINES,
    PARTS,
    SHOWN,
    STEADY,
    Answer,
    Cost,
    Dress,
    Probe,
    Task,
    as_it_is,
)

MOST_SAMPLES = 500
LINES_SHOWN = 10
TOGETHER_S = 0.8
"""Two workers are watched for so long at least: they don't start at the same moment."""
STUDY_SAMPLES = 60
"""About so many samples are made to prove which part is the same every time."""
STUDY_S = 10.0
"""The proof is left out where that would take longer."""


class SamplesNotMeasured(Exception):
    """No sample could be made; the message says why."""


def measure_samples(source: Source, seconds: float, problems: list[str]) -> Samples:
    """Measure for about so many seconds; what fails beside the costs themselves is told in `problems`.

    Raises:
        SamplesNotMeasured: if not even one sample could be made.
    """
    indices = _indices(source)
    each = seconds / 5
    costs = _ask(source, [Task(COSTS, indices, 2 * each)], 1)[0]
    if not costs.costs:
        raise SamplesNotMeasured(costs.problem or "the dataset gave no samples")
    tasks = [Task(PARTS, indices, each), Task(LINES, indices, each)]
    if not source.iterable and STUDY_SAMPLES * fmean(c.wall for c in costs.costs) < STUDY_S:
        tasks.insert(0, Task(STEADY, (), 0.0))  # it forks, which OpenMP must not have been used before
    *steady, parts, lines = _ask(source, tasks, 1)
    pair = _ask(source, [Task(LINES, indices, max(each, TOGETHER_S))] * 2, 2)
    problems += [each.problem for each in (costs, parts, lines, *steady, *pair) if each.problem]
    return _together(costs, parts, lines, steady[0] if steady else None, pair)


def measure_inline(source: Source, seconds: float, sample_s: float, problems: list[str]) -> Trial | None:
    """The loader alone without workers, in a process of its own; None where that can't be had."""
    answer = _ask(source, [Task(INLINE, (), seconds, sample_s)], 1)[0]
    if answer.problem:
        problems.append(f"num_workers=0 couldn't be tried: {answer.problem}")
    return answer.trial


def _indices(source: Source) -> tuple[Any, ...]:
    if source.iterable:
        return tuple(range(MOST_SAMPLES))
    if source.batch_size is None:
        return tuple(source.batches[:MOST_SAMPLES])
    return tuple(index for batch in source.batches for index in batch)[:MOST_SAMPLES]


def _ask(source: Source, tasks: Sequence[Task], workers: int) -> list[Answer]:
    """The answers to these tasks, each given to one of so many workers."""
    options, probe = source.options, Probe(source)
    try:
        with (
            warnings.catch_warnings(),
            DataLoader(
                probe,
                batch_size=None,
                sampler=tasks,
                num_workers=workers,
                collate_fn=as_it_is,
                worker_init_fn=Dress(source.dataset, options["worker_init_fn"]),
                multiprocessing_context=options["multiprocessing_context"],
                prefetch_factor=len(tasks),
                timeout=source.patience_s,
            ) as loader,
        ):
            warnings.simplefilter("ignore")
            return list(loader)
    except BatchTimeoutError:
        hangs = f"nothing came for {source.patience_s:.0f} s: the dataset hangs in a worker"
        return [Answer(problem=hangs)] * len(tasks)
    except Exception as error:  # a worker that died, a dataset that can't be sent
        return [Answer(problem=f"{type(error).__name__}: {error}")] * len(tasks)


def _together(
    costs: Answer, parts: Answer, lines: Answer, steady: Answer | None, pair: Sequence[Answer]
) -> Samples:
    known = costs.costs
    walls = sorted(map(_alone, known))
    slowest = sorted(known, key=_alone, reverse=True)[:SHOWN]
    still = _still_shares(lines)
    top = max(1, round(len(walls) / 50))
    mean, cpu = fmean(cost.wall for cost in known), fmean(cost.cpu for cost in known)
    mean, cpu = costs.together or (mean, cpu)
    return Samples(
        measured=len(known),
        wall_s=mean,
        cpu_s=cpu,
        other_cpu_s=fmean(cost.other_cpu for cost in known),
        unscheduled_s=0.0 if costs.together else fmean(cost.unscheduled for cost in known),
        waits={kind: share * mean for kind, share in still.items()},
        contended_lock=_contended(still, pair),
        p50_s=walls[len(walls) // 2],
        p99_s=walls[min(len(walls) - 1, int(len(walls) * 0.99))],
        max_s=walls[-1],
        top_share=sum(walls[-top:]) / sum(walls) if sum(walls) else 0.0,
        nbytes=costs.nbytes,
        dtype=costs.dtype,
        collate_s=costs.collate_s,
        **({} if parts.copy_rate is None else {"copy_bytes_per_s": parts.copy_rate}),
        deterministic=None if steady is None or steady.steady is None else steady.whole,
        parts=_marked(_scaled(parts.parts, mean, cpu), steady),
        lines=tuple(_lines(lines.seen)),
        slowest=tuple(map(_slow, slowest)),
    )


def _alone(cost: Cost) -> float:
    """Its time, less that in which it only lacked a core."""
    return cost.wall - cost.unscheduled


def _slow(cost: Cost) -> SlowSample:
    return SlowSample(str(cost.index), _alone(cost), cost.path)


def _still_shares(answer: Answer) -> dict[str, float]:
    seen = answer.seen
    if seen is None or not seen.all:
        return {}
    return {kind: still / seen.all for kind, still in seen.kinds.most_common() if still}


def _contended(alone: dict[str, float], pair: Sequence[Answer]) -> float:
    """How much more two workers wait for a lock than one does."""
    both = [_still_shares(answer).get("lock", 0.0) for answer in pair if answer.seen is not None]
    return max(0.0, fmean(both) - alone.get("lock", 0.0)) if both else 0.0


def _scaled(parts: tuple[Part, ...], wall: float, cpu: float) -> tuple[Part, ...]:
    """So that they add up to the sample's own time: splitting it takes time as well."""
    walls, cpus = sum(part.wall_s for part in parts) or 1.0, sum(part.cpu_s for part in parts) or 1.0
    return tuple(
        replace(part, wall_s=part.wall_s * wall / walls, cpu_s=part.cpu_s * cpu / cpus) for part in parts
    )


def _marked(parts: tuple[Part, ...], steady: Answer | None) -> tuple[Part, ...]:
    """With what is known of each: the same every time, or not."""
    if steady is None or steady.steady is None:
        return parts

    def known(part: Part) -> bool | None:
        if part.kind != "transform":
            return True if steady.begins else None
        if steady.whole:
            return True
        return part.name.split(" #")[0] in (steady.steady or ())

    return tuple(replace(part, deterministic=known(part)) for part in parts)


def _lines(seen: Seen | None) -> list[Line]:
    if seen is None or not seen.all:
        return []
    return [
        Line(where[0], where[1], long / seen.all, seen.still[where] > long / 2)
        for where, long in seen.lines.most_common(LINES_SHOWN)
    ]
