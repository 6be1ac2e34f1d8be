"""What is in a folder of prepared data, and whether it is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import DamagedShardError
from penstock.preparing.manifest import Manifest, ShardEntry, read_manifest
from penstock.shards import Shard

Progress = Callable[[int, int], None]


def _ignore(done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        manifest: of the folder.
        damaged: for each damaged shard, its name and what is wrong with it.
        verified: whether the shards' checksums were looked at.
    """

    manifest: Manifest
    damaged: dict[str, str]
    verified: bool


def inspect(folder: Path, verify: bool = True, progress: Progress = _ignore) -> Inspection:
    """Look at all shards; `progress` is told how many bytes of how many have been looked at.

    Raises:
        PrepareError: if the folder holds nothing prepared, or isn't finished.
    """
    manifest = read_manifest(folder)
    damaged: dict[str, str] = {}
    done = 0
    for entry in manifest.shards:
        reason = _trouble(folder / entry.name, entry, verify)
        if reason is not None:
            damaged[entry.name] = reason
        done += entry.bytes
        progress(done, manifest.bytes)
    return Inspection(manifest, damaged, verify)


def _trouble(path: Path, entry: ShardEntry, verify: bool) -> str | None:
    """What is wrong with a shard."""
    if not path.exists():
        return "it is gone"
    try:
        shard = Shard(path, verify)
    except DamagedShardError as error:
        return error.reason
    except OSError as error:
        return f"it can't be read: {error.strerror or error}"
    if (shard.nbytes, f"{shard.crc32:08x}", len(shard)) != (entry.bytes, entry.crc32, entry.samples):
        return "it isn't the file that the manifest tells of"
    return None
