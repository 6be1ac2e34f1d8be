"""The demo's result as tables for people and as data for programs."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from penstock.demo.advice import advise, best, duration, ratio
from penstock.demo.measure import Spread, Summary
from penstock.demo.record import environment, records
from penstock.demo.run import CaseResult, DemoResult

HEADINGS = ("workers", "samples/s", "spread", "first\nbatch", "CPU per\nsample", "to best\ntorch")


def show(result: DemoResult, console: Console) -> None:
    """Print a table and a sentence for each case, and the files that did not decode."""
    cores = environment()["cores"]
    console.print(
        f"\n{cores} core{'s' if cores > 1 else ''}; the median of {result.rounds} passes after a "
        "warm-up, the loaders in turn;\na pass starts its workers and ends with them gone; "
        "one torch thread per process."
    )
    for case in result.cases:
        console.print()
        console.print(table(f"{case.title}: {case.samples} samples", case.rows))
        console.print(advise(case.rows), highlight=False)
    if result.undecodable:
        console.print(f"\nLeft out, as they do not decode ({len(result.undecodable)} files):")
        for path in result.undecodable:
            console.print(f"  {PurePath(path).name}", highlight=False, markup=False)


def table(title: str, rows: Sequence[Summary]) -> Table:
    """One row for each contender, the best in bold."""
    view = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    view.add_column("loader", no_wrap=True)
    for heading in HEADINGS:
        view.add_column(heading, justify="right")
    winner, rival = best(rows), best(rows, "torch")
    for row in rows:
        view.add_row(
            row.loader,
            str(row.workers),
            amount(row.rate.median),
            reach(row.rate),
            duration(row.first_batch.median),
            duration(row.cpu_per_sample.median),
            f"{ratio(row, rival):.2f}x",
            style="bold" if row is winner else None,
        )
    return view


def reach(spread: Spread) -> str:
    """The lowest and the highest of some figures."""
    return f"{amount(spread.low)}..{amount(spread.high)}"


def amount(figure: float) -> str:
    """A number of some size, in six characters."""
    return f"{figure:,.0f}" if figure < 99_999.5 else f"{figure / 1000:,.0f}k"


def data(result: DemoResult) -> dict[str, Any]:
    """All figures, ready for JSON."""
    return {
        **environment(),
        "rounds": result.rounds,
        "cases": [_case(case) for case in result.cases],
        "undecodable": [PurePath(path).name for path in result.undecodable],
    }


def _case(case: CaseResult) -> dict[str, Any]:
    """One case as data."""
    return {
        "name": case.name,
        "title": case.title,
        "samples": case.samples,
        "advice": advise(case.rows),
        "results": records(case.rows),
    }
