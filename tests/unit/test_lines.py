"""Whose lock a thread waits for."""

from __future__ import annotations

import ctypes
import mmap

from penstock.profiling import lines


def test_memory_that_processes_share_is_not_the_interpreters() -> None:
    runtime = lines._runtime()
    assert 0 < len(runtime) <= 1 << 20
    assert lines._is_of_interpreter(runtime.start)
    assert not lines._is_of_interpreter(runtime.stop)
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    assert lines._private_from(begin) == begin, "private memory ends before it"
