"""What a template that is started afresh does before all else, be it torch's import or the user's program.

Python lets nothing of ours run there until those are imported, which takes seconds; but it unpickles the
process's name before them. So that is pickled as an expression: the actions, and then the name. Nothing can
be imported yet, so actions are calls of the standard library.

Ctrl-C reaches the template too, which should say nothing about it. Until it can ignore the signal, that is
blocked, and was so in the process that it comes from (`interrupts_let_through`).
"""

from __future__ import annotations

import operator
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from penstock.backends.processes.threads import VARIABLES


def hold_interrupts() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


@contextmanager
def interrupts_let_through() -> Iterator[None]:
    """At its end, as at its beginning; one that was held meanwhile comes then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


class _Call:
    """Unpickled as the result of a call that is made then."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


class Name(str):
    """The name of a process in which Ctrl-C prints nothing and libraries have one thread, from its first
    moments on."""

    def __reduce__(self) -> tuple[Any, ...]:
        actions = [
            _Call(signal.signal, signal.SIGINT, signal.SIG_IGN),
            _Call(signal.pthread_sigmask, signal.SIG_UNBLOCK, [signal.SIGINT]),
            *(_Call(os.putenv, *variable) for variable in VARIABLES.items()),
        ]
        return operator.getitem, ((*actions, str(self)), -1)
