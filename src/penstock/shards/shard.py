"""Reading a shard: mapped, so that several processes share its pages and nothing is copied."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from penstock.errors import DamagedShardError
from penstock.shards.columns import Array
from penstock.shards.files import MARK, METADATA, TRAILER
from penstock.shards.layout import Layout
from penstock.shards.packing import unpack_parts
from penstock.shards.parts import restored
from penstock.tree import map_kinds, unflatten


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
        self._structure = map_kinds(self.layout.structure, restored)
        pairs = zip(self.layout.names, self.layout.columns, strict=True)
        self._getters = [column.getter(name, self.batch, self._view) for name, column in pairs]

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < len(self.batch):
            raise IndexError(f"row {row} of {len(self.batch)}")
        return unflatten(self._structure, (get(row) for get in self._getters))

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


def _map(path: Path) -> Array:
    """The file as an array; torch's mapping is private, and keeps no descriptor."""
    size = path.stat().st_size
    if size < TRAILER.size:
        raise DamagedShardError(path, "it is cut short, or no shard at all")
    mapped: Array = torch.from_file(os.fspath(path), shared=False, size=size, dtype=torch.uint8).numpy()
    return mapped


assert np.little_endian
