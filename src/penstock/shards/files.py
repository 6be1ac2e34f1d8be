"""Files that are whole or not there: a temporary one is written, brought to the disk, and renamed.

A shard ends with 16 bytes beyond the Arrow stream: how long that is, its CRC-32, and a mark. So a file that
was cut short or altered is known by itself. Readers of Arrow streams stop before them.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from penstock.shards.layout import Layout

TRAILER = struct.Struct("<QI4s")
MARK = b"PSk1"
METADATA = b"penstock"
"""The key in the schema's metadata under which ours is, as JSON."""
_TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class Written:
    """A shard that was written: its size in bytes, and the checksum of all but its last 16 bytes."""

    nbytes: int
    crc32: int


class _Summing:
    """A file to write to that sums up what passes."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.crc32, self.nbytes = 0, 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.crc32 = zlib.crc32(view, self.crc32)
        self.nbytes += len(view)
        self._file.write(view)
        return len(view)

    def flush(self) -> None:
        self._file.flush()


def write_shard(
    path: Path,
    batch: pa.RecordBatch,
    layout: Layout,
    about: Mapping[str, Any] | None = None,
    metadata: Mapping[bytes, bytes] | None = None,
) -> Written:
    """Write a record batch of `encode`, atomically: what had this name is replaced.

    `about` is told by `Shard.about`, and `metadata` is added to the schema's as it is.

    Raises:
        OSError: if it can't be written; there is no file then, or the one that was there.
    """
    ours = json.dumps({"layout": layout.to_json(), "about": about or {}}, sort_keys=True)
    schema = batch.schema.with_metadata({METADATA: ours.encode(), **(metadata or {})})
    written: list[Written] = []

    def write(file: BinaryIO) -> None:
        sink = _Summing(file)
        with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema) as stream:
            stream.write_batch(batch.replace_schema_metadata(schema.metadata))
        file.write(TRAILER.pack(sink.nbytes, sink.crc32, MARK))
        written.append(Written(sink.nbytes + TRAILER.size, sink.crc32))

    write_atomically(path, write)
    return written[0]


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a file that then gets this name, when all of it is on the disk.

    Raises:
        OSError: if that fails; what it was writing is removed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def clear_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder that nobody writes to now."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)
