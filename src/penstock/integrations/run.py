"""`penstock run`: Python itself runs the program, with Penstock put in place at its start.

So nothing of ours is in the program's way: not in its tracebacks, its ``__main__``, its signals or its end.
`command` says how to start Python; there, `startup/sitecustomize.py` calls `begin`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import BuiltinImporter
from pathlib import Path

from penstock.integrations.replace import replace_when_imported
from penstock.integrations.waits import Waits, new_file, sentence
from penstock.stats import observers

VARIABLE = "PENSTOCK_RUN"
"""The main process's id and, once it runs, the descriptor of its `Waits`; inherited by all it starts."""
_STARTUP = str(Path(__file__).parent / "startup")
_PACKAGES = str(Path(__file__).parents[2])


def command(program: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(command line, environment) of Python on a program, to be executed in this process's place.

    `program` is what follows Python's own options, which are this process's.
    """
    environment = dict(os.environ)
    inherited = environment.get("PYTHONPATH")
    places = [place for place in inherited.split(os.pathsep) if place != _STARTUP] if inherited else []
    if os.path.abspath(sys.path[0]) == _PACKAGES:  # where `python -m` was called: not on the program's path
        places.append(_PACKAGES)
    environment["PYTHONPATH"] = os.pathsep.join([_STARTUP, *places])
    environment[VARIABLE] = str(os.getpid())
    return [sys.executable, *_options(), *program], environment


def _options() -> list[str]:
    """Python's own options, as this process was started with them."""
    options = sys.orig_argv[1 : -len(sys.argv)]
    ran = sys.orig_argv[-len(sys.argv)]
    if ran != sys.argv[0] and not ran.startswith("-"):  # no script, and not `-mpenstock`, but `-m penstock`
        last = options.pop()[:-1]  # it may follow others: `-um penstock`
        options += [last] if last != "-" else []
    return options


def begin() -> None:
    """At the start of a Python that runs the program or was started by it."""
    main, _, file = os.environ.get(VARIABLE, "").partition(":")  # a child may have lost it
    if main == str(os.getpid()):
        file = str(new_file())
        os.environ[VARIABLE] = f"{main}:{file}"
    waits = Waits(f"/proc/{main}/fd/{file}")
    replace_when_imported(lambda: observers.append(_outside_workers(waits)))
    if main == str(os.getpid()):
        atexit.register(_tell, waits, os.getpid(), time.monotonic())  # the first in, so the last out


def _outside_workers(waits: Waits) -> Callable[[float], None]:
    """Counts what the program waits for, not what a loader inside a loader's worker does."""
    from torch.utils.data import get_worker_info

    def add(waited: float) -> None:
        if get_worker_info() is None:
            waits.add(waited)

    return add


def _tell(waits: Waits, main: int, began: float) -> None:
    """Say on standard error, after everything else, what was waited for."""
    run_s = time.monotonic() - began
    figures = waits.of_all()
    started = getattr(sys.modules["__main__"], "__loader__", None) is not BuiltinImporter
    if os.getpid() != main or not (figures or started):  # a fork of it; Python found no program to run
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # Python tries again and reports it, as always
            stream.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"penstock: {sentence(figures, run_s)}\n".encode())
