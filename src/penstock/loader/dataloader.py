"""The public `DataLoader`: torch's own class, with another iterator."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

from torch.utils.data import Dataset, IterDataPipe, MapDataPipe

from penstock.arena import Arena, ArenaPool
from penstock.bad import BadSample, ErrorBook
from penstock.errors import ClosedError, StateError
from penstock.fetch import cache_stats
from penstock.loader.auto import resolve
from penstock.loader.iterator import LoaderIterator
from penstock.machine import cpus
from penstock.original import TorchDataLoader
from penstock.policy import Policy
from penstock.resume import Books
from penstock.stats import Recorder, Stats
from penstock.tuning import Controller

T = TypeVar("T")

SEEDINGS = "sample", "worker"
START_METHODS = "fork", "forkserver", "spawn"
"""Where a context says anything else, its workers may be no processes: MONAI has one of threads."""
_NOT_OURS = "this DataLoader uses torch's own iterator (for a DataPipe, or since this isn't Linux)"
_TORCHS_ARGUMENTS = inspect.signature(TorchDataLoader.__init__).parameters


class DataLoader(TorchDataLoader[T]):
    """A drop-in for ``torch.utils.data.DataLoader``: the same arguments, batches and order.

    What differs is how it works: workers that write samples straight into shared memory, several of
    them into one batch; a batch handed over without a copy; and an end that waits for nothing but the
    sample in hand. ``loader.stats()`` tells where the time went. It may be used in a ``with`` block.

    DataPipes are loaded by torch's own iterator, and so is everything under a multiprocessing context that is
    none of Python's three, and on systems other than Linux.

    Args:
        num_workers: a number, or "auto": then it is chosen while the loader is iterated, and may come to
            none, where ``dataset[i]`` runs in this process. The batches are the same with any number. What
            was chosen, and why, is in ``loader.stats().decisions``. See docs/settings.md.
        prefetch_factor: as in torch; with ``num_workers="auto"`` it is chosen too, unless it is given.
        seed: the base seed that every sample's random state follows from; drawn from torch's generator, as
            torch does, if left out. See docs/reproducibility.md.
        seeding: "sample", a random state for each sample; or "worker", torch's scheme of one for each worker.
        on_error: what becomes of a bad sample: "raise" it; "skip", leave it out of its batch; or "replace" it
            by another one of the dataset. See docs/faults.md.
        max_errors: how many bad samples end the run with `TooManyErrorsError`: a number, or a share of the
            samples (a float below 1).
        errors_file: append every bad sample to this file, as a line of JSON.
        none_is_error: whether a sample that is None is bad; left out, if `on_error` isn't "raise".
        max_retries: how many workers one sample may kill before it is bad.
        sample_timeout: how many seconds a sample may take in a worker before it is bad.

    Raises:
        ValueError: if an argument isn't one of those it can be.
        StateError: by `load_state_dict`, and by the next ``iter()``, if the state isn't this loader's.
        ClosedError: by ``iter()`` after `close`, and by ``next()`` on an iterator that was closed.
        WorkerDiedError: by ``next()``, when a worker ended without being asked to.
        BatchTimeoutError: by ``next()``, when no batch came within ``timeout`` seconds.
        DatasetNotSendableError: by ``iter()``, if the dataset can't be serialised (forkserver, spawn).
    """

    errors: deque[BadSample]
    """The samples that were bad up to now, over all epochs, the latest 10,000 of them."""

    _pool: ArenaPool | None = None
    _open: weakref.WeakSet[LoaderIterator]
    _latest: tuple[Recorder, Arena] | None = None
    _newest: weakref.ref[LoaderIterator] | None = None
    _closed = False
    _epoch: int | None = None
    _next_count = 0
    _controller: Controller | None = None
    _prefetch_given: int | None = None

    def __init__(
        self,
        dataset: Dataset[T],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int | Literal["auto"] = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        seed: int | None = None,
        seeding: str = "sample",
        on_error: str = "raise",
        max_errors: float | None = None,
        errors_file: str | os.PathLike[str] | None = None,
        none_is_error: bool | None = None,
        max_retries: int = 3,
        sample_timeout: float | None = None,
    ) -> None:
        if seeding not in SEEDINGS:
            raise ValueError(f"seeding should be 'sample' or 'worker', but got {seeding!r}")
        if sample_timeout is not None and num_workers == 0:
            raise ValueError("sample_timeout needs num_workers > 0: a sample made here can't be cut short")
        self._prefetch_given = prefetch_factor
        self._can_load = sys.platform == "linux" and not isinstance(dataset, IterDataPipe | MapDataPipe)
        num_workers = resolve(num_workers, dataset, seeding)
        self._seed, self._seeding = seed, seeding
        self._policy = Policy(on_error, max_errors, none_is_error, max_retries, sample_timeout)
        self._book = ErrorBook(max_errors, errors_file)
        self._books = Books()
        self._show(
            seed=seed,
            seeding=seeding,
            on_error=on_error,
            max_errors=max_errors,
            errors_file=errors_file,
            none_is_error=none_is_error,
            max_retries=max_retries,
            sample_timeout=sample_timeout,
            errors=self._book.kept,
        )
        self.in_order, self.pin_memory_device = in_order, pin_memory_device
        since_torch_2_6: dict[str, Any] = {"in_order": in_order} if "in_order" in _TORCHS_ARGUMENTS else {}
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            **since_torch_2_6,
        )

    def _show(self, **ours: Any) -> None:
        """Have what torch's class hasn't as attributes, under names that subclasses may have taken: theirs
        stay, and we read our own elsewhere."""
        for name, value in ours.items():
            if name not in vars(self) and not hasattr(type(self), name):
                setattr(self, name, value)

    def __iter__(self) -> Any:
        if self._closed:
            raise ClosedError("this DataLoader was closed; make another one to load from it again.")
        if not (self.persistent_workers and self.num_workers > 0):
            return self._get_iterator()
        if self._iterator is None:
            self._iterator = self._get_iterator()
        else:
            self._iterator._reset(self)
        return self._iterator

    def _get_iterator(self) -> Any:
        if not self._loads_itself:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        if self._pool is None:
            self._pool, self._open = ArenaPool(), weakref.WeakSet()
        iterator = LoaderIterator(self, self._pool)
        self._open.add(iterator)
        return iterator

    def check_worker_number_rationality(self) -> None:
        """Torch's warning, in its words, which people match; but a cgroup's quota counts as well."""
        if self.num_workers > 1 and self.num_workers > (allowed := cpus()):
            warnings.warn(
                f"This DataLoader will create {self.num_workers} worker processes in total. "
                f"Our suggested max number of worker in current system is {allowed}, which is smaller "
                "than what this DataLoader is going to create. "
                "Please be aware that excessive worker creation might get DataLoader running slow or even "
                "freeze, lower the worker number to avoid potential slowness/freeze if necessary.",
                stacklevel=2,
            )

    @property
    def _loads_itself(self) -> bool:
        """Whether the batches come from our iterator instead of torch's."""
        context = self.multiprocessing_context
        return self._can_load and (context is None or context.get_start_method() in START_METHODS)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, to go on from there, in another process too: docs/reproducibility.md.

        It may be called at any moment, and describes the batches that were handed over. It is plain (JSON
        takes it, but for what samplers and datasets tell by a ``state_dict`` of their own) and small.
        """
        if self._loads_itself:
            return self._books.state(self)
        warnings.warn(f"{_NOT_OURS}: its state_dict() is empty, and it begins anew.", stacklevel=2)
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a loader like this one was when `state_dict` was taken.

        The next ``iter()`` begins there, or an iterator that is in use goes on there: whichever comes first.
        ``{}`` stands for no state.

        Raises:
            StateError: if this loader differs from that one in what decides the batches.
        """
        if state_dict and not self._loads_itself:
            raise StateError(f"{_NOT_OURS}: it can't go on from a state.")
        self._books.load(self, state_dict)
        latest = None if self._newest is None else self._newest()
        if state_dict and latest is not None:
            latest.move(self)

    def set_epoch(self, epoch: int) -> None:
        """Tell the number of the next epoch to the sampler and to the dataset, as far as they have a
        ``set_epoch``: to the dataset here and to its copy in every worker, also with ``persistent_workers``.

        With ``seed=`` the samples' random state follows from this number too.
        """
        self._epoch = epoch
        inner: Any = getattr(self.batch_sampler, "sampler", None)
        knowing: list[Any] = [self.sampler, self.batch_sampler, inner, self.dataset]
        for each in {id(one): one for one in knowing}.values():
            if hasattr(each, "set_epoch"):
                each.set_epoch(epoch)

    def stats(self) -> Stats:
        """What the latest epoch of this loader, begun by ``iter()``, has done up to now."""
        if self._latest is None:
            return Stats(cache=cache_stats(self.dataset))
        recorder, arena = self._latest
        return replace(recorder.snapshot(arena.made, arena.in_use), cache=cache_stats(self.dataset))

    def _slots_in_use(self) -> int:
        """As in `stats`, at less cost."""
        return 0 if self._latest is None else self._latest[1].in_use

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
        own = {"_pool", "_open", "_latest", "_newest", "_controller"}
        return {
            **{name: value for name, value in self.__dict__.items() if name not in own},
            "_iterator": None,
            "_books": Books(self._books.loaded),
        }
