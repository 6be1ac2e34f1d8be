"""One memory store for the ranks of a job on one machine, where each of them asks for its own.

The first rank to come makes it, and leaves a note of it (a pickle of the store: its process and descriptor)
in a file that only this user can read; the others find it by that. The note is looked at and written under a
lock of the file, which the kernel gives up for a process that dies. A note whose process is gone is none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

from penstock.caching.memory import MemoryStore

_JOB = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"
"""What launchers tell all ranks of a job, and no other job."""


def is_one_of_several() -> bool:
    """Whether a launcher has started this process and others on this machine."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return count.isdigit() and int(count) > 1


def shared_store(key: str, make: Callable[[], MemoryStore]) -> MemoryStore:
    """The store of this job for this key: another rank's, or the one that `make` makes.

    Raises:
        OSError: if the note can't be written, or `make` raises that.
    """
    path = _note_of(key)
    with open(path, "a+b") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        note.seek(0)
        found = _read(note.read())
        if found is not None:
            return found
        store = make()
        note.truncate(0)
        note.write(pickle.dumps(store))
        weakref.finalize(store, _remove, path, os.getpid())
        return store


def _read(data: bytes) -> MemoryStore | None:
    store = pickle.loads(data) if data else None
    return store if isinstance(store, MemoryStore) else None


def _note_of(key: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} should belong to this user alone: others could put notes there")
    job = [key, *(os.environ.get(name, "") for name in _JOB)]
    return folder / hashlib.blake2b("\n".join(job).encode(), digest_size=16).hexdigest()


def _remove(path: Path, maker: int) -> None:
    """Whoever comes later makes a store of its own."""
    if os.getpid() == maker:
        with contextlib.suppress(OSError):
            path.unlink()
