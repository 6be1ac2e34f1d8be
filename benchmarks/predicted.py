"""What `penstock.profile` predicts beside what comes of it, on what the cases of speed load.

A prediction stands in the table like a pass: of the loop without a step, for each number of workers up to
that of the processors, from a profile of that loop with one worker; and for images with a cache of what is
the same every time. It is of a loop that goes on, so it is held against the rate after the first batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import penstock
from benchmarks.cached import CACHED, full_cache
from benchmarks.targets import Target, going_ratio
from benchmarks.throughput import CACHED_IMAGES, WORKS, Case, Scale
from penstock.demo.measure import Contender, Pass, Summary, contender
from penstock.machine import cpus

PREDICT = "predict"
PREDICTED, PREDICTED_CACHED = "predicted", "predicted, cached"
WITHIN = 0.15
MORE_ROUNDS = {"tiny": 3}
"""A pass of it takes a second, in which the machine's speed is one thing or another."""
IMAGES = ("pil", "uint8")
MEASURED = {PREDICTED: "penstock", PREDICTED_CACHED: CACHED}


class _Predictor:
    """Profiles once in each round, for whichever prediction is asked first."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._reports: list[penstock.Report] = []

    def contender(self, name: str, workers: int) -> Contender:
        """What is predicted for so many workers, as if it had been run."""
        rounds = iter(range(10**9))
        return Contender(name, workers, lambda: self._predicted(name, workers, next(rounds)))

    def _predicted(self, name: str, workers: int, turn: int) -> Pass:
        report = self._report(turn)
        cut = _steady(report) if name == PREDICTED_CACHED else None
        expected = report.predict(num_workers=workers, cache_after=cut)
        samples = len(self._options["dataset"])
        seconds = samples / expected.samples_per_s
        return Pass(samples, 1, samples, seconds, seconds, seconds, 0.0)

    def _report(self, turn: int) -> penstock.Report:
        if turn == len(self._reports):
            with penstock.DataLoader(num_workers=1, **self._options) as loader:
                self._reports.append(penstock.profile(loader))
        return self._reports[turn]


def _steady(report: penstock.Report) -> str:
    """The last of the parts that are the same every time."""
    assert report.data.samples is not None
    return [part.name for part in takewhile(lambda p: p.deterministic is True, report.data.samples.parts)][-1]


def predict_case(work: str, scale: Scale, folder: Path) -> Case:
    """Each number of workers, run and predicted."""
    title, options = WORKS[work](replace(scale, images=min(scale.images, CACHED_IMAGES)), folder)
    predictor = _Predictor(options)
    contenders = []
    for workers in range(cpus() + 1):
        contenders.append(contender(penstock.DataLoader, "penstock", workers, options))
        contenders.append(predictor.contender(PREDICTED, workers))
    if work in IMAGES:
        cached = {**options, "dataset": full_cache(options["dataset"], 2)}
        contenders.append(contender(penstock.DataLoader, CACHED, 2, cached))
        contenders.append(predictor.contender(PREDICTED_CACHED, 2))
    return Case(f"{PREDICT}-{work}", title, contenders, _targets, "penstock", MORE_ROUNDS.get(work, 1))


def _targets(rows: Sequence[Summary]) -> list[Target]:
    """How far each prediction is off, in the middle of all rounds."""
    by_name = {(row.loader, row.workers): row for row in rows}
    return [
        Target(
            f"{row.loader}, {row.workers} workers: off by",
            abs(going_ratio(row, by_name[MEASURED[row.loader], row.workers]) - 1),
            at_most=WITHIN,
        )
        for row in rows
        if row.loader in MEASURED
    ]


CASES: dict[str, Callable[[Scale, Path], Case]] = {
    f"{PREDICT}-{work}": partial(predict_case, work) for work in WORKS
}
