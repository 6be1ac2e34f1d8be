"""`python -m benchmarks`."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import click
from rich.console import Console

from benchmarks import auto, overhead, predicted, throughput
from benchmarks.memory import WORKERS, measure_memory, memory_target
from benchmarks.report import MemoryResult, Result, ShuffleResult, SpeedResult, targets_table
from benchmarks.shuffle import HOW, measure_shuffle, shuffle_targets
from benchmarks.throughput import FULL, QUICK, Scale
from penstock.demo.cases import LOADERS
from penstock.demo.measure import Spread, measure, passes
from penstock.demo.progress import Phase, phases
from penstock.demo.record import environment

CASES = {**throughput.CASES, **auto.CASES, **predicted.CASES, **overhead.CASES}
MEMORY = "memory"
SHUFFLE = "shuffle"
WIDTH = 110  # columns that the widest table needs


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Shorter and fewer passes: rough figures.")
@click.option("--json", "figures", type=click.File("w", lazy=False), help="Write all figures here.")
@click.option(
    "--case",
    "names",
    multiple=True,
    type=click.Choice([*CASES, MEMORY, SHUFFLE]),
    help="Run only this case; may be given several times.",
)
def main(quick: bool, figures: TextIO | None, names: tuple[str, ...]) -> None:
    """Measure Penstock beside torch's DataLoader, and show the targets of the project."""
    scale = QUICK if quick else FULL
    with TemporaryDirectory(prefix="penstock-benchmarks-") as folder, phases() as phase:
        results = [_result(name, scale, Path(folder), phase) for name in names or [*CASES, MEMORY, SHUFFLE]]
    console = Console()
    console.width = max(console.width, WIDTH)
    for result in results:
        console.print(result.table())
    console.print(targets_table(results))
    if figures is not None:
        cases = {result.name: result.data() for result in results}
        json.dump({**environment(), "quick": quick, "cases": cases}, figures, indent=2)


def _result(name: str, scale: Scale, folder: Path, phase: Phase) -> Result:
    if name == MEMORY:
        return _memory(scale, phase)
    return _shuffle(scale, phase) if name == SHUFFLE else _speed(name, scale, folder, phase)


def _speed(name: str, scale: Scale, folder: Path, phase: Phase) -> Result:
    """Measure one of the cases of speed."""
    case = CASES[name](scale, folder / "images")
    rounds = scale.rounds * case.more_rounds
    advance = phase(case.title, passes(case.contenders, rounds))
    rows = measure(case.contenders, rounds, advance)
    return SpeedResult(case.name, case.title, rows, case.targets(rows), case.rival)


def _memory(scale: Scale, phase: Phase) -> Result:
    """Measure the memory of both loaders, in turn."""
    title = f"Memory of {WORKERS} workers over a list of {scale.paths:,} paths"
    advance = phase(title, scale.rounds * len(LOADERS))
    found: dict[str, list[int]] = {loader: [] for loader in LOADERS}
    for _ in range(scale.rounds):
        for loader, figures in found.items():
            figures.append(measure_memory(loader, scale.paths))
            advance()
    target = memory_target(Spread.of(found["penstock"]), Spread.of(found["torch"]))
    return MemoryResult(title, found, [target])


def _shuffle(scale: Scale, phase: Phase) -> Result:
    """Measure the shuffle alone, ours and torch's, in turn."""
    title = f"Shuffling {scale.shuffled:,} samples, until the first batch's indices are there"
    advance = phase(title, scale.rounds * len(HOW))
    found: dict[str, list[dict[str, float]]] = {how: [] for how in HOW}
    for _ in range(scale.rounds):
        for how, figures in found.items():
            figures.append(measure_shuffle(how, scale.shuffled))
            advance()
    seconds, bytes_each = (
        {how: Spread.of(each[what] for each in figures) for how, figures in found.items()}
        for what in ("seconds", "bytes_each")
    )
    return ShuffleResult(title, found, shuffle_targets(seconds, bytes_each))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
