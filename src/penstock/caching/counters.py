"""What a cache did, counted by every process in words of shared memory that outlive it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.caching.segment import Segment

PROCESSES = 256
"""Places for processes; one that ends leaves its place, with what it counted, to another."""
WORDS = 8
"""64-bit words of each, a cache line: its pid, then `_HITS` and so on."""
NBYTES = PROCESSES * WORDS * 8
_HITS, _MISSES, _SAVED_NS = 1, 2, 3


class Counters:
    """This process's words, and the sums of all.

    Counting isn't exact where several threads of one process count at once.
    """

    def __init__(self, segment: Segment, start: int) -> None:
        words = segment.bytes[start : start + NBYTES].view(np.int64)
        self._segment = segment
        self._table: NDArray[np.int64] = words.reshape(PROCESSES, WORDS)
        self._mine: tuple[int, Any] = 0, ()
        """A process, and its words."""

    def hit(self, each_s: float, count: int = 1) -> None:
        """So many samples were found, each of which took so long to make."""
        words = self._words()
        words[_HITS] += count
        words[_SAVED_NS] += int(each_s * count * 1e9)

    def miss(self) -> None:
        """A sample had to be made."""
        self._words()[_MISSES] += 1

    def sums(self) -> tuple[int, int, float]:
        """Hits, misses and the seconds saved, of all processes."""
        total = self._table.sum(axis=0)
        return int(total[_HITS]), int(total[_MISSES]), float(total[_SAVED_NS]) / 1e9

    def _words(self) -> Any:
        """This process's."""
        if self._mine[0] != os.getpid():
            with self._segment.locked():
                place = self._place()
                self._table[place, 0] = os.getpid()
            flat = memoryview(self._table[place]).cast("B").cast("q")  # quicker than an array, word by word
            self._mine = os.getpid(), flat
        return self._mine[1]

    def _place(self) -> int:
        """A place that nobody has; if all are taken, one that is then shared."""
        pid = os.getpid()
        for place, owner in enumerate(self._table[:, 0].tolist()):
            if owner in (0, pid) or not os.path.exists(f"/proc/{owner}"):
                return place
        return pid % PROCESSES
