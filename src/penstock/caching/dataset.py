"""`cache` and the dataset that it gives."""

from __future__ import annotations

import logging
import operator
import os
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset, IterableDataset

from penstock.caching.budget import Memory, bytes_of
from penstock.caching.fingerprint import fingerprint
from penstock.caching.memory import MemoryStore
from penstock.caching.ranks import is_one_of_several, shared_store
from penstock.caching.rows import RowFormat, format_of
from penstock.collate import Irregular, ReadyRows, Spec
from penstock.errors import NotFingerprintableError, human_bytes
from penstock.pipeline import Marks, Study, Until, study
from penstock.plan import Indices
from penstock.stats import CacheStats

if TYPE_CHECKING:
    from penstock.caching.disk import DiskStore

_log = logging.getLogger("penstock")
DEFAULT_SHARE = 0.5
"""Of the memory that is free, where no size is given."""


def cache(
    dataset: Any,
    *,
    memory: Memory | None = None,
    disk: str | os.PathLike[str] | None = None,
    until: Until = None,
) -> CachedDataset:
    """A dataset like `dataset` that keeps what is the same every time, once for all processes that use it.

    That is the whole of every sample, or what comes before the first random step of its transform: `explain`
    tells. A few samples are made, in a process of their own, to find out and to prove it. What comes after
    runs for each sample as before, and the samples are those of `dataset`, bit for bit.

    Args:
        dataset: map-style: with ``len`` and ``[i]``. It isn't changed, and not to be changed from here on.
        memory: how much to keep there: a size such as "8GB", bytes, or a share of what is free (a float below
            1). If it isn't given: half of what is free, or nothing where there is `disk`. The ranks that a
            launcher has started on one machine share one such store; the first one's size counts.
        disk: a folder to keep it in for later runs too, as Arrow files; it needs pyarrow.
        until: the first step of the transform that isn't to be kept, by its name or its number, if that is to
            come before the first random one.

    Raises:
        NotRepeatableError: if nothing of a sample is the same every time, or not all up to `until`.
        NotFingerprintableError: with `disk`, if it can't be told when the dataset has become another one.
        ValueError: if the dataset is empty, has no such step, `memory` is no size, or `disk` is empty.
        TypeError: if the dataset isn't map-style.
        OSError: if there isn't so much address space, or the folder can't be written to.
        ModuleNotFoundError: with `disk`, if pyarrow isn't installed.
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError(f"{type(dataset).__name__} is an iterable dataset: only map-style ones can be cached")
    if disk is not None and not os.fspath(disk):
        raise ValueError("disk should be a folder, but got ''")
    if memory is None and disk is None:
        memory = DEFAULT_SHARE
    budget = None if memory is None else bytes_of(memory)
    found = study(dataset, until, _look)
    store = None if budget is None else _memory_store(budget, found)
    return CachedDataset(found, store, None if disk is None else _disk_store(Path(disk), found))


def _memory_store(budget: int, found: Study) -> MemoryStore:
    """That of this process or, under a launcher of several ranks, of all of them on this machine."""
    dataset = found.cut.dataset
    make = partial(MemoryStore, len(dataset), budget, _common_format(found))
    if not is_one_of_several():
        return make()
    try:
        return shared_store(fingerprint(dataset, found.cut.kept_steps()), make)
    except NotFingerprintableError as error:
        _log.warning("each rank caches for itself: %s", str(error))
        return make()


def _look(values: Any, marks: Marks) -> tuple[RowFormat | None, Marks]:
    try:
        return format_of(values, marks), marks
    except Irregular:
        return None, marks


def _common_format(found: Study) -> RowFormat | None:
    """That of all samples that were looked at, if they have one."""
    formats = {form for form, _ in found.looks}
    return formats.pop() if len(formats) == 1 else None


def _disk_store(root: Path, found: Study) -> DiskStore:
    from penstock.caching.disk import DiskStore  # needs pyarrow

    key = fingerprint(found.cut.dataset, found.cut.kept_steps(), cache=root)
    return DiskStore(root, key, found.looks[0][1])


class CachedDataset(Dataset[Any]):
    """What `penstock.cache` gives: the samples of another dataset, of which it keeps what it can.

    It may be used by any loader, with any number of workers under any start method.

    Attributes:
        dataset: the one that is cached.
    """

    seeded_as = "dataset"
    """Whoever looks for random generators sees that attribute in the place of this object."""
    runs_itself = True
    """Whoever looks for transforms knows that a copy of that dataset isn't what they are called by."""

    def __init__(self, found: Study, memory: MemoryStore | None, disk: DiskStore | None) -> None:
        self.dataset = found.cut.dataset
        self._study, self._cut = found, found.cut
        self._memory, self._disk = memory, disk
        self._lost = False
        self._size = len(self.dataset)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        place = self._place(index)
        if place is None:
            return self._cut.finish(*self._cut.start(index))
        kept = None if self._memory is None else self._memory.get(place)
        return self._cut.finish(*(self._first_part(index, place) if kept is None else kept))

    def _first_part(self, index: Any, place: int) -> tuple[Any, Marks]:
        """Read from the disk, or made, and kept for the next time."""
        if self._disk is not None:
            self._disk.flush_if_late()
        begin = time.perf_counter()
        kept = None if self._disk is None else self._disk.get(place)
        if kept is None:
            begin = time.perf_counter()  # to look for it is no part of making it
        values, marks = self._cut.start(index) if kept is None else kept
        seconds = time.perf_counter() - begin
        if self._memory is not None:
            self._memory.put(place, values, marks, seconds)
        if self._disk is not None and kept is None:
            self._disk.put(place, values, marks, seconds)
        return values, marks

    def _place(self, index: Any) -> int | None:
        """The number of the sample; None for what only the dataset itself can make sense of."""
        try:
            place = operator.index(index)
        except TypeError:
            return None
        return place if 0 <= place < self._size else None

    def ready_rows(self, indices: Indices) -> ReadyRows | None:
        """Samples that lie in memory as rows, for a loader that can copy them all at once."""
        return self._memory.ready(indices) if self._memory is not None and self._study.whole else None

    def ready_spec(self) -> Spec | None:
        """The spec of all samples, if every one of them lies there."""
        return self._memory.ready_spec() if self._memory is not None and self._study.whole else None

    def explain(self) -> str:
        """What is kept of a sample and what isn't, how that was found, and what it takes."""
        lines, stats = [self._study.explain()], self.stats()
        if self._memory is not None:
            kept = f"{stats.stored} of {self._size} samples, {human_bytes(stats.stored_bytes)}"
            lines.append(f"Kept in memory, {human_bytes(stats.budget)} at most: {kept}.")
        if self._disk is not None:
            kept = f"{stats.on_disk} of {self._size} samples, {human_bytes(stats.disk_bytes)}"
            lines.append(f"Kept in {self._disk.folder}: {kept}.")
        return "\n".join(lines)

    def stats(self) -> CacheStats:
        """What the cache did up to now, in all processes that share it. What was made and waits to be written
        to the disk isn't counted as there."""
        stats = CacheStats(samples=self._size) if self._memory is None else self._memory.stats()
        return stats if self._disk is None else self._disk.stats(stats)

    def flush(self) -> None:
        """Write to the disk what this process has made; at the end of a process that is done by itself."""
        if self._disk is not None:
            self._disk.flush()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lost": self._memory is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._lost and self._memory is None:
            warnings.warn(
                "the memory of a CachedDataset can't be reached from this process: its samples are made anew",
                stacklevel=2,
            )
