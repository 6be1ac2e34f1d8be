"""`penstock profile`."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from penstock.integrations.profile import Outcome

SAID_WHY = (1, 2)
"""A script that ends like this has said why: no such module, an error of its own, wrong arguments."""
INTERRUPTED = 128 + signal.SIGINT
File = click.Path(dir_okay=False, writable=True, path_type=Path)


def _in_a_folder(_context: click.Context, _option: Any, path: Path | None) -> Path | None:
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.absolute().parent}")
    return path


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-m", "as_module", is_flag=True, help="The script is a module's name, as in `python -m`.")
@click.option("--batches", type=click.IntRange(min=3), help="End the script after so many batches of a loop.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="End the script after so many seconds of a loop.",
)
@click.option("--check", is_flag=True, help="Run it again with the best advice followed.")
@click.option("--html", type=File, callback=_in_a_folder, help="Write the report as a page.")
@click.option("--trace", type=File, callback=_in_a_folder, help="Write the time line for Perfetto.")
@click.option("--json", "data", type=File, callback=_in_a_folder, help="Write the report as JSON.")
@click.option("--live/--no-live", default=None, help="Show what goes on; by default, on a terminal.")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def profile(
    as_module: bool,
    batches: int | None,
    seconds: float,
    check: bool,
    html: Path | None,
    trace: Path | None,
    data: Path | None,
    live: bool | None,
    script: str,
    arguments: tuple[str, ...],
) -> None:
    """Find out what a training script waits for, why, and what to change.

    SCRIPT runs as it is, with torch's or Penstock's loaders, until enough was seen of one of its loops.
    """
    from penstock.integrations.profile import check_advice, profile_script
    from penstock.integrations.profiled import Options

    _require(html)
    _require_different(html, trace, data)
    if not seconds > 0:  # not a number
        raise click.BadParameter(f"{seconds} is no number of seconds", param_hint="'--seconds'")
    if not as_module and not Path(script).exists():
        raise click.BadParameter(f"there is no file {script}", param_hint="'SCRIPT'")
    shown = sys.stderr.isatty() if live is None else live
    program = [*(["-m"] if as_module else []), script, *arguments]
    options = Options("", batches, seconds, shown)
    try:
        outcome = profile_script(program, options)
        loops = list(outcome.loops)
        if check and loops and not outcome.failed:
            loops[0] = check_advice(loops[0], program, options)
    except OSError as error:
        raise click.ClickException(f"can't start Python: {error.strerror}") from error
    failures = []
    if loops:  # the files first: nothing that is shown can go wrong before they are there
        report = loops[0]
        failures = _write_all((html, report.html), (trace, report.trace), (data, report.save))
    _show(loops)
    _tell(outcome)
    _say(failures)
    if not loops:
        _tell_unwritten(html, trace, data)
    sys.exit(outcome.status or bool(failures))


def _require(html: Path | None) -> None:
    if sys.platform != "linux":
        raise click.ClickException("`penstock profile` needs Linux.")
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise click.ClickException("Python's options -I, -E and -S keep Penstock out: run it without them.")
    if html is not None and find_spec("plotly") is None:
        raise click.ClickException('--html needs plotly: pip install "penstock[report]"')


def _require_different(*paths: Path | None) -> None:
    given = [path.absolute() for path in paths if path is not None]
    for path in given:
        if given.count(path) > 1:
            raise click.UsageError(f"the outputs need files of their own, but got {path} twice")


def _show(loops: list[Any]) -> None:
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):  # of what it can't take, the rest is better than nothing
        sys.stdout.reconfigure(errors="replace")
    console = Console()
    for place, report in enumerate(loops):
        if place:
            console.rule()
        console.print(report, highlight=False)


def _tell(outcome: Outcome) -> None:
    """What else is to be said, on standard error."""
    found, status = bool(outcome.loops), outcome.status
    lines = [f"not profiled: {each}" for each in outcome.short]
    if outcome.cut:
        lines.append(f"the script was ended after {outcome.cut}")
    if outcome.ended_early:
        lines.append(f"the script was ended (status {status}) before anything could be written down.")
    elif outcome.failed:
        what = "this is what was seen until then" if found else "there was no loop to be seen until then"
        how = "was interrupted" if status == INTERRUPTED else "failed"
        lines.append(f"the script {how}: {what}.")
    elif not found and not outcome.short and status not in SAID_WHY:
        lines.append("the script's main thread has no loop over a DataLoader, so there is nothing to tell.")
    _say(lines)


def _tell_unwritten(*paths: Path | None) -> None:
    """Which of the files were asked for in vain."""
    for path in paths:
        if path is not None:
            older = "; the one there is older" if path.exists() else ""
            _say([f"{path} was not written, as nothing was profiled{older}."])


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(f"penstock: {line}", err=True)


def _write_all(*files: tuple[Path | None, Callable[[Path], None]]) -> list[str]:
    """Write those that are asked for; what went wrong."""
    failures = []
    for path, write in files:
        try:
            if path is not None:
                write(path)
        except OSError as error:
            failures.append(f"can't write {path}: {error.strerror}")
    return failures
