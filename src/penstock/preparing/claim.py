"""A folder to prepare into: whose it is, what is there already, and that nobody else is at it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.errors import PrepareError
from penstock.preparing.manifest import MANIFEST, UNFINISHED, Order, begin, begun, read_manifest
from penstock.shards import clear_leftovers

_held: set[int] = set()


def _let_go() -> None:
    """Our workers must not hold a lock longer than the main process lives."""
    for lock in _held:
        os.close(lock)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def claim(folder: Path, order: Order) -> Iterator[bool]:
    """The folder, made and locked for this process; whether the work is done already.

    Raises:
        PrepareError: if it holds something else, or another process is at work in it.
        OSError: if it can't be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    _held.add(lock)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrepareError(f"another process is preparing into {folder}") from None
        yield _is_finished(folder, order)
    finally:
        if lock in _held:  # it isn't in a process forked from this one
            _held.remove(lock)
            os.close(lock)


def _is_finished(folder: Path, order: Order) -> bool:
    finished = (folder / MANIFEST).exists()
    before = read_manifest(folder).order if finished else begun(folder)
    if before is None:
        there = sorted(name for name in os.listdir(folder) if not name.startswith(f".{UNFINISHED}."))
        if there:
            raise PrepareError(f"{folder} is not empty ({there[0]}): give a new folder")
        begin(folder, order)
    elif before != order and os.listdir(folder) == [UNFINISHED]:  # nothing came of what was begun
        begin(folder, order)
    elif before != order:
        differences, how = "; ".join(order.differences(before)), "prepared" if finished else "begun"
        raise PrepareError(
            f"{folder} was {how} otherwise: {differences}. Prepare it as before, or give a new folder"
        )
    clear_leftovers(folder)
    if finished and (folder / UNFINISHED).exists():  # to remove what isn't there is an error on some disks
        (folder / UNFINISHED).unlink()
    return finished
