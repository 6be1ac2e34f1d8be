"""What it costs a loop that `penstock.profile` watches it: each loop with and without, in turn."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import penstock
from benchmarks.targets import Target, going_ratio
from benchmarks.throughput import WORKS, Case, Scale
from penstock.demo.measure import Summary, contender
from penstock.machine import cpus
from penstock.profiling.measure import watch_of
from penstock.profiling.watching import Limits, Watch

OVERHEAD = "overhead"
WATCHED = "watched"
AT_LEAST = 0.98
SHORTER = {"pil": 6, "uint8": 6, "tiny": 6, "cheap": 60}
"""Passes of a tenth of a second or so (images: a second): a machine's speed may change by half within a
second, and two in turn should have the same."""
MORE_ROUNDS = {"pil": 6, "uint8": 6, "tiny": 30, "cheap": 60}
"""As many more of them."""
_ENDLESS = Limits(None, float("inf"))


class Profiled(penstock.DataLoader[Any]):
    """Its loop is watched as one that is profiled, and never ended; one watch looks at all passes."""

    def __init__(self, watches: dict[int, Watch], **options: Any) -> None:
        super().__init__(**options)
        self._watches = watches

    def __iter__(self) -> Any:
        """An epoch, watched."""
        watch = self._watches.get(self.num_workers)
        if watch is None:
            watch = self._watches[self.num_workers] = watch_of(self, _ENDLESS, False, _ignore)
        watch.follow(self)
        return watch.iterate(super().__iter__, _ignore)


def _ignore(_: Watch) -> None:
    """Neither shown nor ended."""


def overhead_case(work: str, scale: Scale, folder: Path) -> Case:
    """Without workers, and with as many as there are processors."""
    parts = SHORTER[work]
    shorter = replace(
        scale, images=scale.images // parts, tiny=scale.tiny // parts, cheap=scale.cheap // parts
    )
    title, options = WORKS[work](shorter, folder)
    kinds = ((penstock.DataLoader, "penstock"), (partial(Profiled, {}), WATCHED))
    contenders = [contender(kind, name, workers, options) for workers in (0, cpus()) for kind, name in kinds]
    rounds = MORE_ROUNDS[work]
    return Case(f"{OVERHEAD}-{work}", title, contenders, _targets, rival="penstock", more_rounds=rounds)


def _targets(rows: Sequence[Summary]) -> list[Target]:
    by_name = {(row.loader, row.workers): row for row in rows}
    return [
        Target(
            f"{workers} workers: watched to not watched",
            going_ratio(row, by_name["penstock", workers]),
            AT_LEAST,
        )
        for (loader, workers), row in by_name.items()
        if loader == WATCHED
    ]


CASES: dict[str, Callable[[Scale, Path], Case]] = {
    f"{OVERHEAD}-{work}": partial(overhead_case, work) for work in WORKS
}
