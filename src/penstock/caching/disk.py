"""The disk store: the first part of every sample in Arrow files (`penstock.shards`), for later runs too.

A folder holds a folder for each key (`fingerprint`), and that holds shards. Every process gathers what it
made and writes it, as a file of its own that appears whole or not at all; so any number of processes and runs
may fill one folder at once, and whatever is killed leaves what was written before. A shard's checksum is
verified before its first sample is read. A damaged one is removed, and its samples are made again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.caching import counters
from penstock.caching.counters import Counters
from penstock.caching.rows import order_of
from penstock.caching.segment import Segment
from penstock.collate import Irregular
from penstock.errors import DamagedShardError, NotStorableError
from penstock.pipeline import Marks
from penstock.shards import Shard, encode, write_shard
from penstock.stats import CacheStats
from penstock.tree import flatten, structure_of, unflatten

FLUSH_BYTES = 8 << 20
FLUSH_SAMPLES = 1024
FLUSH_SECONDS = 5.0
"""What was made is written when it is so much, or the first of it is so old; and at the process's end."""
_VERIFIED = 1 << 16
_SHARED_BYTES = _VERIFIED * 8 + counters.NBYTES
"""What the processes of one run share: tags of verified files, and counters."""
Orders = list[Sequence[int] | None] | None
"""For each leaf of a sample, the order of its dimensions in memory; None for the usual one."""
_log = logging.getLogger("penstock")


