"""What ``iter(loader)`` gives."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from typing import Any

from torch.utils.data.dataloader import _DatasetKind

from penstock.arena import ArenaPool
from penstock.errors import ClosedError
from penstock.loader.pinning import pin_device, pin_memory
from penstock.loader.session import Session
from penstock.stats import Recorder

Loader = Any
"""A `penstock.DataLoader`, whose module is above this one."""


class LoaderIterator:
    """One pass over a loader; with ``persistent_workers``, one after the other (`restart`).

    Closed when it is exhausted (unless its workers persist), by `close`, by the garbage collector and
    at the interpreter's exit.
    """

    def __init__(self, loader: Loader, pool: ArenaPool) -> None:
        self._pool = pool
        self._persistent = loader.persistent_workers
        self._iterable = loader._dataset_kind == _DatasetKind.Iterable
        self._sampler = loader._index_sampler
        self._pin_device = pin_device(loader)
        self._open_session(loader, _index_batches(loader))

    def _reset(self, loader: Loader) -> None:
        """Begin the next epoch, with the same workers if they are of use; what is left of the last is
        dropped."""
        batches = _index_batches(loader)
        if not self.closed and self._session.abandon():
            self._begin(loader, batches)
        else:
            self.close()
            self._open_session(loader, batches)

    def _open_session(self, loader: Loader, batches: Iterator[Any]) -> None:
        recorder = Recorder()
        self._session = Session(loader, self._pool)
        self._close = weakref.finalize(self, self._session.close)
        self._begin(loader, batches, recorder)

    def _begin(self, loader: Loader, batches: Iterator[Any], recorder: Recorder | None = None) -> None:
        self._finished = False
        self._yielded = 0
        promised: Any = loader._IterableDataset_len_called
        self._promised: int | None = promised if self._iterable else None
        recorder = recorder or Recorder()
        loader._latest = recorder, self._session.arena
        try:
            self._engine = self._session.begin(loader, batches, recorder)
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
        self._yielded += 1
        if self._promised is not None and self._yielded > self._promised:
            self._warn_of_length()
        return batch if self._pin_device is None else pin_memory(batch, self._pin_device)

    def _warn_of_length(self) -> None:
        """torch's words, which people match."""
        text = (
            f"Length of IterableDataset {self._session.dataset} was reported to be {self._promised}"
            f"(when accessing len(dataloader)), but {self._yielded} samples have been fetched. "
        )
        if self._session.workers:
            text += (
                "For multiprocessing data-loading, this could be caused by not properly configuring the "
                "IterableDataset replica at each worker. Please see "
                "https://pytorch.org/docs/stable/data.html#torch.utils.data.IterableDataset for examples."
            )
        warnings.warn(text, stacklevel=3)

    def __len__(self) -> int:
        return len(self._sampler)

    @property
    def closed(self) -> bool:
        return not self._close.alive

    def close(self) -> None:
        """End the workers, at once but for the sample in hand. May be called twice."""
        self._close()


def _index_batches(loader: Loader) -> Iterator[Any]:
    """The indices of each batch; without automatic batching, each index as a batch of one."""
    sampler = iter(loader._index_sampler)
    return sampler if loader._auto_collation else zip(sampler)  # which lives on after an error
