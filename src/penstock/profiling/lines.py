"""Sees where a thread is, some hundred times a second: in which line of user code, and what it stands for.

Linux tells which system call a thread is in. Whether one that only computes had to wait for the interpreter
lock can't be seen so, as the watcher has that whenever it looks: it waited for as long as it was idle since
the last look while other threads that run Python computed.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType

EVERY_S = 0.002
SWITCH_S = 0.001
"""How soon the interpreter lock is to be handed over meanwhile."""
_LIBRARIES = (
    *{str(Path(sysconfig.get_path(name))) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    "<frozen",
)
_OURS = str(Path(__file__).parents[1])
"""What is beyond our own frames isn't the sample's."""
_FUTEX = 202
_CALLS: dict[int, str] = {
    **dict.fromkeys((0, 2, 4, 5, 6, 8, 9, 17, 19, 25, 78, 217, 257, 262, 295, 332), "files"),
    **dict.fromkeys((7, 23, 42, 43, 45, 47, 61, 232, 247, 270, 271, 281), "network"),
    **dict.fromkeys((72, 73, 220, _FUTEX), "lock"),
    **dict.fromkeys((35, 230), "sleep"),
}
"""What the system calls of x86-64 stand for; a ``read`` of a pipe or socket counts as network."""
INTERPRETER = "interpreter"
_RUNTIME_BYTES = 1 << 20
"""No less than CPython's ``_PyRuntime``, in which the interpreter lock is."""


@dataclass(slots=True)
class Seen:
    """For how long the thread was seen where: microseconds; a look counts for the time since the last."""

    all: int = 0
    lines: Counter[tuple[str, str]] = field(default_factory=Counter)
    still: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Of those, how long it stood still there."""
    kinds: Counter[str] = field(default_factory=Counter)
    """What it stood still for."""


class LineSampler:
    """Watches the calling thread while it is in a ``with`` block."""

    def __init__(self) -> None:
        self.seen = Seen()
        self._thread_id, self._native = threading.get_ident(), threading.get_native_id()
        self._last = _Clocks()
        self._interval = sys.getswitchinterval()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> LineSampler:
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        sys.setswitchinterval(self._interval)

    def _run(self) -> None:
        self._last = _Clocks.of(self._native)
        while not self._stop.wait(EVERY_S):
            frame = sys._current_frames().get(self._thread_id)
            now = _Clocks.of(self._native)
            if self._stop.is_set():  # it waits for us
                return
            if frame is not None and not frame.f_code.co_filename.startswith(_OURS):
                self._note(user_frame(frame), now, self._last)
            self._last = now

    def _note(self, frame: FrameType, now: _Clocks, last: _Clocks) -> None:
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}", frame.f_code.co_qualname
        kind, part = _still(self._native, *now.since(last))
        passed = round((now.wall - last.wall) * 1e6)
        still = round(part * passed)
        self.seen.all += passed
        self.seen.lines[where] += passed
        self.seen.still[where] += still
        self.seen.kinds[kind] += still


@dataclass(frozen=True, slots=True)
class _Clocks:
    """Seconds, as the watcher reads them of the watched thread."""

    wall: float = 0.0
    active: float = 0.0
    """It computed, or was ready to while every core was taken."""
    others: Mapping[int, float] = field(default_factory=dict)
    """What each other thread computed that runs Python, but for the watcher: those of libraries, such as
    OpenMP's, have nothing to do with the interpreter lock."""

    @classmethod
    def of(cls, native: int) -> _Clocks:
        known = {thread.native_id for thread in threading.enumerate()} - {native, threading.get_native_id()}
        others = {other: _scheduled(other)[0] for other in known if other is not None}
        return cls(time.perf_counter(), sum(_scheduled(native)), others)

    def since(self, before: _Clocks) -> tuple[float, float]:
        """(the share of the time in which it was idle, that in which others computed)."""
        passed = max(self.wall - before.wall, 1e-9)
        idle = 1 - (self.active - before.active) / passed
        others = sum(computed - before.others.get(other, 0.0) for other, computed in self.others.items())
        return min(1.0, max(0.0, idle)), max(0.0, others) / passed


def _scheduled(native: int) -> tuple[float, float]:
    """Seconds that a thread has computed, and was ready to."""
    try:
        computed, ready, _ = Path(f"/proc/self/task/{native}/schedstat").read_text().split()
    except (OSError, ValueError):
        return 0.0, 0.0
    return int(computed) / 1e9, int(ready) / 1e9


def user_frame(frame: FrameType) -> FrameType:
    """The innermost frame neither Python's nor a library's, and not beyond ours; else the innermost."""
    each: FrameType | None = frame
    while each is not None and not each.f_code.co_filename.startswith(_OURS):
        if not each.f_code.co_filename.startswith(_LIBRARIES):
            return each
        each = each.f_back
    return frame


def _call(native: int) -> tuple[int, int, int] | None:
    """(number, first and second argument) of the system call a thread is in; None if it runs."""
    try:
        words = Path(f"/proc/self/task/{native}/syscall").read_text().split()
    except OSError:
        return None
    if not words or words[0] == "running" or len(words) < 3:
        return None
    return int(words[0]), int(words[1], 16), int(words[2], 16)


def _still(native: int, idle: float, others: float) -> tuple[str, float]:
    """What a thread stands still for, and for which share of the time."""
    call = _call(native)
    if call is None or (call[0] == _FUTEX and (idle <= 0.5 or _is_of_interpreter(call[1]))):
        return INTERPRETER, min(idle, others)
    kind = _CALLS.get(call[0], "other")
    return ("network" if kind == "files" and call[0] in (0, 19) and not _is_file(call[1]) else kind), 1.0


def _is_of_interpreter(address: int) -> bool:
    """Whether what lies there belongs to CPython itself."""
    return address in _runtime()


@cache
def _runtime() -> range:
    """Where CPython's state is, as far as is known."""
    try:
        start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    except ValueError:  # another interpreter, or one that hides it
        return range(0)
    return range(start, min(start + _RUNTIME_BYTES, _private_from(start)))


def _private_from(address: int) -> int:
    """Where the private memory ends in which this lies: a lock that processes share may be just beyond."""
    end = address
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, access, *_ = line.split()
        first, last = (int(word, 16) for word in place.split("-"))
        if first <= end < last and access == "rw-p":
            end = last
    return end


def _is_file(descriptor: int) -> bool:
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink().is_absolute()
    except OSError:
        return True
