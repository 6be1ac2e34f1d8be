"""`penstock profile`: runs a script under the eyes of `profiled`, and makes reports of what that found."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from penstock.integrations.profiled import VARIABLE, Options
from penstock.integrations.run import VARIABLE as RUN_VARIABLE
from penstock.integrations.run import command
from penstock.profiling.check import best_advice, checked, unchecked, why_none
from penstock.profiling.data import Measurement, from_plain
from penstock.profiling.report import Report


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a script.

    Attributes:
        status: its exit status, as a shell has it.
        loops: a report on each of its loops, that which took most time first.
        failed: it ended by an exception.
        short: the loops that were too short.
        ended_early: it left nothing behind: it was killed, or ended at once.
        cut: after how much of which loop it was ended, as enough was seen; empty where it went to its end.
    """

    status: int
    loops: tuple[Report, ...] = ()
    failed: bool = False
    short: tuple[str, ...] = ()
    ended_early: bool = False
    cut: str = ""


def profile_script(program: Sequence[str], options: Options) -> Outcome:
    """Run a program (what follows Python's own options) until enough was seen; `options.report` is ignored.

    Raises:
        OSError: if Python can't be started.
    """
    with TemporaryDirectory(prefix="penstock-profile-") as folder:
        path = Path(folder) / "report.json"
        line, environment = command(program)
        del environment[RUN_VARIABLE]
        environment[VARIABLE] = replace(options, report=str(path)).to_json()
        status = _run(line, environment)
        if not path.exists():
            return Outcome(status, ended_early=True)
        return _outcome(status, json.loads(path.read_text(encoding="utf-8")))


def check_advice(report: Report, program: Sequence[str], options: Options) -> Report:
    """Run the program once more, with the best advice followed, and put what came of it into the report."""
    advice = best_advice(report.verdict)
    if advice is None:
        return Report(unchecked(report.data, why_none(report.verdict)))
    again = replace(options, where=report.data.setting.where, changes=advice.changes)
    loops = profile_script(program, again).loops
    after = next((each for each in loops if each.data.setting.where == report.data.setting.where), None)
    if after is None:
        return Report(unchecked(report.data, f"with {advice.setting} the script didn't come as far"))
    return Report(report.data, checked(advice, after.data))


def _outcome(status: int, plain: dict[str, Any]) -> Outcome:
    loops = tuple(Report(from_plain(Measurement, each)) for each in plain["loops"])
    return Outcome(status, loops, plain["failed"], tuple(plain["short"]), cut=plain["cut"])


def _run(line: list[str], environment: dict[str, str]) -> int:
    """The exit status. Ctrl-C is the script's, which is in the same group of the terminal."""
    with subprocess.Popen(line, env=environment) as process, _signals_to(process):
        status = process.wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _signals_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave Ctrl-C to the process, and hand it a request to end."""
    handlers = {
        signal.SIGINT: lambda *_: None,
        signal.SIGTERM: lambda *_: process.terminate(),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
