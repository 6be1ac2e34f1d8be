"""Runs user code in a process of its own, so that nothing it opens or changes stays in this one."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import cloudpickle
import torch

T = TypeVar("T")


def run_apart(function: Callable[[], T]) -> T:
    """What `function` returns, in a forked copy of this process; it has to be picklable (cloudpickle).

    Raises:
        RuntimeError: if the copy died.
        Exception: whatever else `function` raises, as far as it can be pickled.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run(function, writing)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            data = pipe.read()
    finally:
        _, status = os.waitpid(pid, 0)
    if not data:
        code = os.waitstatus_to_exitcode(status)
        raise RuntimeError(f"the process that tried the dataset ended with exit code {code}")
    error, result = pickle.loads(data)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _run(function: Callable[[], Any], writing: int) -> None:
    """In the copy, which ends here; as torch's workers, it has one thread to compute."""
    data = b""
    try:
        torch.set_num_threads(1)
        data = _outcome(function)
    finally:
        try:
            with open(writing, "wb") as pipe:
                pipe.write(data)
        finally:
            os._exit(0 if data else 1)


def _outcome(function: Callable[[], Any]) -> bytes:
    try:
        return bytes(cloudpickle.dumps((None, function())))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
            return pickle.dumps((error, None))
        except Exception:
            return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), None))
