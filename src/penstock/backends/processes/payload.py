"""The job on its way to a template that isn't forked from the main process.

It is serialised once, into anonymous shared memory, and read from there by whoever unpickles it: the
template under forkserver, every worker under spawn. That is done while the template's process is being
started: only then do locks, ``multiprocessing.Value`` and the like let themselves be sent. They and tensors
in shared memory stay shared, as with torch.
"""

from __future__ import annotations

import io
import mmap
import os
from collections import ChainMap
from multiprocessing import reduction
from typing import Any

import cloudpickle
import torch
from torch.multiprocessing.reductions import reduce_storage, reduce_typed_storage

from penstock.backends.processes.prologue import hold_interrupts
from penstock.backends.processes.worker import WorkerJob
from penstock.errors import DatasetNotSendableError


class Payload:
    """A job to be serialised where this is pickled, to start a process; callable on the other side: with
    `once`, one time, after which its memory is free. To be closed once the process was started.

    Raises:
        DatasetNotSendableError: where it is pickled, if the job can't be serialised.
    """

    def __init__(self, job: WorkerJob, start_method: str, once: bool) -> None:
        self._job, self._start_method, self._once = job, start_method, once
        self._fd = os.memfd_create("penstock-payload", os.MFD_CLOEXEC)

    def __call__(self) -> WorkerJob:
        with mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ) as data:
            job: WorkerJob = cloudpickle.loads(data)
        if self._once:
            self.close()
        return job

    def __getstate__(self) -> dict[str, Any]:
        data = _dumps(self._job, self._start_method)
        with open(self._fd, "wb", closefd=False) as file:
            file.write(data)
        if (
            self._start_method == "spawn"
        ):  # the process comes next; forkserver's server would keep this for ever
            hold_interrupts()
        return {"once": self._once, "fd": reduction.DupFd(self._fd)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._once, self._fd = state["once"], state["fd"].detach()

    def close(self) -> None:
        os.close(self._fd)


def _is_shared(storage: torch.UntypedStorage) -> bool:
    return storage.device.type == "cpu" and storage.is_shared()


def _reduce_storage(storage: torch.UntypedStorage) -> Any:
    """A tensor's memory: by reference if it is shared. torch's own way would move any other there, too."""
    if _is_shared(storage):
        return reduce_storage(storage)  # type: ignore[no-untyped-call]
    return storage.__reduce_ex__(cloudpickle.DEFAULT_PROTOCOL)


def _reduce_typed_storage(storage: torch.TypedStorage) -> Any:
    if _is_shared(storage._untyped_storage):
        return reduce_typed_storage(storage)  # type: ignore[no-untyped-call]
    return storage.__reduce_ex__(cloudpickle.DEFAULT_PROTOCOL)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, for what is shared between processes too."""

    def __init__(self, file: io.BytesIO) -> None:
        registered: dict[type, Any] = reduction.ForkingPickler._extra_reducers  # type: ignore[attr-defined]
        others = {cls: reduce for cls, reduce in registered.items() if not cls.__module__.startswith("torch")}
        torchs = {torch.UntypedStorage: _reduce_storage, torch.TypedStorage: _reduce_typed_storage}
        self.dispatch_table = ChainMap({**others, **torchs}, cloudpickle.Pickler.dispatch_table)
        super().__init__(file)


def _serialised(value: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


def _dumps(job: WorkerJob, start_method: str) -> bytes:
    try:
        return _serialised(job)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetNotSendableError(start_method, _culprit(job), reason) from error


def _culprit(job: WorkerJob) -> str:
    """The smallest part of the job, by name, that can't be serialised."""
    dataset = job.recipe.dataset
    for name, value in getattr(dataset, "__dict__", {}).items():
        if not _sendable(value):
            return f"the attribute {name!r} of the dataset ({type(dataset).__qualname__})"
    if not _sendable(dataset):
        return f"the dataset ({type(dataset).__qualname__})"
    return "worker_init_fn" if _sendable(job.recipe.collate_fn) else "collate_fn"


def _sendable(value: object) -> bool:
    try:
        _serialised(value)
    except Exception:
        return False
    return True
