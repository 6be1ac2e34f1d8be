"""Exceptions on their way from a worker to the main process."""

from __future__ import annotations

import contextlib
import pickle
import re
from typing import Any

import cloudpickle

from penstock.errors import WorkerError, WorkerTraceback

_ADDRESS = re.compile("0x[0-9a-f]+")


def dump(error: BaseException) -> bytes:
    """Serialise `error` so that `load` gives an equal one wherever its class can be imported.

    One of the user's script is sent along (cloudpickle). What can't be sent as it is, is made anew from its
    type and its message, as torch does; and what can't be made so is replaced by a `WorkerError`.
    """
    for form in (_whole, _parts, _with_its_class, _anew):
        try:
            data = form(error)
            if _alike(load(data), error):
                return data
        except Exception:
            continue  # classes of users may fail in any way here; the next form is tried
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
    error.__dict__.update(state)  # past any __setattr__ of the class
    return error


def attach(error: BaseException, traceback_text: str) -> BaseException:
    """Hang the worker's traceback below `error`, to be printed above its own."""
    with contextlib.suppress(Exception):  # a frozen dataclass, say
        error.__cause__ = WorkerTraceback(traceback_text)
    return error


def _whole(error: BaseException) -> bytes:
    return pickle.dumps(error, protocol=5)


def _parts(error: BaseException) -> bytes:
    """For classes whose constructor doesn't take what they keep as `args`."""
    return pickle.dumps((type(error), error.args, error.__dict__), protocol=5)


def _with_its_class(error: BaseException) -> bytes:
    """For classes of the user's script, which came here in the same way (spawn, forkserver).

    Under fork they are found by name; any other class that isn't would be another one over there.
    """
    if type(error).__module__ != "__main__":
        raise pickle.PicklingError
    data: bytes = cloudpickle.dumps((type(error), error.args, error.__dict__))
    return data


def _anew(error: BaseException) -> bytes:
    """Without what can't be sent of it."""
    return pickle.dumps((type(error), (_text(error),), {}), protocol=5)


def _alike(a: BaseException, b: BaseException) -> bool:
    return type(a) is type(b) and _ADDRESS.sub("", _text(a)) == _ADDRESS.sub("", _text(b))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message can't be shown)"
