"""The manifest of a folder of prepared data, and the note that stands there until it is finished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from penstock.errors import PrepareError
from penstock.shards import write_atomically

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
VERSION = 1
NAMES_AND_SIZES = "names and sizes"
"""Of a folder's files: by their digest, which means nothing to anybody."""


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard.

    Attributes:
        name: of the file.
        samples, bytes: how many.
        crc32: of all but the file's last 16 bytes.
        first, stop: which samples of the source it covers, bad ones included.
    """

    name: str
    samples: int
    bytes: int
    crc32: str
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for: only under the same order is an interrupted work gone on with.

    Attributes:
        source: what is told of it.
        done: the settings.
        versions: of the libraries that the bytes depend on.
    """

    source: dict[str, Any]
    done: dict[str, Any]
    versions: dict[str, str]

    def differences(self, other: Order) -> list[str]:
        """What this one has otherwise than `other`, in words."""
        here, there = dict(_entries(asdict(self))), dict(_entries(asdict(other)))
        return [
            f"the {name} of the files are others"
            if name == NAMES_AND_SIZES and name in here and name in there
            else f"{name} is {here.get(name)!r}, was {there.get(name)!r}"
            for name in {**there, **here}
            if here.get(name) != there.get(name)
        ]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is told of prepared data.

    Attributes:
        order: what was asked for.
        shards: the files.
        columns: their names and types.
        classes: the names of the labels, or None.
        bad: the samples that could not be made: index, path, type and message of the exception.
    """

    order: Order
    shards: list[ShardEntry]
    columns: dict[str, str]
    classes: list[str] | None = None
    bad: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Write it, which says that all is there."""
        totals = {"manifest": VERSION, "samples": self.samples, "bytes": self.bytes}
        _write(folder / MANIFEST, {**totals, **asdict(self)})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder that is finished.

    Raises:
        PrepareError: if it isn't, or holds nothing prepared.
    """
    data = _read(folder / MANIFEST)
    if data is None:
        if (folder / UNFINISHED).exists():
            raise PrepareError(f"{folder} is unfinished: prepare it again in the same way, and it goes on")
        what = "holds no prepared data" if folder.is_dir() else "is no folder"
        raise PrepareError(f"{folder} {what} (there is no {MANIFEST})")
    try:
        if data["manifest"] != VERSION:
            raise PrepareError(f"{folder} was prepared by a later Penstock than this one: update it")
        shards = [ShardEntry(**shard) for shard in data["shards"]]
        return Manifest(Order(**data["order"]), shards, data["columns"], data["classes"], data["bad"])
    except (KeyError, TypeError) as error:
        raise PrepareError(f"{folder / MANIFEST} is damaged ({error!r})") from error


def begun(folder: Path) -> Order | None:
    """What was asked for of a folder that is unfinished; None if nothing was."""
    data = _read(folder / UNFINISHED)
    try:
        return None if data is None else Order(**data)
    except TypeError as error:
        raise PrepareError(f"{folder / UNFINISHED} is damaged ({error!r})") from error


def begin(folder: Path, order: Order) -> None:
    """Note what was asked for."""
    _write(folder / UNFINISHED, asdict(order))


def versions_of(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise PrepareError(f"{path} is damaged ({error})") from error


def _write(path: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    written = text.encode("utf-8", "backslashreplace")  # what is no text in a file's name: as JSON escapes it
    write_atomically(path, lambda file: file.write(written))


def _entries(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(data, dict):
        yield prefix, data
        return
    for name, value in data.items():
        yield from _entries(value, name)
