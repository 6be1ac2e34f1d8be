"""One process's mapping of the arena."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import sys
import weakref
from multiprocessing import reduction
from typing import Any

import numpy as np

from penstock.arena.layout import CONTROL_BYTES, PAGE, STACK_BYTES, Bytes
from penstock.errors import BatchTooLargeError, human_bytes
from penstock.machine import available_memory

_MADV_POPULATE_READ = 22
"""Maps pages that exist, all in one go: a quarter of what it costs to fault them in one by one."""
MAX_SLOTS = 1024
"""How many batches of a loader can be kept before more are copied out, however small they are."""
MAX_SPAN = 1 << 34
"""16 GB of address space for a slot: no batch may be larger."""
FEWEST_SLOTS = 16
SMALLEST_SPAN = 1 << 20
"""Where address space is so scarce that not even this can be had for each slot, there is no arena."""
ASK_FIRST = 64 << 20
"""Before a slot, or an arena, grows by more than this many bytes, see what memory there is."""


def _map_shared(fd: int, nbytes: int) -> mmap.mmap:
    """Map the file; where Python lets us, without the second descriptor that ``mmap`` keeps."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, nbytes, trackfd=False)
    return mmap.mmap(fd, nbytes)


def _map_there(fd: Any, span: int) -> Memory:
    return Memory(fd.detach(), span)


_mapped: weakref.WeakSet[Memory] = weakref.WeakSet()
"""All of this process, that every new one may leave address space to those to come."""


class Memory:
    """A process's mapping of the arena.

    Attributes:
        fd: the descriptor of the anonymous file.
        span: bytes of address space for each slot; no batch may be larger.
        slots: how many slots there are.
        control: int64 words, shared; word 0 is the generation, then `NOTE_WORDS` for each worker.
    """

    def __init__(self, fd: int, span: int) -> None:
        size = os.fstat(fd).st_size
        self.fd, self.span, self.slots = fd, span, size // span - 1
        self._owner = os.getpid()
        self._map = _map_shared(fd, size)
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_DONTDUMP)
        self._bytes: Bytes = np.frombuffer(self._map, dtype=np.uint8)
        self.control = memoryview(self._map)[:CONTROL_BYTES].cast("q")
        self._reserved: dict[int, int] = {}
        self._close = weakref.finalize(self, os.close, fd)
        _mapped.add(self)

    def __reduce__(self) -> tuple[object, ...]:
        """As an argument of a process that is being started: the same file, mapped there anew."""
        return _map_there, (reduction.DupFd(self.fd), self.span)

    def slot(self, slot: int, nbytes: int) -> Bytes:
        """The first `nbytes` bytes of a slot; writing past what is reserved may end in SIGBUS."""
        start = (slot + 1) * self.span
        return self._bytes[start : start + nbytes]

    def reserve(self, slot: int, nbytes: int) -> Bytes:
        """Make sure of memory for the first `nbytes` of a slot, and return them.

        Raises:
            BatchTooLargeError: if a slot can't be that large, or there isn't that much memory.
        """
        known = self._reserved.get(slot, 0)
        if nbytes > known:
            self._grow(slot, known, nbytes)
            self._reserved[slot] = nbytes
        return self.slot(slot, nbytes)

    def _grow(self, slot: int, known: int, nbytes: int) -> None:
        if nbytes > self.span:
            raise BatchTooLargeError(nbytes, self.span, "one batch may have")
        start = (slot + 1) * self.span
        there = max(known, os.lseek(self.fd, start, os.SEEK_HOLE) - start)  # reserved by another process
        missing = nbytes - there
        if missing > ASK_FIRST and missing > (free := available_memory()):
            raise BatchTooLargeError(nbytes, free, "the memory left is")
        try:
            if missing > 0:
                os.posix_fallocate(self.fd, start + there, missing)
        except OSError as error:
            raise BatchTooLargeError(nbytes, available_memory(), "the memory left is") from error
        with contextlib.suppress(OSError):  # before Linux 5.14
            new = known // PAGE * PAGE
            self._map.madvise(_MADV_POPULATE_READ, start + new, nbytes - new)

    def held(self) -> int:
        """Bytes of the machine's memory that the file takes now."""
        return os.fstat(self.fd).st_blocks * 512

    def stack_place(self, worker: int) -> int | None:
        """Where in the file a worker may write its stack to; None where there is no room for that."""
        start = CONTROL_BYTES + worker * STACK_BYTES
        return start if start + STACK_BYTES <= self.span else None

    def stack_text(self, worker: int) -> bytes:
        """What it wrote there."""
        start = self.stack_place(worker)
        return b"" if start is None else self._map[start : start + STACK_BYTES].rstrip(b"\0")

    def own_view(self, slot: int, nbytes: int) -> Bytes:
        """As `slot`, but an array that its slices keep alive (numpy's base of a slice is it)."""
        return np.frombuffer(self._map, np.uint8, nbytes, (slot + 1) * self.span)

    def give_back(self, slot: int) -> None:
        """Return a slot's memory to the system; what was written there is gone.

        In a process forked from the one that made this mapping, where the slot may still be of use to
        the other, it does nothing.
        """
        if os.getpid() != self._owner:
            return
        with contextlib.suppress(OSError):  # where the system can't, the memory stays until the end
            self._map.madvise(mmap.MADV_REMOVE, (slot + 1) * self.span, self.span)
        self._reserved.pop(slot, None)

    def forget_reserved(self) -> None:
        """The main process may have given memory back: reserve anew from here on."""
        self._reserved.clear()

    def close(self) -> None:
        """Close the descriptor; the mapping goes with the last array that views it."""
        self._close()


def map_largest() -> Memory:
    """A new anonymous file, mapped: as many slots, and then as large ones, as there is room for.

    A processor has room for seven of the largest, so the n-th is an n-th as large at the most: of those there
    is room for a thousand.
    """
    slots, span = MAX_SLOTS, MAX_SPAN
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    most = (slots + 1) * span // max(1, len(_mapped))
    while True:
        size = (slots + 1) * span
        try:
            if limit != resource.RLIM_INFINITY and size > limit // 4:  # leave most to the program
                raise OSError(errno.ENOMEM, "the address space is limited")
            if size > most and span > SMALLEST_SPAN:
                raise OSError(errno.ENOMEM, "many others have some of the address space")
            return _new_memory(size, span)
        except OSError as error:  # by `ulimit -v`, by `ulimit -f`, or by the processor
            if span <= SMALLEST_SPAN:
                needed = human_bytes(size)
                error.add_note(f"{needed} of address space are needed: see `ulimit -v` and `ulimit -f`")
                raise
            slots, span = (slots // 2, span) if slots > FEWEST_SLOTS else (slots, span // 2)


def _new_memory(size: int, span: int) -> Memory:
    fd = os.memfd_create("penstock", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, CONTROL_BYTES)
        return Memory(fd, span)
    except BaseException:
        os.close(fd)
        raise