class Writer:
    """Gathers samples and writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = 0
        self._samples: dict[int, tuple[Any, Orders, float]] = {}
        self._nbytes = 0
        self._since = 0.0
        self._broken = False

    def add(self, index: int, values: Any, orders: Orders, seconds: float, nbytes: int) -> None:
        """Take one, which took so long to make; `values` are to stay as they are."""
        if self._pid != os.getpid():  # forked: what is here is the other's to write
            self._pid, self._samples, self._nbytes = os.getpid(), {}, 0
            util.Finalize(None, self.flush, exitpriority=10)
        if self._broken:
            return
        if not self._samples:
            self._since = time.monotonic()
        self._samples[index] = values, orders, seconds
        self._nbytes += nbytes
        if self._nbytes >= FLUSH_BYTES or len(self._samples) >= FLUSH_SAMPLES:
            self.flush()

    def waiting(self, index: int) -> tuple[Any, Orders, float] | None:
        """One that was taken and isn't written yet."""
        return self._samples.get(index) if self._pid == os.getpid() else None

    def flush_if_late(self) -> None:
        """Write what has waited for long."""
        if self._samples and self._pid == os.getpid() and time.monotonic() - self._since > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all that was taken."""
        samples, self._samples, self._nbytes = self._samples, {}, 0
        if not samples or self._pid != os.getpid():
            return
        path = self._folder / f"{uuid.uuid4().hex}.arrow"
        try:
            values, orders, seconds = zip(*samples.values(), strict=True)
            batch, layout = encode(values)
            about = {"samples": list(samples), "orders": orders, "seconds": seconds}
            write_shard(path, batch, layout, about)
        except OSError as error:
            self._broken = True
            _log.warning("nothing more is cached in %s: %s", self._folder, str(error))


class DiskStore:
    """See above.

    Attributes:
        folder: of this key.
    """

    def __init__(self, root: Path, key: str, marks: Marks) -> None:
        """`marks` are those that all samples have; any other sample isn't stored.

        Raises OSError if the folder can't be made, or not be written to."""
        self.folder, self._marks = root / key, marks
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise PermissionError(f"the cache's folder can't be written to: {self.folder}")
        self._prepare(Segment.create(_SHARED_BYTES))

    def _prepare(self, shared: Segment) -> None:
        self._shared, self._counters = shared, Counters(shared, _VERIFIED * 8)
        self._seen = -1
        self._files: dict[str, Shard] = {}
        self._where: dict[int, tuple[str, int]] = {}
        self._writer = Writer(self.folder)
        self._unfit: set[int] = set()
        weakref.finalize(self, self._writer.flush)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_marks": self._marks, "_shared": self._shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare(self._shared or Segment.create(_SHARED_BYTES))  # out of reach: one of its own

    def __len__(self) -> int:
        self._look()
        return len(self._where)

    def stats(self, others: CacheStats) -> CacheStats:
        """What was done up to now by all processes that share it, added to what `others` did: only what was
        not found there is looked for here."""
        hits, misses, saved = self._counters.sums()
        samples, nbytes = len(self), sum(shard.nbytes for shard in list(self._files.values()))
        return replace(
            others,
            hits=others.hits + hits,
            misses=misses,
            saved_s=others.saved_s + saved,
            on_disk=samples,
            disk_bytes=nbytes,
        )

    def get(self, index: int) -> tuple[Any, Marks] | None:
        """The first part of a sample, a copy of its own, if it is here."""
        if (waiting := self._writer.waiting(index)) is not None:
            values, orders, seconds = waiting
            self._counters.hit(seconds)
            return _turned_back(values, orders), self._marks
        if index not in self._where:
            self._look()
        while index in self._where:
            name, row = self._where[index]
            shard = self._files[name]
            try:
                sample = shard[row]
            except DamagedShardError:
                self._remove(name)
                continue
            self._counters.hit(shard.about["seconds"][row])
            return _turned_back(sample, shard.about["orders"][row]), self._marks
        self._counters.miss()
        return None

    def put(self, index: int, values: Any, marks: Marks, seconds: float) -> None:
        """Keep the first part of a sample, which took so long to make; it is copied."""
        if marks != self._marks or index in self._where or index in self._unfit:
            return
        values, orders = _laid_out(values)
        try:
            batch, _ = encode([values])
        except NotStorableError as error:
            if not self._unfit:
                _log.warning("samples that can't be kept on disk are made each time: %s", str(error))
            self._unfit.add(index)
            return
        self._writer.add(index, values, orders, seconds, batch.nbytes)

    def flush_if_late(self) -> None:
        """Write what has waited for long."""
        self._writer.flush_if_late()

    def flush(self) -> None:
        """Write what this process has made."""
        self._writer.flush()

    def _look(self) -> None:
        """Find what has been written since."""
        try:
            changed = self.folder.stat().st_mtime_ns
        except OSError:  # removed meanwhile, or out of reach: the samples are made
            return
        if changed == self._seen:
            return
        self._seen = changed
        for path in sorted(self.folder.glob("*.arrow")):
            if path.name not in self._files:
                self._open(path)

    def _open(self, path: Path) -> None:
        try:
            shard = Shard(path, verify=not self._is_verified(path))
        except DamagedShardError as error:
            _log.warning("%s Its samples are made again.", str(error))
            with contextlib.suppress(OSError):
                path.unlink()
            return
        except OSError:  # removed by another process, or out of reach
            return
        self._note_verified(path)
        self._files[path.name] = shard
        for row, index in enumerate(shard.about["samples"]):
            self._where.setdefault(index, (path.name, row))

    def _remove(self, name: str) -> None:
        self._files.pop(name)
        self._where = {index: place for index, place in self._where.items() if place[0] != name}
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()

    def _is_verified(self, path: Path) -> bool:
        """Whether some process that shares our memory has verified this very file."""
        place, tag = self._tag(path)
        return bool(self._tags[place] == tag)

    def _note_verified(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            place, tag = self._tag(path)
            self._tags[place] = tag

    @property
    def _tags(self) -> Any:
        return self._shared.bytes[: _VERIFIED * 8].view(np.uint64)

    def _tag(self, path: Path) -> tuple[int, int]:
        status = path.stat()
        told = f"{path.name} {status.st_ino} {status.st_size} {status.st_mtime_ns}".encode()
        return zlib.crc32(told) % _VERIFIED, zlib.crc32(told[::-1]) << 32 | zlib.adler32(told)


def _laid_out(sample: Any) -> tuple[Any, Orders]:
    """A copy whose tensors and arrays have the order of their dimensions in memory, and that order for each
    leaf that has another: Arrow keeps the numbers, not the strides."""
    structure = structure_of(sample)
    leaves, orders = [], []
    for leaf in flatten(sample, structure):
        order = _turning(leaf)
        orders.append(order)
        leaves.append(_copy(leaf if order is None else _permuted(leaf, order)))
    return unflatten(structure, iter(leaves)), orders if any(orders) else None


def _turned_back(sample: Any, orders: Orders) -> Any:
    """A copy as the sample was."""
    structure = structure_of(sample)
    leaves = [_copy(leaf) for leaf in flatten(sample, structure)]
    for place, order in enumerate(orders or ()):
        if order is not None:
            leaves[place] = _permuted(leaves[place], sorted(range(len(order)), key=order.__getitem__))
    return unflatten(structure, iter(leaves))


def _turning(leaf: Any) -> Sequence[int] | None:
    """The order of a leaf's dimensions, if it isn't the usual one."""
    try:
        order = order_of(leaf)
    except Irregular:
        return None
    return None if list(order) == sorted(order) else order


def _permuted(leaf: Any, order: Sequence[int]) -> Any:
    """A view with its dimensions in this order, of the same class (torchvision's would become plain ones)."""
    if isinstance(leaf, np.ndarray):
        return leaf.transpose(order)
    turned = leaf.as_subclass(torch.Tensor).permute(*order).as_subclass(type(leaf))
    vars(turned).update(vars(leaf))
    return turned


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.clone()
    return leaf.copy() if isinstance(leaf, np.ndarray) or hasattr(leaf, "frombytes") else leaf
