"""Measurements made up from a known truth: a machine, a sample's cost and a step's length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from penstock.profiling.data import (
    Ceiling,
    Loop,
    Machine,
    Measurement,
    Part,
    Samples,
    Setting,
    SlowSample,
    Trial,
)

BATCH = 10


def loop(wait: float, step: float, batches: int = 20, **more: Any) -> Loop:
    return Loop(
        batches, batches * BATCH, (wait,) * batches, (step,) * batches, **{"first_batch_s": 0.2, **more}
    )


def samples(wall: float, cpu: float | None = None, **more: Any) -> Samples:
    known: dict[str, Any] = {"p50_s": wall, "p99_s": wall, "max_s": wall, "top_share": 0.02, "nbytes": 1000}
    return Samples(100, wall, wall if cpu is None else cpu, **{**known, **more})


def trial(workers: int, rate: float, cpu: float, idle: float = 0.5, **more: Any) -> Trial:
    known: dict[str, Any] = {"first_batch_s": 0.1, "main_cpu_s": 0.0, "spread": 0.01, "batch_size": BATCH}
    return Trial(workers, rate, cpu_s=cpu, idle=idle, **{**known, **more})


def measured(
    workers: int = 1,
    sample: float = 0.01,
    cpu: float | None = None,
    step: float = 0.05,
    cores: int = 4,
    serial: float = 0.0,
    inline: bool = True,
    **more: Any,
) -> Measurement:
    """A loop over samples that take so long, `cpu` of it computing, on an otherwise idle machine.

    With `serial`, that long of each sample only one worker can be at it.
    """
    cpu = sample if cpu is None else cpu

    def rate(n: int) -> float:
        bounds = [n / sample, cores / cpu if cpu else 1e9, 1 / serial if serial else 1e9]
        return min(bounds)

    making = BATCH * (sample if workers == 0 else 1 / rate(workers))
    wait = making if workers == 0 else max(0.0, making - step)
    trials = tuple(
        trial(n, rate(n), cpu, idle=1 - min(1.0, rate(n) * cpu / cores))
        for n in sorted({1, 2, cores} | {workers} - {0})
    )
    one = samples(sample, cpu, waits={"other": sample - cpu}) if inline else None
    known: dict[str, Any] = {
        "setting": Setting("penstock", "Made", workers, BATCH, 2, dataset_size=10_000),
        "machine": Machine(cores, 10**10),
        "loop": loop(wait, step),
        "ceiling": Ceiling(20, step, 0.0),
        "samples": one,
        "trials": trials,
    }
    return Measurement(**{**known, **more})


def with_parts(m: Measurement, **seconds: float) -> Measurement:
    """Of these parts, all deterministic but those called random."""
    parts = tuple(
        Part(name, "decoding" if name == "decode" else "transform", s, s, 500, not name.startswith("Random"))
        for name, s in seconds.items()
    )
    assert m.samples is not None
    return replace(m, samples=replace(m.samples, parts=parts))


SLOW = SlowSample("17", 0.8, "images/17.png")
