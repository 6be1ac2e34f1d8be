"""The job on its way to a template that isn't forked from the main process.

It is serialised once, into anonymous shared memory, and read from there by whoever unpickles it: the
template under forkserver, every worker under spawn. That is done while the template's process is being
started: only then do locks, ``multiprocessing.Value`` and the like let themselves be sent. They and tensors
in shared memory stay shared, as with torch. The memory of large arrays and tensors lies beside the pickle
(PEP 574), and is mapped on the other side: a worker copies only the pages that it writes to.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
from collections import ChainMap
from multiprocessing import reduction, spawn
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
        job: WorkerJob = _read(self._fd)
        if self._once:
            self.close()
        return job

    def __getstate__(self) -> dict[str, Any]:
        _write(self._fd, _parts(self._job, self._start_method))
        if self._start_method == "spawn":  # the process comes next; a fork server would keep this for ever
            hold_interrupts()
        return {"once": self._once, "fd": reduction.DupFd(self._fd)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._once, self._fd = state["once"], state["fd"].detach()

    def close(self) -> None:
        os.close(self._fd)


# -- the file: where its parts lie, then the pickle, then the memory of large arrays ---------------

_ALIGNED = 64
Part = bytes | memoryview


def _write(fd: int, parts: list[Part]) -> None:
    places, end = [], 0
    for part in parts:
        places.append((end, len(part)))
        end += -(-len(part) // _ALIGNED) * _ALIGNED
    head = pickle.dumps(places)
    begin = _begin(len(head))
    with open(fd, "wb", closefd=False) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for (place, _), part in zip(places, parts, strict=True):
            file.seek(begin + place)
            file.write(part)
        file.truncate(begin + end)


def _read(fd: int) -> Any:
    """Writing into what it gives changes a private copy of the page."""
    data = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY))
    size = int.from_bytes(data[:8], "little")
    begin = _begin(size)
    places = pickle.loads(data[8 : 8 + size])
    first, *others = (data[begin + place : begin + place + length] for place, length in places)
    return cloudpickle.loads(first, buffers=others)


def _begin(head: int) -> int:
    """Where the parts begin, after a head of so many bytes."""
    return -(-(8 + head) // _ALIGNED) * _ALIGNED


# -- pickling --------------------------------------------------------------------------------------

_LARGE = 1 << 20
"""Smaller arrays and tensors are pickled like everything else; in bytes."""


def _is_shared(storage: torch.UntypedStorage) -> bool:
    return storage.device.type == "cpu" and storage.is_shared()


def _is_large(storage: torch.UntypedStorage) -> bool:
    return storage.device.type == "cpu" and storage.nbytes() >= _LARGE


def _reduce_storage(storage: torch.UntypedStorage) -> Any:
    """A tensor's memory: by reference if it is shared. torch's own way would move any other there, too."""
    if _is_shared(storage):
        return reduce_storage(storage)  # type: ignore[no-untyped-call]
    if _is_large(storage):
        memory: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        return _storage_over, (pickle.PickleBuffer(memory),)
    return storage.__reduce_ex__(cloudpickle.DEFAULT_PROTOCOL)


def _storage_over(memory: Any) -> torch.UntypedStorage:
    return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()


def _reduce_typed_storage(storage: torch.TypedStorage) -> Any:
    if _is_shared(storage._untyped_storage):
        return reduce_typed_storage(storage)  # type: ignore[no-untyped-call]
    if _is_large(storage._untyped_storage):
        return _typed_storage, (storage._untyped_storage, storage.dtype)
    return storage.__reduce_ex__(cloudpickle.DEFAULT_PROTOCOL)


def _typed_storage(storage: torch.UntypedStorage, dtype: torch.dtype) -> torch.TypedStorage:
    return torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


def _pickle(value: object, pickler: type[pickle.Pickler]) -> list[Part]:
    """Its pickle, and the large memory that goes with it."""
    file, large = io.BytesIO(), list[Part]()

    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Whether to pickle it instead."""
        memory = buffer.raw()
        if len(memory) < _LARGE:
            return True
        large.append(memory)
        return False

    registered: dict[type, Any] = reduction.ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    others = {cls: reduce for cls, reduce in registered.items() if not cls.__module__.startswith("torch")}
    torchs: dict[type, Any] = {
        torch.UntypedStorage: _reduce_storage,
        torch.TypedStorage: _reduce_typed_storage,
    }
    table = ChainMap({**others, **torchs}, cloudpickle.Pickler.dispatch_table)
    ours = type("Pickler", (pickler,), {"dispatch_table": table})  # looked up by __init__
    writer = ours(file, protocol=cloudpickle.DEFAULT_PROTOCOL, buffer_callback=keep)
    writer.dump(value)
    return [file.getbuffer(), *large]


def _serialised(value: object) -> list[Part]:
    """By cloudpickle; if that fails, by pickle, which refers to what is in the program by its name."""
    try:
        return _pickle(value, cloudpickle.Pickler)
    except Exception:
        if not _program_is_imported_there():
            raise
        with contextlib.suppress(Exception):
            return _pickle(value, pickle.Pickler)
        raise


def _program_is_imported_there() -> bool:
    """Whether ``multiprocessing`` has a new process import the program: a file, not a notebook."""
    return any(key.startswith("init_main") for key in spawn.get_preparation_data("template"))


def _parts(job: WorkerJob, start_method: str) -> list[Part]:
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
