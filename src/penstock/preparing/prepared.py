"""Reading prepared data."""

from __future__ import annotations

import copy
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from penstock.errors import DamagedShardError
from penstock.preparing.manifest import Manifest, read_manifest
from penstock.preparing.sources import PATH, SAMPLE
from penstock.shards import Shard
from penstock.tree import is_namedtuple, leaves_of, map_leaves

_SEQUENCES = (tuple, list)
"""Of such samples the first element is the transform's."""
_version = attrgetter("_version")
"""How often a tensor was changed in place; it only grows."""


class PreparedDataset(Dataset[Any]):
    """The samples that `prepare` or ``penstock prepare`` wrote to a folder.

    What was prepared from class folders gives (image, label), as torchvision's ImageFolder; from a dataset,
    samples as that dataset's. Images are Pillow's, or tensors of shape (channels, height, width), uint8,
    where they were stored raw. `transform` is applied to the first element of a tuple or list, or to the
    whole of any other sample.

    Tensors view the file, which all processes map; nothing is copied. A transform may change them in place:
    torch counts that, it is undone, and from then on the transform gets copies (but what is written through
    ``numpy()`` or ``.data`` isn't seen). Without a transform, or with one that gives back what it got, who
    changes such a tensor changes it, in this process, for as long as the dataset lives. The file stays as it
    is in any case.

    It may be used in workers, however they are started, and is pickled as the folder's path.

    Attributes:
        dest: the folder.
        manifest: what was prepared, and how.
        transform: as given; may be set.

    Raises:
        PrepareError: if the folder holds nothing prepared, or isn't finished.
        DamagedShardError: if a shard isn't as large as it was, or, when a sample is read, is no shard. That
            its bytes are those that were written isn't checked: `penstock inspect` does.
    """

    manifest: Manifest

    def __init__(self, dest: str | os.PathLike[str], transform: Callable[[Any], Any] | None = None) -> None:
        self.dest, self.transform = Path(dest).absolute(), transform
        self._in_place: bool | None = None
        """Whether the transform was seen to work in place; None before its first sample."""
        self._open()

    def _open(self) -> None:
        self.manifest = read_manifest(self.dest)
        for entry in self.manifest.shards:
            path = self.dest / entry.name
            size = path.stat().st_size if path.exists() else None
            if size != entry.bytes:
                raise DamagedShardError(
                    path, "it is gone" if size is None else f"it has {size} bytes, not {entry.bytes}"
                )
        self._ends = list(accumulate(entry.samples for entry in self.manifest.shards))
        self._size = self._ends[-1]
        self._shards: dict[int, Shard] = {}
        self._readers: dict[int, Callable[[int], Any]] = {}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Any:
        number, row = self._find(index)
        sample = (self._readers.get(number) or self._reader(number))(row)
        transform = self.transform
        if transform is None:
            return sample
        if isinstance(sample, _SEQUENCES) and len(sample):
            kind, items = type(sample), (self._transformed(number, row, sample[0], transform), *sample[1:])
            return kind(*items) if is_namedtuple(kind) else kind(items)
        return self._transformed(number, row, sample, transform)

    @property
    def classes(self) -> list[str] | None:
        """The names of the labels, where they are known."""
        return self.manifest.classes

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The label of each class."""
        return {name: label for label, name in enumerate(self.classes or [])}

    @property
    def targets(self) -> list[Any]:
        """All labels.

        Raises:
            KeyError: if there is no column of that name.
        """
        return [
            label
            for number in range(len(self._ends))
            for label in self._shard(number).batch["label"].to_pylist()
        ]

    def path(self, index: int) -> str | None:
        """The path that a sample's file had below the source's folder, where that is known."""
        number, row = self._find(index)
        batch = self._shard(number).batch
        return batch[PATH][row].as_py() if PATH in batch.schema.names else None

    def _find(self, index: int) -> tuple[int, int]:
        """(shard, row)"""
        place = index + self._size if index < 0 else index
        if not 0 <= place < self._size:
            raise IndexError(f"sample {index} of {self._size}")
        number = bisect_right(self._ends, place)
        return number, place - (self._ends[number - 1] if number else 0)

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            self._shards[number] = Shard(self.dest / self.manifest.shards[number].name)
        return self._shards[number]

    def _reader(self, number: int) -> Callable[[int], Any]:
        return self._readers.setdefault(number, self._shard(number).item_getter(SAMPLE))

    def _transformed(self, number: int, row: int, value: Any, transform: Callable[[Any], Any]) -> Any:
        """A sample, or its first element, transformed; the shard is as before."""
        changes = _changes_of(value)
        if changes is None or self._in_place is not False or torch.is_inference_mode_enabled():
            return self._transformed_copy(value, transform)
        before = changes()
        result = None
        try:
            result = transform(value)
        finally:
            if changes() != before:
                self._in_place = True
                result = _copied(result)
                self._undo(number, row)
        return result

    def _transformed_copy(self, value: Any, transform: Callable[[Any], Any]) -> Any:
        """The first time that tells whether the transform works in place: then copies are what it gets."""
        own = _copied(value)
        changes = None
        if self._in_place is None and not torch.is_inference_mode_enabled():
            changes = _changes_of(own)
        before = changes and changes()
        result = transform(own)
        if changes is not None:
            self._in_place = changes() != before
        return result

    def _undo(self, number: int, row: int) -> None:
        """Read again from the file what the transform was given."""
        sample = self._reader(number)(row)
        first = sample[0] if isinstance(sample, _SEQUENCES) else sample
        for view in _views(first) or ():
            self._shard(number).restore(view)

    def __getstate__(self) -> dict[str, Any]:
        own = {"manifest", "_ends", "_size", "_shards", "_readers"}
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


def _changes_of(value: Any) -> Callable[[], int] | None:
    """Counts how often the tensors in it were changed in place; None where that can't be seen."""
    if type(value) is torch.Tensor:
        return partial(_version, value)
    views = _views(value)
    return None if views is None else lambda: sum(map(_version, views))


def _views(value: Any) -> Sequence[torch.Tensor] | None:
    """The tensors in it; None where arrays are as well, which could be changed unnoticed."""
    leaves = list(leaves_of(value))
    if any(isinstance(leaf, np.ndarray) for leaf in leaves):
        return None
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _copied(value: Any) -> Any:
    """With every tensor and array in memory of its own."""
    return map_leaves(_own, value)


def _own(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.clone()
    return leaf.copy() if isinstance(leaf, np.ndarray) else copy.deepcopy(leaf)
