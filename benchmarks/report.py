"""The benchmarks' figures as tables and as data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.targets import Target
from penstock.demo.advice import best, duration, ratio
from penstock.demo.measure import Spread, Summary
from penstock.demo.record import records
from penstock.demo.report import amount, reach

MIB = 2**20


@dataclass(frozen=True, slots=True)
class SpeedResult:
    """One case of speed, measured."""

    name: str
    title: str
    rows: tuple[Summary, ...]
    targets: list[Target]
    rival: str = "torch"

    def table(self) -> Table:
        """One row for each contender."""
        first = self.rows[0].passes[0]
        view = Table(
            title=f"{self.title}: {first.samples} samples in {first.batches} batches a pass\n"
            "(steady: after the first batch; bare: processes without a loader)",
            title_justify="left",
            box=box.SIMPLE_HEAD,
        )
        view.add_column("")
        for heading in (
            "processes",
            "samples/s",
            "spread",
            "batches/s",
            "steady,\nsamples/s",
            "first\nbatch",
            "CPU per\nsample",
            f"to best\n{self.rival}",
        ):
            view.add_column(heading, justify="right")
        rival = best(self.rows, self.rival)
        for row in self.rows:
            view.add_row(*self._cells(row, rival))
        return view

    def _cells(self, row: Summary, rival: Summary) -> list[str]:
        """One contender's figures."""
        batch = row.passes[0].samples / row.passes[0].batches
        steady = row.steady_rate
        return [
            row.loader,
            str(row.workers),
            amount(row.rate.median),
            reach(row.rate),
            f"{row.rate.median / batch:,.1f}",
            "" if steady is None else amount(steady.median),
            duration(row.first_batch.median),
            duration(row.cpu_per_sample.median),
            f"{ratio(row, rival):.2f}",
        ]

    def data(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {"title": self.title, "results": records(self.rows), **_targets(self.targets)}


@dataclass(frozen=True, slots=True)
class MemoryResult:
    """The memory case, measured: summed PSS in bytes by loader."""

    title: str
    passes: Mapping[str, list[int]]
    targets: list[Target]
    name: str = "memory"

    def table(self) -> Table:
        """One row for each loader."""
        view = Table(
            title=self.title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            min_width=len(self.title),
        )
        view.add_column("")
        view.add_column("summed PSS, MiB", justify="right")
        view.add_column("spread", justify="right")
        for loader, figures in self.passes.items():
            spread = Spread.of(figure / MIB for figure in figures)
            view.add_row(loader, amount(spread.median), reach(spread))
        return view

    def data(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {"title": self.title, "pss_bytes": dict(self.passes), **_targets(self.targets)}


@dataclass(frozen=True, slots=True)
class ShuffleResult:
    """The shuffle, measured: for each way, what each pass took."""

    title: str
    passes: Mapping[str, list[dict[str, float]]]
    targets: list[Target]
    name: str = "shuffle"

    def table(self) -> Table:
        """One row for each way."""
        view = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, min_width=len(self.title))
        for heading in ("", "ms", "spread", "bytes a sample"):
            view.add_column(heading, justify="right" if heading else "left")
        for how, figures in self.passes.items():
            taken = Spread.of(each["bytes_each"] for each in figures)
            spread = Spread.of(each["seconds"] * 1000 for each in figures)
            view.add_row(how, amount(spread.median), reach(spread), f"{taken.median:.1f}")
        return view

    def data(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {"title": self.title, "passes": dict(self.passes), **_targets(self.targets)}


Result = SpeedResult | MemoryResult | ShuffleResult


def targets_table(results: Sequence[Result]) -> Table:
    """Every target beside its figure."""
    view = Table(title="Targets", title_justify="left", box=box.SIMPLE_HEAD)
    view.add_column("case")
    view.add_column("ratio")
    for heading in ("figure", "target", "met"):
        view.add_column(heading, justify="right")
    for result in results:
        for target in result.targets:
            view.add_row(result.name, target.what, f"{target.figure:.2f}", _bound(target), _met(target))
    return view


def _bound(target: Target) -> str:
    """The target in signs."""
    if target.at_least is not None:
        return f">= {target.at_least:g}"
    return "" if target.at_most is None else f"<= {target.at_most:g}"


def _met(target: Target) -> str:
    """Whether it is met, in colour where there is any."""
    words = {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}
    return words[target.met]


def _targets(targets: Sequence[Target]) -> dict[str, Any]:
    """The targets as data."""
    return {"targets": [{**asdict(target), "met": target.met} for target in targets]}
