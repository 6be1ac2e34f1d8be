"""The memory store: the first part of every sample, once for all processes of a machine.

It is one `Segment`, laid out as

    header words | counters of processes | state word per sample | cost per sample | rows | heap

A sample of the common format (`RowFormat`) lies in a row; any other, packed, in the heap. Who comes first
makes a sample and writes its bytes, and only then its state word; so a process that is killed on the way
leaves nothing but bytes that nobody looks at. Two that make the same sample at once write the same bytes, or,
in the heap, two copies of which one stays unused. What is stored stays.

Where all samples fit as rows, row i is sample i's, and nothing is agreed upon. Otherwise space is given out
under the segment's lock, to samples whose saved time per byte is among the largest (`budget.admits`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.arena import PAGE
from penstock.caching import counters
from penstock.caching.budget import BUCKETS, admits, bucket_of
from penstock.caching.counters import Counters
from penstock.caching.packing import NotPackable, pack, size_of, unpack
from penstock.caching.rows import RowFormat, RowTable
from penstock.caching.segment import Segment, fence
from penstock.collate import ReadyRows, Spec
from penstock.machine import available_memory
from penstock.pipeline import Marks
from penstock.plan import Indices
from penstock.stats import CacheStats

_HEAP_END, _ROWS_END, _FULL, _SAMPLES_SEEN = range(4)
_SEEN = slice(16, 16 + BUCKETS)
_STORED = slice(16 + BUCKETS, 16 + 2 * BUCKETS)
_HEADER_WORDS = 16 + 2 * BUCKETS
NOT_MADE = 0
LEFT_OUT = -(2**63)
UNFIT = LEFT_OUT + 1
"""States of a sample: it wasn't made yet; was made, and there was no room for it; can't be stored at all. Any
other n > 0 says that it is in row n - 1, and any other n < 0, that it is in the heap at byte -n - 1."""
CHECK_BYTES = 64 << 20
"""Each process sees whether there is memory left whenever it has stored this much."""
LOOK_ROWS = 1 << 16
"""How many samples to look at, one after the other, for one that isn't there."""
SLIVER = 64
"""Once only this part of the budget is left and a sample doesn't fit, no other is tried."""
SPARE_BYTES = 4 * CHECK_BYTES
"""With less than this left on the machine, nothing more is stored."""


