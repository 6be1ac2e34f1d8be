"""What a worker says of itself while it works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count

from penstock.arena.layout import NOTE_WORDS
from penstock.arena.memory import Memory


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
