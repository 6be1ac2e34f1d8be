"""What code outside torch reads from the iterators of its loaders, under the same private names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NoReturn

from torch.utils.data.dataloader import _DatasetKind

from penstock.loader.session import Session

Loader = Any
"""A `penstock.DataLoader`, whose module is above this one."""


class LikeTorchs(ABC):
    """All of it is true here too; torch's queues, its thread and its flags, which aren't, are left out."""

    _session: Session

    def __init__(self, loader: Loader) -> None:
        self._dataset, self._dataset_kind = loader.dataset, loader._dataset_kind
        self._index_sampler = loader._index_sampler
        self._auto_collation, self._drop_last = loader._auto_collation, loader.drop_last
        self._collate_fn, self._worker_init_fn = loader.collate_fn, loader.worker_init_fn
        self._num_workers, self._prefetch_factor = loader.num_workers, loader.prefetch_factor
        self._persistent_workers = loader.persistent_workers
        self._timeout = loader.timeout
        self._in_order = bool(getattr(loader, "in_order", True))
        self._IterableDataset_len_called: int | None = None

    @property
    def _iterable(self) -> bool:
        return bool(self._dataset_kind == _DatasetKind.Iterable)

    @property
    def _base_seed(self) -> int:
        return self._session.base_seed

    @property
    def _workers(self) -> list[Any]:
        """Has ``pid``, ``is_alive()``, ``join()`` and so on; of those that run, or that ran last."""
        return self._session.processes

    @property
    def _shutdown(self) -> bool:
        return self.closed

    def _shutdown_workers(self) -> None:
        self.close()

    def __getstate__(self) -> NoReturn:
        raise NotImplementedError("{} cannot be pickled", type(self).__name__)

    @property
    @abstractmethod
    def closed(self) -> bool: ...

    @abstractmethod
    def close(self) -> None:
        """End the workers, at once but for the sample in hand. May be called twice."""

    def __len__(self) -> int:
        return len(self._index_sampler)
