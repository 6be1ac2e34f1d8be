"""Reading a shard: mapped, so that several processes share its pages and nothing is copied."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from penstock.errors import DamagedShardError
from penstock.shards.columns import Array, Getter
from penstock.shards.files import MARK, METADATA, TRAILER
from penstock.shards.layout import Layout
from penstock.shards.packing import unpack_parts
from penstock.shards.parts import CHANNELS_FIRST, PIXELS, restored
from penstock.tree import Fields, Items, Leaf, Structure, unflatten

Getters = Iterator[Callable[..., Getter]]
"""For each column, what makes the getter of its leaves."""


class Shard:
    """The samples of one file, each made when it is asked for.

    Tensors and arrays that have a column of their own view the file's pages. The mapping is private and
    writable: a change to such a tensor in place is seen, in this process alone, when the sample is read
    again; the file stays as it is. It takes no descriptor, and lives as long as what views it.

    Attributes:
        path: of the file.
        layout: of the samples.
        about: what its writer told of it.
        batch: all of it, as pyarrow's record batch.
        crc32: what the checksum should be.

    Raises:
        DamagedShardError: if the file isn't a whole shard; with `verify`, if it isn't what was written.
        OSError: if it can't be read.
    """

    def __init__(self, path: str | os.PathLike[str], verify: bool = False) -> None:
        self.path = Path(path)
        self._bytes = _map(self.path)
        self._length, self.crc32 = self._read_trailer()
        if verify:
            self.verify()
        try:
            self.batch, self.layout, self.about = self._parse()
        except Exception as error:
            raise DamagedShardError(self.path, f"it can't be read ({error})") from error
        pairs = zip(self.layout.names, self.layout.columns, strict=True)
        getters = iter([partial(column.getter, name, self.batch, self._view) for name, column in pairs])
        self._fields: dict[Any, Getter] = {}
        """Of samples that are a dict, what makes a row's item."""
        structure = self.layout.structure
        if isinstance(structure, Fields):
            self._fields = dict(zip(structure.keys, _makers(structure, getters), strict=True))
            self._make = _dict_maker(self._fields)
        else:
            self._make = _maker(structure, getters)

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < len(self.batch):
            raise IndexError(f"row {row} of {len(self.batch)}")
        return self._make(row)

    def item_getter(self, key: str) -> Getter:
        """Of samples that are a dict: what makes this item alone, of a row that there is."""
        if not self._fields:  # without a leaf, samples are stored whole
            return lambda row: self._make(row)[key]
        return self._fields[key]

    def stored(self) -> Iterator[Any]:
        """All samples as they are stored, images and the like in their parts: to be stored again."""
        pairs = zip(self.layout.names, self.layout.columns, strict=True)
        getters = [column.getter(name, self.batch, self._view, unpack_parts) for name, column in pairs]
        for row in range(len(self)):
            yield unflatten(self.layout.structure, (get(row) for get in getters))

    @property
    def nbytes(self) -> int:
        """Of the file."""
        return len(self._bytes)

    def verify(self) -> None:
        """Sum up the whole file.

        Raises:
            DamagedShardError: if it isn't what was written.
        """
        found = zlib.crc32(self._bytes[: self._length].data)
        if found != self.crc32:
            raise DamagedShardError(self.path, f"its checksum is {found:08x} instead of {self.crc32:08x}")

    def restore(self, view: torch.Tensor) -> None:
        """Undo what was written into a tensor of this shard, or into a dense view of it."""
        start = view.data_ptr() - self._bytes.ctypes.data
        with open(self.path, "rb") as file:
            file.seek(start)
            file.readinto(self._bytes[start : start + view.nbytes].data)

    def _read_trailer(self) -> tuple[int, int]:
        length, crc32, mark = TRAILER.unpack(self._bytes[-TRAILER.size :].tobytes())
        if mark != MARK or length != len(self._bytes) - TRAILER.size:
            raise DamagedShardError(self.path, "it is cut short, or no shard at all")
        return length, crc32

    def _parse(self) -> tuple[pa.RecordBatch, Layout, dict[str, Any]]:
        stream = pa.ipc.open_stream(pa.py_buffer(self._bytes[: self._length]))
        batch = stream.read_next_batch()
        ours = json.loads(batch.schema.metadata[METADATA])
        return batch, Layout.from_json(ours["layout"]), ours["about"]

    def _view(self, buffer: pa.Buffer | None) -> Array:
        """The same bytes as a part of our array, which may be written to."""
        if buffer is None:
            return self._bytes[:0]
        start = buffer.address - self._bytes.ctypes.data
        return self._bytes[start : start + buffer.size]


def _maker(structure: Structure, getters: Getters) -> Getter:
    """What makes the part of a row's sample that is built so, of its leaves.

    One function of few calls: beside a transform, which sweeps the processor's caches, each call is dear.
    """
    if isinstance(structure, Leaf):
        return next(getters)()
    if structure == PIXELS:
        return next(getters)(axes=CHANNELS_FIRST)
    makers = _makers(structure, getters)
    if isinstance(structure, Fields):
        return _dict_maker(dict(zip(structure.keys, makers, strict=True)))
    kind: Any = restored(structure.kind)
    if kind is list:
        return lambda row: [make(row) for make in makers]
    if kind is tuple:
        return lambda row: tuple([make(row) for make in makers])
    if len(makers) == 1:
        (only,) = makers
        return lambda row: kind(only(row))
    return lambda row: kind(*[make(row) for make in makers])


def _makers(structure: Items | Fields, getters: Getters) -> list[Getter]:
    return [_maker(child, getters) for child in structure.children]


def _dict_maker(fields: dict[Any, Getter]) -> Getter:
    items = tuple(fields.items())
    return lambda row: {key: make(row) for key, make in items}


def _map(path: Path) -> Array:
    """The file as an array; torch's mapping is private, and keeps no descriptor."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < TRAILER.size:
            raise DamagedShardError(path, "it is cut short, or no shard at all")
        name = os.fspath(path)
        if not _is_utf8(name):  # torch takes no other
            name = f"/proc/self/fd/{file.fileno()}"
        mapped: Array = torch.from_file(name, shared=False, size=size, dtype=torch.uint8).numpy()
        return mapped


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


assert np.little_endian
