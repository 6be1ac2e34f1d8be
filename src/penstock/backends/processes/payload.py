"""The job on its way to a template that isn't forked from the main process.

It is serialised once, into anonymous shared memory, and read from there by whoever unpickles it: the
template under forkserver, every worker under spawn.
"""

from __future__ import annotations

import mmap
import os
from multiprocessing import reduction
from typing import Any

import cloudpickle

from penstock.backends.processes.worker import WorkerJob
from penstock.errors import DatasetNotSendableError


class Payload:
    """A serialised job; picklable while a process is being started, callable on the other side: with
    `once`, one time, after which its memory is free.

    Raises:
        DatasetNotSendableError: if the job can't be serialised.
    """

    def __init__(self, job: WorkerJob, start_method: str, once: bool) -> None:
        data = _dumps(job, start_method)
        self._once = once
        self.nbytes = len(data)
        self.fd = os.memfd_create("penstock-payload", os.MFD_CLOEXEC)
        with open(self.fd, "wb", closefd=False) as file:
            file.write(data)

    def __call__(self) -> WorkerJob:
        with mmap.mmap(self.fd, self.nbytes, access=mmap.ACCESS_READ) as data:
            job: WorkerJob = cloudpickle.loads(data)
        if self._once:
            self.close()
        return job

    def __getstate__(self) -> dict[str, Any]:
        return {"once": self._once, "nbytes": self.nbytes, "fd": reduction.DupFd(self.fd)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._once, self.nbytes, self.fd = state["once"], state["nbytes"], state["fd"].detach()

    def close(self) -> None:
        os.close(self.fd)


def _dumps(job: WorkerJob, start_method: str) -> bytes:
    try:
        data: bytes = cloudpickle.dumps(job)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetNotSendableError(start_method, _culprit(job), reason) from error
    return data


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
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True
