"""A figure beside what it should be. Nothing is asserted: a figure may miss its target."""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.demo.advice import best, ratio
from penstock.demo.cases import LOADERS
from penstock.demo.measure import Pass, Summary, paired


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio, and the bound that it should keep; without a bound it is there to be known."""

    what: str
    figure: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the figure keeps its bounds; None where there are none."""
        if self.at_least is not None:
            return self.figure >= self.at_least
        if self.at_most is not None:
            return self.figure <= self.at_most
        return None


def row(rows: Sequence[Summary], loader: str, workers: int) -> Summary:
    """The one row of this loader with so many workers."""
    return next(each for each in rows if (each.loader, each.workers) == (loader, workers))


def going_ratio(above: Summary, below: Summary) -> float:
    """How many times the samples per second of `below`, once the first batch is there."""
    return paired(above, below, _going_rate).median


def _going_rate(run: Pass) -> float:
    """Of a pass that has no batches, such as a prediction's, over all of it."""
    return run.steady_rate or run.rate


def image_targets(rows: Sequence[Summary], goal: float) -> list[Target]:
    """Against torch's best number of workers, and against processes without any loader."""
    ours, theirs, alone = row(rows, "penstock", 2), best(rows, "torch"), row(rows, "bare", 1)
    share = ratio(ours, alone) / 2
    pair = ratio(ours, row(rows, "bare", 2))
    return [
        Target("Penstock, 2 workers, to torch's best", ratio(ours, theirs), goal),
        Target("Penstock's best to torch's best", ratio(best(rows, "penstock"), theirs)),
        Target("Penstock, 2 workers, to twice one bare process", share, 0.9),
        Target("Penstock, 2 workers, to two bare processes", pair),
        *first_batch_targets(rows),
    ]


def pair_targets(rows: Sequence[Summary], goal: float) -> list[Target]:
    """Against torch, both with two workers."""
    gain = ratio(row(rows, "penstock", 2), row(rows, "torch", 2))
    return [
        Target("Penstock to torch, 2 workers each", gain, goal),
        *first_batch_targets(rows),
    ]


def first_batch_targets(rows: Sequence[Summary], at_most: float = 1.0) -> list[Target]:
    """Time to first batch against torch's, for each number of workers that both have.

    Without workers, where both do the same in the same process, the ratio is only shown.
    """
    counts = {loader: {each.workers for each in rows if each.loader == loader} for loader in LOADERS}
    return [
        Target(
            f"time to first batch, {workers} workers: Penstock's to torch's",
            paired(
                row(rows, "penstock", workers), row(rows, "torch", workers), lambda run: run.first_batch
            ).median,
            at_most=at_most if workers else None,
        )
        for workers in sorted(counts["torch"] & counts["penstock"])
    ]
