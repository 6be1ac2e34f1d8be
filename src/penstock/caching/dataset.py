"""`cache` and the dataset that it gives."""

from __future__ import annotations

import operator
import time
import warnings
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from penstock.caching.budget import Memory, bytes_of
from penstock.caching.counters import CacheStats
from penstock.caching.memory import MemoryStore
from penstock.caching.rows import RowFormat, format_of
from penstock.collate import Irregular, ReadyRows, Spec
from penstock.errors import human_bytes
from penstock.pipeline import Marks, Study, Until, study

DEFAULT_SHARE = 0.5
"""Of the memory that is free, where no size is given."""


def cache(dataset: Any, *, memory: Memory | None = None, until: Until = None) -> CachedDataset:
    """A dataset like `dataset` that keeps what is the same every time, once for all processes that use it.

    That is the whole of every sample, or what comes before the first random step of its transform: `explain`
    tells. A few samples are made, in a process of their own, to find out and to prove it. What comes after
    runs for each sample as before, and the samples are those of `dataset`, bit for bit.

    Args:
        dataset: map-style: with ``len`` and ``[i]``. It isn't changed, and not to be changed from here on.
        memory: how much to keep: a size such as "8GB", bytes, or a share of what is free (a float below 1);
            half of what is free if it isn't given.
        until: the first step of the transform that isn't to be kept, by its name or its number, if that is to
            come before the first random one.

    Raises:
        NotRepeatableError: if nothing of a sample is the same every time, or not all up to `until`.
        ValueError: if the dataset is empty, has no such step, or `memory` is no size.
        TypeError: if the dataset isn't map-style.
        OSError: if there isn't so much address space.
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError(f"{type(dataset).__name__} is an iterable dataset: only map-style ones can be cached")
    budget = bytes_of(DEFAULT_SHARE if memory is None else memory)
    found = study(dataset, until, _row_format)
    formats = set(found.looks)
    form = formats.pop() if len(formats) == 1 else None
    return CachedDataset(found, MemoryStore(len(dataset), budget, form))


def _row_format(values: Any, marks: Marks) -> RowFormat | None:
    try:
        return format_of(values, marks)
    except Irregular:
        return None


class CachedDataset(Dataset[Any]):
    """What `penstock.cache` gives: the samples of another dataset, of which it keeps what it can.

    It may be used by any loader, with any number of workers under any start method.

    Attributes:
        dataset: the one that is cached.
    """

    seeded_as = "dataset"
    """Whoever looks for random generators sees that attribute in the place of this object."""

    def __init__(self, found: Study, store: MemoryStore) -> None:
        self.dataset = found.cut.dataset
        self._study, self._cut = found, found.cut
        self._store: MemoryStore | None = store
        self._size = store.size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        place = self._place(index)
        if place is None or self._store is None:
            return self._cut.finish(*self._cut.start(index))
        kept = self._store.get(place)
        if kept is not None:
            return self._cut.finish(kept.values, kept.marks)
        begin = time.perf_counter()
        values, marks = self._cut.start(index)
        self._store.put(place, values, marks, time.perf_counter() - begin)
        return self._cut.finish(values, marks)

    def _place(self, index: Any) -> int | None:
        """The number of the sample; None for what only the dataset itself can make sense of."""
        try:
            place = operator.index(index)
        except TypeError:
            return None
        return place if 0 <= place < self._size else None

    def ready_rows(self, indices: Sequence[Any]) -> ReadyRows | None:
        """Samples that lie in memory as rows, for a loader that can copy them all at once."""
        return self._store.ready(indices) if self._store is not None and self._study.whole else None

    def ready_spec(self) -> Spec | None:
        """The spec of all samples, if every one of them lies there."""
        return self._store.ready_spec() if self._store is not None and self._study.whole else None

    def explain(self) -> str:
        """What is kept of a sample and what isn't, how that was found, and what it takes."""
        stats = self.stats()
        kept = f"Kept in memory, {human_bytes(stats.budget)} at most: {stats.stored} of {self._size} samples"
        return f"{self._study.explain()}\n{kept}, {human_bytes(stats.stored_bytes)}."

    def stats(self) -> CacheStats:
        """What the cache did up to now, in all processes that share it."""
        return CacheStats(samples=self._size) if self._store is None else self._store.stats()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._store is None:
            warnings.warn(
                "the memory of a CachedDataset can't be reached from this process: its samples are made anew",
                stacklevel=2,
            )
