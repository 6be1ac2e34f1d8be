"""The shared memory in which batches are put together, and who may touch which part of it when.

One anonymous file (``memfd_create``), sparse and far larger than the machine, is mapped once in every
process that works on it; so it costs one descriptor and one mapping a process, whatever the number of
batches. It is divided into spans of equal size. Span 0 holds the control words; every other span is a
*slot*, room for one batch, of which only what was reserved takes memory. Nothing of it is seen in
/dev/shm, counts against that file system's size, or outlives the processes.

Contract
--------
- `Arena` belongs to the main process: it alone says which slot is whose. A slot is *free*, or
  *acquired* (tasks may write into it), or *leased* (a batch in the user's hands views it).
      acquire: free -> acquired      lease: acquired -> leased
      release: acquired -> free      the last view of a leased slot dies: leased -> free
- That last step happens wherever the garbage collector runs it, in any thread and in the middle of
  any other call: it does nothing but append to a deque, which takes no lock.
- `Memory` is what a worker has of it. A worker writes only into the slot, and the rows of it, that its
  task names, after it reserved them; two workers may reserve and write one slot at once.
- Reserving (``posix_fallocate``) is where lack of memory shows, as `BatchTooLargeError`, instead of as a
  SIGBUS at some later write.
- No call here waits for another process.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import count
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import BatchTooLargeError, human_bytes
from penstock.machine import available_memory

Bytes = NDArray[np.uint8]

_MADV_POPULATE_READ = 22
"""Maps pages that exist, all in one go: a quarter of what it costs to fault them in one by one."""
PAGE = mmap.PAGESIZE
MAX_SLOTS = 1024
"""How many batches of a loader can be kept before more are copied out, however small they are."""
MAX_SPAN = 1 << 34
"""16 GB of address space for a slot: no batch may be larger."""
FEWEST_SLOTS = 16
SMALLEST_SPAN = 1 << 20
"""Where address space is so scarce that not even this can be had for each slot, there is no arena."""
BUDGET_SHARE = 0.25
"""The part that the slots may take, all together, of the memory that is free or theirs already."""
ASK_FIRST = 64 << 20
"""Before a slot, or an arena, grows by more than this many bytes, see what memory there is."""
ALIGN = 64
"""Every tensor in a slot starts at a multiple of this (a cache line)."""

STACK_BYTES = 1 << 16
"""Room for what a worker says of its stack, behind the control words, where the spans are large enough."""

NOTE_WORDS = 8
"""64-bit words of control memory for a worker, so that no two share a cache line."""
CONTROL_BYTES = PAGE * 16
MAX_WORKERS = CONTROL_BYTES // (8 * NOTE_WORDS) - 1


def aligned(count: int) -> int:
    """`count` rounded up to a multiple of `ALIGN`."""
    return -(-count // ALIGN) * ALIGN


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


class Notes:
    """What a worker says of itself while it works, in control words that outlive it.

    The worker writes, the main process reads; a note is three words and may be read half new, which
    matters to nobody, as only a dead or a stuck worker's note is read.
    """

    def __init__(self, memory: Memory, worker: int) -> None:
        self._words = memory.control
        self._at = NOTE_WORDS * (worker + 1)

    def samples(self, generation: int, batch: int, first: int) -> Iterator[None]:
        """Notes the samples of a batch from position `first` on, each when an item is asked for, before it
        is fetched; it ends when another generation is wanted."""
        words, at, clock = self._words, self._at, time.monotonic_ns
        words[at + 1] = batch
        for position in count(first):
            words[at + 2] = clock()
            words[at] = position + 1
            if words[0] != generation:
                return
            yield

    def clear(self) -> None:
        """No sample is in hand any more."""
        if self._words[self._at]:
            self._words[self._at + 2] = time.monotonic_ns()
            self._words[self._at] = 0

    def reset(self) -> None:
        """For a new worker, that has noted nothing yet."""
        self._words[self._at] = self._words[self._at + 2] = 0

    def read(self) -> tuple[int, int] | None:
        """(batch, position in the batch) of the sample in hand, or None."""
        position = self._words[self._at]
        return (self._words[self._at + 1], position - 1) if position else None

    def since(self) -> float:
        """When the last note was made, by ``time.monotonic``; 0 before the first."""
        return float(self._words[self._at + 2] / 1e9)


class Arena:
    """The main process's side: slots, leases and the budget.

    `budget` is in bytes. By default it is `BUDGET_SHARE` of the memory that is free or this arena's already,
    and is looked up again as the arena grows; so all arenas of a machine together never take all of it.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._given_budget = budget
        self._budget, self._held_then = 0, -ASK_FIRST
        self.owner = os.getpid()
        self.made = 0
        self._free: deque[int] = deque()
        self._freed: deque[int] = deque()
        self._batch_bytes = PAGE
        self._closed = False

    @property
    def budget(self) -> int:
        if self._given_budget is not None:
            return self._given_budget
        held = self.memory.held()
        if abs(held - self._held_then) >= ASK_FIRST:
            self._budget, self._held_then = int((available_memory() + held) * BUDGET_SHARE), held
        return self._budget

    @cached_property
    def memory(self) -> Memory:
        """The mapping, made when it is first needed; without workers it never is."""
        return _map_largest()

    @property
    def in_use(self) -> int:
        """Slots acquired or leased."""
        return self.made - len(self._free) - len(self._freed)

    def room(self) -> int:
        """How many more slots could be acquired now within the budget."""
        self._collect()
        affordable = min(self.memory.slots, self.budget // self._batch_bytes)
        return len(self._free) + max(0, affordable - self.made)

    def acquire(self, beyond_budget: bool = False) -> int | None:
        """A free slot, the one used last if there are several; None if the budget allows none.

        `beyond_budget` is for a caller that has no slot at all: it always gets one.
        """
        self._collect()
        if self._free:
            return self._free.pop()
        if not beyond_budget and self.room() <= 0:
            return None
        self.made += 1
        return self.made - 1

    def release(self, slot: int) -> None:
        """Give up an acquired slot. No task may write into it any more."""
        self._free.append(slot)

    def lease(self, slot: int, nbytes: int) -> Bytes:
        """The first `nbytes` of an acquired slot; it is free again once nothing views them."""
        self._batch_bytes = max(self._batch_bytes, nbytes)
        view = self.memory.own_view(slot, nbytes)
        weakref.finalize(view, self._view_died, slot).atexit = False
        return view

    def take_copy(self, slot: int, nbytes: int) -> Bytes:
        """A private copy of the first `nbytes` of an acquired slot, which is free at once."""
        self._batch_bytes = max(self._batch_bytes, nbytes)
        copy = self.memory.slot(slot, nbytes).copy()
        self.release(slot)
        return copy

    def trim(self, keep: int) -> None:
        """Return the memory of all free slots but `keep` to the system; no worker may be at work."""
        self._collect()
        if "memory" not in self.__dict__:
            return
        for slot in list(self._free)[: max(0, len(self._free) - keep)]:
            self.memory.give_back(slot)

    def close(self) -> None:
        """Let go of everything that no batch views; the rest goes as its batches do."""
        if self._closed:
            return
        self._closed = True
        if "memory" in self.__dict__:
            self.trim(keep=0)
            self.memory.close()

    def _collect(self) -> None:
        while self._freed:
            self._free.append(self._freed.popleft())

    def _view_died(self, slot: int) -> None:
        self._freed.append(slot)
        if self._closed:
            self.memory.give_back(slot)


def _map_largest() -> Memory:
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


class ArenaPool:
    """Keeps the arenas that no iterator uses, with their warm pages, for the next one.

    Shared by a loader and its iterators, and closed when the last of them is gone.
    """

    def __init__(self) -> None:
        self._idle: list[Arena] = []
        self._owner = os.getpid()
        weakref.finalize(self, _close_all, self._idle).atexit = False

    def take(self) -> Arena:
        """An idle arena, or a new one."""
        if os.getpid() != self._owner:  # forked: what is idle here is at work in our parent
            self._owner = os.getpid()
            self._idle.clear()
        return self._idle.pop() if self._idle else Arena()

    def give(self, arena: Arena) -> None:
        """Put back an arena that no worker has mapped any more."""
        if arena.owner == os.getpid():
            self._idle.append(arena)

    def close(self) -> None:
        _close_all(self._idle)


def _close_all(arenas: list[Arena]) -> None:
    while arenas:
        arenas.pop().close()
