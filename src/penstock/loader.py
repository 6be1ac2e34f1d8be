"""The public `DataLoader`: torch's own class, with another iterator."""

from __future__ import annotations

import multiprocessing
import sys
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.utils.data
from torch.utils.data._utils import pin_memory as torch_pinning
from torch.utils.data.dataloader import _DatasetKind

from penstock.arena import MAX_WORKERS, Arena, ArenaPool
from penstock.backends.base import Backend, State
from penstock.backends.inline import InlineBackend
from penstock.backends.processes import ProcessesBackend, WorkerJob
from penstock.engine import Engine, Epoch
from penstock.errors import ClosedError
from penstock.fetch import Recipe
from penstock.original import TorchDataLoader
from penstock.stats import Recorder, Stats

T = TypeVar("T")


class DataLoader(TorchDataLoader[T]):
    """A drop-in for ``torch.utils.data.DataLoader``: the same arguments, batches and order.

    What differs is how it works: workers that write samples straight into shared memory, several of
    them into one batch; a batch handed over without a copy; and an end that waits for nothing but the
    sample in hand. ``loader.stats()`` tells where the time went. It may be used in a ``with`` block.

    Iterable datasets are loaded by torch's own iterator for now, and everything is on systems other
    than Linux.

    Raises:
        ClosedError: by ``iter()`` after `close`, and by ``next()`` on an iterator that was closed.
        WorkerDiedError: by ``next()``, when a worker ended without being asked to.
        BatchTimeoutError: by ``next()``, when no batch came within ``timeout`` seconds.
        DatasetNotSendableError: by ``iter()``, if the dataset can't be serialised (forkserver, spawn).
    """

    _pool: ArenaPool | None = None
    _open: weakref.WeakSet[LoaderIterator]
    _kept: LoaderIterator | None = None
    _latest: tuple[Recorder, Arena] | None = None
    _closed = False

    def __iter__(self) -> Any:
        if self._closed:
            raise ClosedError("this DataLoader was closed; make another one to load from it again.")
        if self._dataset_kind != _DatasetKind.Map or sys.platform != "linux":
            return super().__iter__()
        if not (self.persistent_workers and self.num_workers > 0):
            return self._new_iterator()
        if self._kept is None or not self._kept.restart(self):
            self._kept = self._new_iterator()
        return self._kept

    def _new_iterator(self) -> LoaderIterator:
        if self._pool is None:
            self._pool, self._open = ArenaPool(), weakref.WeakSet()
        iterator = LoaderIterator(self, self._pool)
        self._open.add(iterator)
        return iterator

    def stats(self) -> Stats:
        """What the latest epoch of this loader, begun by ``iter()``, has done up to now."""
        if self._latest is None:
            return Stats()
        recorder, arena = self._latest
        return recorder.snapshot(arena.made, arena.in_use)

    def close(self) -> None:
        """End the workers and let go of the memory; batches in hand stay valid. May be called twice."""
        self._closed = True
        if self._pool is None:
            return
        for iterator in list(self._open):
            iterator.close()
        self._pool.close()

    def __enter__(self) -> DataLoader[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in this process or another, has workers and memory of its own."""
        own = {"_pool", "_open", "_kept", "_latest"}
        return {name: value for name, value in self.__dict__.items() if name not in own}


class LoaderIterator:
    """One pass over a loader; with ``persistent_workers``, one after the other (`restart`).

    Closed when it is exhausted (unless its workers persist), by `close`, by the garbage collector and
    at the interpreter's exit.
    """

    def __init__(self, loader: DataLoader[Any], pool: ArenaPool) -> None:
        self._persistent = loader.persistent_workers
        self._sampler = loader._index_sampler
        self._pin_device = _pin_device(loader)
        recorder = Recorder()
        batches = _index_batches(loader)
        self._session = _Session(loader, pool)
        self._close = weakref.finalize(self, self._session.close)
        self._begin(loader, batches, recorder)

    def restart(self, loader: DataLoader[Any]) -> bool:
        """Begin the next epoch with the same workers; what is left of the last one is dropped.

        Returns False where that can't be: it was closed, a worker died or is stuck, or this is a process
        forked from the one with the workers. It is then closed.
        """
        if self.closed or not self._session.abandon():
            self.close()
            return False
        recorder = Recorder()
        self._begin(loader, _index_batches(loader), recorder)
        return True

    def _begin(self, loader: DataLoader[Any], batches: Any, recorder: Recorder) -> None:
        self._finished = False
        loader._latest = recorder, self._session.arena
        try:
            self._engine = self._session.begin(batches, recorder)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> LoaderIterator:
        return self

    def __next__(self) -> Any:
        if self._finished:
            raise StopIteration
        if self.closed:
            raise ClosedError("this iterator was closed: call iter() on the loader for another one.")
        try:
            batch = next(self._engine)
        except StopIteration:
            self._finished = True
            if not self._persistent:
                self.close()
            raise
        except BaseException as error:
            if error is not self._engine.take_raised():
                self.close()
            raise
        return batch if self._pin_device is None else _pin_memory(batch, self._pin_device)

    def __len__(self) -> int:
        return len(self._sampler)

    @property
    def closed(self) -> bool:
        return not self._close.alive

    def close(self) -> None:
        """End the workers, at once but for the sample in hand. May be called twice."""
        self._close()


class _Session:
    """The workers and the arena of one iterator, for as long as it lives."""

    def __init__(self, loader: DataLoader[Any], pool: ArenaPool) -> None:
        self._pool = pool
        self._recipe = Recipe(loader.dataset, loader.collate_fn, loader._auto_collation)
        self._base_seed = int(torch.empty((), dtype=torch.int64).random_(generator=loader.generator).item())
        self._ahead = loader.num_workers * (loader.prefetch_factor or 1)
        self._timeout = float(loader.timeout)
        self._in_order = bool(getattr(loader, "in_order", True))
        self._generation = 0
        self._engine: Engine | None = None
        self.arena = pool.take()
        self._backend = self._make_backend(loader)
        try:
            self._backend.start()
        except BaseException:
            self.close()
            raise

    def _make_backend(self, loader: DataLoader[Any]) -> Backend:
        if loader.num_workers == 0:
            return InlineBackend(self._recipe)
        if loader.num_workers > MAX_WORKERS:
            raise ValueError(f"num_workers can be {MAX_WORKERS} at most, got {loader.num_workers}")
        job = WorkerJob(self._recipe, loader.worker_init_fn, loader.num_workers)
        context = loader.multiprocessing_context or multiprocessing.get_context()
        return ProcessesBackend(job, self.arena.memory, context, self._base_seed)

    def abandon(self) -> bool:
        """Give up the epoch that is under way; False if these workers are of no more use."""
        usable = self._backend.usable_here and self._backend.state is State.OPEN
        return usable and (self._engine is None or self._engine.abandon())

    def begin(self, batches: Iterator[Any], recorder: Recorder) -> Engine:
        """Start an epoch; the one before it was given up."""
        self._generation += 1
        epoch = Epoch(
            batches=batches,
            ahead=self._ahead,
            rows=self._recipe.rows,
            splittable=self._recipe.splittable,
            base_seed=self._base_seed,
            generation=self._generation,
            timeout=self._timeout,
            in_order=self._in_order,
        )
        self._engine = Engine(epoch, self._backend, self.arena, recorder)
        return self._engine

    def close(self) -> None:
        self._backend.close()
        if self._engine is not None:
            self._engine.release()
        if self._backend.settled:
            self.arena.trim(keep=self._ahead + 1)
            self._pool.give(self.arena)
        else:
            self.arena.close()


def _index_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """The indices of each batch; without automatic batching, each index as a batch of one."""
    sampler = iter(loader._index_sampler)
    return sampler if loader._auto_collation else ((index,) for index in sampler)


def _pin_device(loader: DataLoader[Any]) -> str | None:
    """The accelerator whose pinned memory batches are to be copied to, if any."""
    if not loader.pin_memory:
        return None
    if hasattr(torch, "accelerator"):  # torch >= 2.6
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    else:
        device = torch.device("cuda") if torch.cuda.is_available() else None
    if device is None or device.type == "mps":
        warnings.warn(
            "'pin_memory' argument is set as true but no accelerator that can use it is found, "
            "then device pinned memory won't be used.",
            stacklevel=4,
        )
        return None
    return device.type


def _pin_memory(batch: Any, device: str) -> Any:
    """A copy in memory of torch's own pinned allocator, which knows when it is free again."""
    return torch_pinning.pin_memory(batch, device)  # type: ignore[no-untyped-call]
