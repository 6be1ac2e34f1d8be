"""What ``iter(loader)`` gives."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import profiler

from penstock import forks
from penstock.arena import ArenaPool
from penstock.at_hand import NONE_LEFT
from penstock.engine import Engine
from penstock.errors import ClosedError
from penstock.loader.likeness import LikeTorchs
from penstock.loader.pinning import pin_device, pin_memory
from penstock.loader.session import Session
from penstock.loader.tuned import Tuned
from penstock.ready import ReadyEngine
from penstock.resume import Passage
from penstock.stats import Recorder

Loader = Any
"""A `penstock.DataLoader`, whose module is above this one."""
_profiler_enabled: Callable[[], bool] = torch.autograd._profiler_enabled  # type: ignore[attr-defined]
PROFILED = "enumerate(DataLoader)#LoaderIterator.__next__"
"""In a trace of torch's profiler; it begins with torch's word, by which viewers know time spent waiting."""


class LoaderIterator(LikeTorchs):
    """One pass over a loader; with ``persistent_workers``, one after the other (`restart`).

    Closed when it is exhausted (unless its workers persist), by `close`, by the garbage collector and
    at the interpreter's exit. Several threads may draw from it: each batch goes to one of them.
    """

    def __init__(self, loader: Loader, pool: ArenaPool) -> None:
        super().__init__(loader)
        self._pool = pool
        self._pin_memory_device = pin_device(loader)
        self._pin_memory = self._pin_memory_device is not None
        self._moved_by: Loader | None = None
        self._ready: ReadyEngine | None = None
        self._turn, self._turn_forks = threading.RLock(), forks.count
        self._open_session(loader, loader._books.begin(loader))

    def _reset(self, loader: Loader) -> None:
        """Begin the next epoch, with the same workers if they are of use; what is left of the last is
        dropped."""
        passage = loader._books.begin(loader)
        if not self.closed and not passage.renewed and self._session.abandon():
            self._begin(loader, passage)
        else:
            self.close()
            self._open_session(loader, passage)

    def _open_session(self, loader: Loader, passage: Passage) -> None:
        recorder = Recorder()
        self._session = Session(loader, self._pool, passage)
        self._close = weakref.finalize(self, self._session.close)
        self._begin(loader, passage, recorder)

    def _begin(self, loader: Loader, passage: Passage, recorder: Recorder | None = None) -> None:
        self._finished, self._moved_by, self._ready = False, None, None
        self._recorder = recorder = recorder or Recorder()
        self._IterableDataset_len_called = loader._IterableDataset_len_called
        loader._latest, loader._newest = (recorder, self._session.arena), weakref.ref(self)
        try:
            engine, controller = self._session.begin(loader, passage, recorder), self._session.controller
        except BaseException:
            self.close()
            raise
        self._engine: Engine | ReadyEngine | Tuned = engine
        if controller is not None and isinstance(engine, Engine) and self._session.workers:
            self._engine = Tuned(engine, self._session, controller, recorder)
        self._passage = passage
        self._ready = self._with_batches_at_hand()
        loader._books.begun(passage)

    def _with_batches_at_hand(self) -> ReadyEngine | None:
        """The engine, if its batches may be handed over as they are."""
        unpinned = self._pin_memory_device is None
        return self._engine if unpinned and isinstance(self._engine, ReadyEngine) else None

    def move(self, loader: Loader) -> None:
        """The loader was given a state to go on from: the next batch is that which follows it."""
        if not self._finished and not self.closed:
            self._moved_by, self._ready = loader, None

    def __iter__(self) -> LoaderIterator:
        return self

    def __next__(self) -> Any:
        ready = self._ready
        if ready is not None and not profiler._is_profiler_enabled:
            batch = next(ready.at_hand.batches, NONE_LEFT)
            if batch is not NONE_LEFT:
                return batch
        if self._turn_forks != forks.count:  # the thread that has its turn may not be here
            self._session.require_usable_here()
            self._turn, self._turn_forks = threading.RLock(), forks.count
        try:
            with self._turn:
                if not _profiler_enabled():
                    return self._next()
                with profiler.record_function(PROFILED):
                    return self._next()
        except StopIteration:
            raise
        except Exception:
            if _left_behind():
                threading.Event().wait()
            raise

    def _next(self) -> Any:
        if self._finished:
            raise StopIteration
        if self._session.closed:
            raise ClosedError("this iterator was closed: call iter() on the loader for another one.")
        if self._moved_by is not None:
            self._move()
        try:
            batch = next(self._engine)
        except StopIteration:
            self._finished = True
            self._passage.finish()
            if not self._persistent_workers:
                self.close()
            raise
        except BaseException as error:
            if error is not self._engine.take_raised():
                self.close()
            raise
        promised = self._IterableDataset_len_called
        if promised is not None and self._iterable and self._num_yielded > promised:
            self._warn_of_length(promised)
        return batch if self._pin_memory_device is None else pin_memory(batch, self._pin_memory_device)

    def _move(self) -> None:
        loader: Loader = self._moved_by
        self._moved_by, self._ready = None, self._with_batches_at_hand()
        if loader._newest() is self and loader._books.loaded is not None:
            self._reset(loader)

    def _warn_of_length(self, promised: int) -> None:
        """torch's words, which people match."""
        text = (
            f"Length of IterableDataset {self._session.dataset} was reported to be {promised}"
            f"(when accessing len(dataloader)), but {self._num_yielded} samples have been fetched. "
        )
        if self._session.workers:
            text += (
                "For multiprocessing data-loading, this could be caused by not properly configuring the "
                "IterableDataset replica at each worker. Please see "
                "https://pytorch.org/docs/stable/data.html#torch.utils.data.IterableDataset for examples."
            )
        warnings.warn(text, stacklevel=4)

    @property
    def _num_yielded(self) -> int:
        return self._passage.given + self._recorder.batches

    @property
    def closed(self) -> bool:
        return self._session.closed

    def close(self) -> None:
        self._close()


def _left_behind() -> bool:
    """Whether this is a daemon thread at the interpreter's exit, which has closed what it was at: it waits
    for its own end then, as Python's calls would have it do, and prints no error."""
    return threading.current_thread().daemon and not threading.main_thread().is_alive()
