"""The report for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.profiling import figures
from penstock.profiling.data import Measurement, Samples
from penstock.profiling.predict import Checked, predict
from penstock.profiling.verdict import Verdict, beyond
from penstock.profiling.words import duration, rate, share, size

WIDTH = 100


def view(m: Measurement, verdict: Verdict, checked: Checked | None) -> RenderableType:
    """The verdict, the figures under it, and what to change."""
    return Group(*_sections(m, verdict, checked))


def as_text(m: Measurement, verdict: Verdict, checked: Checked | None) -> str:
    """The same as plain text."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    console.print(view(m, verdict, checked), highlight=False)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _sections(m: Measurement, verdict: Verdict, checked: Checked | None) -> Iterator[RenderableType]:
    where = f" {m.setting.where}" if m.setting.where else ""
    yield Text(f"{m.setting.dataset}, num_workers={m.setting.num_workers}{where}", style="dim")
    yield Text(verdict.text, style="bold")
    if verdict.advice:
        yield Text("\nWhat to change")
        yield Padding(_advice(verdict), (0, 0, 0, 2))
    if checked is not None:
        yield Text(_checked(m, checked))
    yield Text("\nMeasured")
    for line in verdict.evidence:
        yield Padding(Text(line), (0, 0, 0, 2))
    if m.samples is not None:
        yield from _of_samples(m.samples)
    if m.trials:
        yield Text("\nWorkers")
        yield Padding(_workers(m), (0, 0, 0, 2))
    for problem in m.problems:
        yield Text(f"Not measured: {problem}", style="yellow")


def _checked(m: Measurement, checked: Checked) -> str:
    """Beside what was predicted, or else beside what was before."""
    word, rated, waits = "before", figures.samples_per_s(m), figures.waited_share(m)
    if checked.predicted is not None:
        word, rated, waits = "predicted", checked.predicted.samples_per_s, checked.predicted.stall
    return (
        f"\nChecked with {checked.setting}: {rate(checked.samples_per_s)} samples/s ({word} {rate(rated)}), "
        f"waits {share(checked.stall)} of the time ({word} {share(waits)}){beyond(checked)}"
    )


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", overflow="fold")
    return table


def _advice(verdict: Verdict) -> Table:
    table = Table.grid(padding=(0, 2))
    for advice in verdict.advice:
        expected = advice.prediction
        figure = ""
        if expected is not None:
            figure = (
                f"{rate(expected.samples_per_s)} samples/s ({rate(expected.low)} to {rate(expected.high)})"
            )
        table.add_row(Text(advice.setting, style="bold"), figure, Text(advice.why))
    return table


def _of_samples(samples: Samples) -> Iterator[RenderableType]:
    if samples.parts:
        table = _table("part of a sample", "time", "CPU", "share", "gives", "each time")
        total = sum(part.wall_s for part in samples.parts) or 1.0
        for part in samples.parts:
            table.add_row(
                part.name,
                duration(part.wall_s),
                duration(part.cpu_s),
                share(part.wall_s / total),
                size(part.nbytes) if part.nbytes is not None else "",
                {True: "the same", False: "random", None: ""}[part.deterministic],
            )
        yield Padding(table, (1, 0, 0, 2))
    if samples.lines:
        table = _table("line", "share", "")
        for line in samples.lines[:5]:
            table.add_row(f"{line.where} {line.function}", share(line.share), "waits" if line.waiting else "")
        yield Padding(table, (0, 0, 0, 2))
    if samples.slowest and samples.max_s > 3 * samples.p50_s:
        table = _table(f"slowest of {samples.measured:,} samples", "time")
        for slow in samples.slowest[:5]:
            table.add_row(f"{slow.index} {slow.path or ''}", duration(slow.seconds))
        yield Padding(table, (0, 0, 0, 2))


def _workers(m: Measurement) -> Table:
    table = _table("num_workers", "loader alone", "in the loop (predicted)", "waits", "memory")
    trials = figures.trials_of(m)
    for workers in sorted({*trials, m.setting.num_workers}):
        trial = trials.get(workers)
        alone = f"{rate(trial.samples_per_s)} samples/s" if trial is not None else ""
        try:
            expected = predict(m, num_workers=workers)
        except ValueError:
            continue
        interval = f"{rate(expected.samples_per_s)} ({rate(expected.low)} to {rate(expected.high)})"
        table.add_row(str(workers), alone, interval, share(expected.stall), size(expected.memory_bytes))
    return table
