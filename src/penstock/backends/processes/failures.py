"""Exceptions on their way from a worker to the main process."""

from __future__ import annotations

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
    for form in (_whole, _group, _parts, _with_its_class, _anew):
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
    if issubclass(kind, BaseExceptionGroup):
        args = args[0], [each if isinstance(each, BaseException) else load(each) for each in args[1]]
    error: BaseException = kind.__new__(kind, *args)
    _builtin(kind).__init__(error, *args)  # sets `args`, and what OSError and the like show
    error.__dict__.update(state)  # past any __setattr__ of the class
    return error


def attach(error: BaseException, traceback_text: str) -> BaseException:
    """Hang the worker's traceback below `error`, to be printed above its own."""
    vars(BaseException)["__cause__"].__set__(error, WorkerTraceback(traceback_text))  # also on what is frozen
    return error


def _whole(error: BaseException) -> bytes:
    return pickle.dumps(error, protocol=5)


def _group(error: BaseException) -> bytes:
    """Each of a group's exceptions in the form that suits it."""
    if not isinstance(error, BaseExceptionGroup):
        raise pickle.PicklingError
    each = [dump(inner) for inner in error.exceptions]
    return pickle.dumps((type(error), (error.message, each), error.__dict__), protocol=5)


def _parts(error: BaseException) -> bytes:
    """For classes whose constructor doesn't take what they keep as `args`."""
    return pickle.dumps((type(error), _arguments(error), error.__dict__), protocol=5)


def _with_its_class(error: BaseException) -> bytes:
    """For classes of the user's script, which came here in the same way (spawn, forkserver).

    Under fork they are found by name; any other class that isn't would be another one over there.
    """
    if type(error).__module__ != "__main__":
        raise pickle.PicklingError
    data: bytes = cloudpickle.dumps((type(error), _arguments(error), error.__dict__))
    return data


def _anew(error: BaseException) -> bytes:
    """Without what can't be sent of it."""
    state = {"__notes__": error.__notes__} if hasattr(error, "__notes__") else {}
    return pickle.dumps((type(error), (_text(error),), state), protocol=5)


def _builtin(kind: type) -> Any:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _arguments(error: BaseException) -> Any:
    """`args`, and the file's name that OSError keeps apart from them."""
    return _builtin(type(error)).__reduce__(error)[1]


def _alike(a: BaseException, b: BaseException) -> bool:
    if type(a) is not type(b) or _ADDRESS.sub("", _text(a)) != _ADDRESS.sub("", _text(b)):
        return False
    if isinstance(a, BaseExceptionGroup) and isinstance(b, BaseExceptionGroup):
        return all(map(_alike, a.exceptions, b.exceptions))
    return True


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message can't be shown)"
