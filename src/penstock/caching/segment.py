"""Anonymous memory that the processes of one machine share, and that is gone with the last of them.

It needs no place in a file system. A forked process has it; one that is started gets its descriptor; any
other one on this machine finds it, while the process that sent it lives, under ``/proc``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import context, reduction
from typing import Any

import numpy as np

from penstock.arena import Bytes


class Segment:
    """One process's mapping.

    Attributes:
        bytes: all of it, zeros at first; what isn't touched takes no memory.
    """

    def __init__(self, fd: int) -> None:
        """Takes the descriptor; if that fails, it stays its caller's to close."""
        mapped = mmap.mmap(fd, os.fstat(fd).st_size)
        self.fd = fd
        self._close = weakref.finalize(self, os.close, fd)
        with contextlib.suppress(OSError):
            mapped.madvise(mmap.MADV_DONTDUMP)
        self.bytes: Bytes = np.frombuffer(mapped, np.uint8)
        self._mutex = os.getpid(), threading.Lock()

    @classmethod
    def create(cls, nbytes: int) -> Segment:
        """A new one.

        Raises:
            OSError: if so much address space can't be had.
        """
        fd = os.memfd_create("penstock-cache", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, nbytes)
            return cls(fd)
        except (OSError, ValueError, OverflowError) as error:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise OSError(errno.ENOMEM, f"no room for a cache of {nbytes} bytes ({error})") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes and threads out; for a few instructions of ours, never for user code.

        The kernel gives the lock up for a process that dies.
        """
        if self._mutex[0] != os.getpid():  # forked, maybe while another thread held it
            self._mutex = os.getpid(), threading.Lock()
        with self._mutex[1]:
            fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, 0)
            try:
                yield
            finally:
                fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, 0)

    def __reduce__(self) -> tuple[Any, ...]:
        if context.get_spawning_popen() is not None:
            return _attach, (reduction.DupFd(self.fd),)
        status = os.fstat(self.fd)
        return _find, (f"/proc/{os.getpid()}/fd/{self.fd}", (status.st_dev, status.st_ino))


def _attach(fd: Any) -> Segment:
    return Segment(fd.detach())


def _find(path: str, identity: tuple[int, int]) -> Segment | None:
    """The segment behind another process's descriptor; None if it isn't there, or isn't it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != identity:
        os.close(fd)
        return None
    return Segment(fd)


def fence() -> None:
    """What was written before is seen by whoever sees what is written after it, on every processor."""
    lock = threading.Lock()  # a release, and then an acquire, of the same lock
    lock.acquire()
    lock.release()
    lock.acquire()
