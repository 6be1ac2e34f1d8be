"""Exceptions on their way from a worker to the main process."""

from __future__ import annotations

import pickle
from typing import Any

from penstock.errors import WorkerError, WorkerTraceback


def dump(error: BaseException) -> bytes:
    """Serialise `error` so that `load` gives an equal one wherever its class can be imported.

    What can't be rebuilt is replaced by a `WorkerError` that says the same.
    """
    for reduced in (error, _parts(error)):
        try:
            data = pickle.dumps(reduced, protocol=5)
            if _alike(load(data), error):
                return data
        except Exception:
            continue
    kind = type(error)
    return pickle.dumps(WorkerError(f"{kind.__module__}.{kind.__qualname__}", _text(error)))


def load(data: bytes) -> BaseException:
    """The exception that `dump` serialised."""
    loaded: Any = pickle.loads(data)
    if isinstance(loaded, BaseException):
        return loaded
    kind, args, state = loaded
    error: BaseException = kind.__new__(kind, *args)
    builtin: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    builtin.__init__(error, *args)  # where OSError and the like set what they show
    error.args = args
    error.__dict__.update(state)
    return error


def attach(error: BaseException, traceback_text: str) -> BaseException:
    """Hang the worker's traceback below `error`, to be printed above its own."""
    error.__cause__ = WorkerTraceback(traceback_text)
    return error


def _parts(error: BaseException) -> Any:
    """For classes whose constructor doesn't take what they keep as `args`."""
    return type(error), error.args, error.__dict__


def _alike(a: BaseException, b: BaseException) -> bool:
    return type(a) is type(b) and _text(a) == _text(b)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message can't be shown)"
