"""Sees where a thread is, some hundred times a second: in which line of user code, and what it stands for.

Linux tells which system call a thread is in. One that only computes may be seen in a futex call, as the
watcher has the interpreter lock whenever it looks: that counts as a wait only if it was idle since then.
"""

from __future__ import annotations

import sys
import sysconfig
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Seen:
    """How often the thread was seen where."""

    times: int = 0
    lines: Counter[tuple[str, str]] = field(default_factory=Counter)
    still: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Of those, how often it stood still there."""
    kinds: Counter[str] = field(default_factory=Counter)
    """What it stood still for."""


class LineSampler:
    """Watches the calling thread while it is in a ``with`` block."""

    def __init__(self) -> None:
        self.seen = Seen()
        self._thread_id, self._native = threading.get_ident(), threading.get_native_id()
        self._last = 0.0, 0.0
        self._interval = sys.getswitchinterval()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> LineSampler:
        sys.setswitchinterval(SWITCH_S)
        self._last = time.perf_counter(), _active(self._native)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        sys.setswitchinterval(self._interval)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            frame = sys._current_frames().get(self._thread_id)
            if frame is not None and not frame.f_code.co_filename.startswith(_OURS):
                self._note(user_frame(frame), _kind(self._native, self._was_active()))

    def _was_active(self) -> bool:
        """Whether it computed, or wanted to, most of the time since the last look."""
        now = time.perf_counter(), _active(self._native)
        before, self._last = self._last, now
        return now[1] - before[1] > 0.5 * (now[0] - before[0])

    def _note(self, frame: FrameType, kind: str | None) -> None:
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}", frame.f_code.co_qualname
        self.seen.times += 1
        self.seen.lines[where] += 1
        if kind is not None:
            self.seen.still[where] += 1
            self.seen.kinds[kind] += 1


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


def _active(native: int) -> float:
    """Seconds that a thread has computed, or was ready to while every core was taken."""
    try:
        computed, ready, _ = Path(f"/proc/self/task/{native}/schedstat").read_text().split()
    except (OSError, ValueError):
        return 0.0
    return (int(computed) + int(ready)) / 1e9


def _kind(native: int, active: bool) -> str | None:
    """What a thread stands still for; None if it computes."""
    call = _call(native)
    if call is None or (call[0] == _FUTEX and active):
        return None
    kind = _CALLS.get(call[0], "other")
    return "network" if kind == "files" and call[0] in (0, 19) and not _is_file(call[1]) else kind


def _is_file(descriptor: int) -> bool:
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink().is_absolute()
    except OSError:
        return True
