"""``num_workers="auto"`` beside every fixed number of workers, on what the cases of speed load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import penstock
from benchmarks.targets import Target
from benchmarks.throughput import WORKS, Case, Scale
from penstock.demo.advice import best, ratio
from penstock.demo.measure import Contender, Summary, contender
from penstock.machine import cpus

AUTO = "auto"


class Kept(penstock.DataLoader[Any]):
    """Outlives a pass, so that the next one begins with what was chosen in those before it."""

    def __exit__(self, *_: object) -> None:
        """Stay open; the workers end with the pass."""


def auto_case(work: str, scale: Scale, folder: Path) -> Case:
    """Each number of workers up to that of the processors; the warm-up is the time to choose in."""
    title, options = WORKS[work](scale, folder)
    fixed = [contender(penstock.DataLoader, "penstock", workers, options) for workers in range(cpus() + 1)]
    return Case(f"{AUTO}-{work}", title, [*fixed, _chooser(options)], _targets, rival="penstock")


CASES: dict[str, Callable[[Scale, Path], Case]] = {
    f"{AUTO}-{work}": partial(auto_case, work) for work in WORKS
}


def _chooser(options: dict[str, Any]) -> Contender:
    """One loader for all passes."""
    loader = Kept(num_workers="auto", **options)
    return contender(lambda **_: loader, AUTO, loader.num_workers, options)


def _targets(rows: Sequence[Summary]) -> list[Target]:
    chosen = next(row for row in rows if row.loader == AUTO)
    return [
        Target("num_workers='auto' to the best fixed number", ratio(chosen, best(rows, "penstock")), 0.95)
    ]