class MemoryStore:
    """See above.

    Attributes:
        size: samples of the dataset.
        budget: bytes for what is stored.
    """

    def __init__(
        self, size: int, budget: int, form: RowFormat | None, segment: Segment | None = None
    ) -> None:
        """Raises OSError if so much address space can't be had."""
        self.size, self.budget, self._format = size, budget, form
        rows = min(size, budget // max(1, form.row_bytes)) if form is not None else 0
        self._rows, self._all_rows = rows, rows == size
        sizes = (_HEADER_WORDS * 8, counters.NBYTES, size * 8, size * 4, form.nbytes(rows) if form else 0)
        starts = [0]
        for each in sizes:
            starts.append(-(-(starts[-1] + each) // PAGE) * PAGE)
        self._heap_start = starts[-1]
        self._segment = segment or Segment.create(self._heap_start + budget)
        memory = self._segment.bytes
        self._words = memory[: sizes[0]].view(np.int64)
        self._counters = Counters(self._segment, starts[1])
        self._where = memory[starts[2] : starts[2] + sizes[2]].view(np.int64)
        self._costs = memory[starts[3] : starts[3] + sizes[3]].view(np.float32)
        self._table = RowTable(form, memory[starts[4] :], rows) if form is not None else None
        self._heap = memory[self._heap_start :]
        self._unchecked = self._known_rows = 0
        self._mean_cost: float | None = None
        """Seconds that a sample took to make, once all are known to be in rows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self.size, self.budget, self._format, self._segment)

    def get(self, index: int) -> tuple[Any, Marks] | None:
        """The first part of a sample, a copy of its own, if it is here."""
        where = int(self._where[index])
        if where <= UNFIT or where == NOT_MADE:
            return None
        fence()
        self._counters.hit(float(self._costs[index]))
        if where > 0:
            assert self._table is not None
            return self._table.read(where - 1), self._table.format.marks
        values, marks = unpack(self._heap[-where - 1 :])
        return values, marks

    def ready(self, indices: Indices) -> ReadyRows | None:
        """The rows of these samples; None if one of them isn't in a row."""
        try:
            wanted = np.asarray(indices)
        except ValueError:  # tuples of several lengths
            return None
        if self._table is None or wanted.dtype != np.int64 or wanted.ndim != 1 or not len(wanted):
            return None
        if np.maximum.reduce(wanted.view(np.uint64)) >= self.size:  # or negative
            return None
        rows = wanted if self._all_rows and self._mean_cost is not None else self._rows_of(wanted)
        if rows is None:
            return None
        each = float(self._costs[wanted].mean()) if self._mean_cost is None else self._mean_cost
        return self._table.ready(rows, partial(self._counters.hit, each))

    def _rows_of(self, wanted: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The rows of these samples; None if one of them isn't in a row."""
        where: NDArray[np.int64] = self._where[wanted]
        if where.min() <= 0:
            return None
        fence()
        return where - 1

    def ready_spec(self) -> Spec | None:
        """The spec of all samples, if all of them are in rows."""
        while self._known_rows < self.size:
            some = self._where[self._known_rows : self._known_rows + LOOK_ROWS]
            if some.min() <= 0:
                return None
            fence()
            self._known_rows += len(some)
        if self._mean_cost is None:
            self._mean_cost = float(self._costs.mean())
        return None if self._format is None else self._format.spec

    def put(self, index: int, values: Any, marks: Marks, seconds: float) -> None:
        """Keep the first part of a sample, which took so long to make, if there is room for it."""
        self._counters.miss()
        if self._where[index] not in (NOT_MADE, LEFT_OUT):
            return
        if self._words[_FULL]:
            self._where[index] = LEFT_OUT
            return
        table = self._table
        if table is None or not table.fits(values, marks) or not self._put_row(table, index, values, seconds):
            self._put_packed(index, values, marks, seconds)

    def stats(self) -> CacheStats:
        """What was done up to now, by all processes."""
        hits, misses, saved = self._counters.sums()
        rows = int((self._where > 0).sum())
        left_out = int((self._where <= UNFIT).sum())
        heap = int((self._where < 0).sum()) - left_out
        nbytes = rows * self._row_bytes + int(self._words[_HEAP_END])
        return CacheStats(self.size, rows + heap, nbytes, self.budget, left_out, hits, misses, saved)

    def _put_row(self, table: RowTable, index: int, values: Any, seconds: float) -> bool:
        """False if it can't be a row after all."""
        nbytes = table.format.row_bytes
        if not self._memory_left(nbytes):
            return True
        row = index
        if not self._all_rows:
            with self._segment.locked():
                row = int(self._words[_ROWS_END])
                self._words[_FULL] |= row >= self._rows
                if not self._admit(index, nbytes, seconds):
                    return True
                self._words[_ROWS_END] = row + 1
        if not table.write(row, values):
            return False
        self._publish(index, row + 1, seconds)
        return True

    def _put_packed(self, index: int, values: Any, marks: Marks, seconds: float) -> None:
        try:
            pieces = pack((values, marks))
        except NotPackable:
            self._where[index] = UNFIT
            return
        nbytes = size_of(pieces)
        if not self._memory_left(nbytes):
            return
        with self._segment.locked():
            start = int(self._words[_HEAP_END])
            rows = self._rows if self._all_rows else int(self._words[_ROWS_END])
            room = self.budget - start - rows * self._row_bytes
            self._words[_FULL] |= room < min(nbytes, self.budget // SLIVER)
            if not self._admit(index, nbytes, seconds) or nbytes > room:
                return
            self._words[_HEAP_END] = start + nbytes
        end = start
        for piece in pieces:
            self._heap[end : end + len(piece)] = np.frombuffer(piece, np.uint8)
            end += len(piece)
        self._publish(index, -start - 1, seconds)

    def _admit(self, index: int, nbytes: int, seconds: float) -> bool:
        """Whether there is room for a sample, which is then counted as stored; under the lock."""
        words, bucket = self._words, bucket_of(seconds, nbytes)
        state = int(self._where[index])
        if state == NOT_MADE:
            words[_SEEN][bucket] += nbytes
            words[_SAMPLES_SEEN] += 1
            self._where[index] = LEFT_OUT
        elif state != LEFT_OUT:  # somebody else has stored it meanwhile
            return False
        share_seen = float(words[_SAMPLES_SEEN]) / self.size
        seen, stored = words[_SEEN].tolist(), words[_STORED].tolist()
        if words[_FULL] or not admits(self.budget, nbytes, bucket, seen, stored, share_seen):
            return False
        words[_STORED][bucket] += nbytes
        return True

    def _publish(self, index: int, where: int, seconds: float) -> None:
        self._costs[index] = seconds
        fence()
        self._where[index] = where

    def _memory_left(self, nbytes: int) -> bool:
        """Whether the machine has memory for so much more."""
        self._unchecked += nbytes
        if self._unchecked > CHECK_BYTES:
            self._unchecked = 0
            self._words[_FULL] |= available_memory() < SPARE_BYTES
        return not self._words[_FULL]

    @property
    def _row_bytes(self) -> int:
        return self._format.row_bytes if self._format is not None else 0


def _revive(size: int, budget: int, form: RowFormat | None, segment: Segment | None) -> MemoryStore | None:
    """In another process; None if the memory can't be reached from there."""
    return None if segment is None else MemoryStore(size, budget, form, segment)
