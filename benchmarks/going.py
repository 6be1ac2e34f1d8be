"""Loaders in the midst of an epoch, which take short turns.

A machine's speed may change by half within a second. Of many short turns, two in a row mostly have the same,
and the middle of their ratios is that of an undisturbed machine. What starting costs is in other cases.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
from torch.utils.data import DataLoader

from penstock.demo.measure import Contender, Pass

AHEAD = 8
"""Batches of a turn that aren't timed: they may have been made before it, while those of whoever had the last
turn may still be in the making."""
TURN = 40
"""Batches of a turn that are, after these."""


def going(
    kind: Callable[..., DataLoader[Any]], name: str, workers: int, options: dict[str, Any]
) -> Contender:
    """A loader whose epochs go on from turn to turn; while others have theirs, its workers wait."""
    loader = kind(num_workers=workers, persistent_workers=True, **options)
    batches = _on_and_on(loader)
    return Contender(name, workers, lambda: _turn(batches, loader.batch_size or 1))


def _on_and_on(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _turn(batches: Iterator[Any], batch_size: int) -> Pass:
    for _ in range(AHEAD):
        next(batches)
    cpu, start = _cpu_seconds(), time.perf_counter()
    arrivals = [time.perf_counter() for _, _ in zip(range(TURN), batches, strict=False)]
    end = time.perf_counter()
    return Pass(
        samples=TURN * batch_size,
        batches=TURN,
        first_samples=batch_size,
        seconds=end - start,
        first_batch=arrivals[0] - start,
        last_batch=arrivals[-1] - start,
        cpu_seconds=_cpu_seconds() - cpu,
    )


def _cpu_seconds() -> float:
    """Of this process and all below it; those of other contenders do nothing meanwhile."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))
