"""An epoch whose samples lie in memory already: no worker, no task, no seed; several batches to one gather.

It stands in for an `Engine`; when a batch comes that isn't all there, one takes over from that batch on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn, Protocol

from penstock.at_hand import NONE_LEFT, NOTHING, AtHand
from penstock.collate import Scratch, Spec
from penstock.engine import Batches, Engine
from penstock.fetch import ReadyGetter
from penstock.plan import Block
from penstock.stats import Recorder, observers
from penstock.streams import Standing

GATHER_BYTES = 1 << 18
"""So much is gathered at once, where batches are smaller: what is written, and written anew, stays in the
processor's cache. Who keeps one of these batches keeps this much."""
HERE_BYTES = 1 << 20
"""A batch of at most this size is as quickly gathered in this process as it is received from a worker."""
MOST_BATCHES = 256
"""So many batches are gathered at once, at the most: each is some small objects."""
MOST_SAMPLES = 1 << 14
"""Indices that lie in an array are looked up so many at once, for several gathers."""
_TOGETHER = Scratch()
"""For what is gathered at once, of all loaders of this process: it stays warm from one to the next, and what
nobody uses of it is a few megabytes."""

Numbered = tuple[int, tuple[Any, ...]]


def fitting(spec: Spec, batch_size: int) -> int:
    """How many batches of such samples to gather at once."""
    return min(MOST_BATCHES, max(1, GATHER_BYTES // max(1, spec.sample_bytes * batch_size)))


class BatchesAtOnce(Batches, Protocol):
    """Those that may be had several at once."""

    def take(self, samples: int) -> Block | None:
        """The next batches, of so many samples at most, but one at least; none at the end. None if they
        can't be had at once.

        It draws nothing earlier than torch does, where others see that.
        """

    def follow(self, at_hand: AtHand) -> None:
        """Those count as they are handed over; of those before no more will be."""


class PushedBack:
    """An epoch's batches, of which some were taken and given back, with what stopped that, if anything
    (`engine.Batches`)."""

    def __init__(self, batches: Batches, taken: Sequence[Numbered], stopped: BaseException | None) -> None:
        self._batches, self._taken, self._stopped = batches, deque(taken), stopped

    @property
    def turn(self) -> int:
        return self._batches.turn

    @property
    def standings(self) -> Mapping[int, Standing]:
        return self._batches.standings

    def __next__(self) -> Numbered:
        if self._taken:
            return self._taken.popleft()
        if self._stopped is not None:
            stopped, self._stopped = self._stopped, None
            raise stopped
        return next(self._batches)

    def handed_over(self, number: int, worker: int | None, standing: Standing | None) -> None:
        self._batches.handed_over(number, worker, standing)

    def stands(self, worker: int, standing: Standing) -> None:
        self._batches.stands(worker, standing)


class ReadyEngine:
    """An iterator over the batches of one epoch.

    Args:
        batches: their numbers and indices.
        ahead: where their indices come one by one, how many batches may be asked for at once.
        first: how many to ask for first, then.
        get: where the samples lie.
        otherwise: makes the engine that takes over.

    Attributes:
        at_hand: batches that may be taken from there, by any thread, instead of being asked for.
    """

    def __init__(
        self,
        batches: BatchesAtOnce,
        ahead: int,
        first: int,
        get: ReadyGetter,
        recorder: Recorder,
        otherwise: Callable[[Batches], Engine],
    ) -> None:
        self._batches, self._get, self._recorder, self._otherwise = batches, get, recorder, otherwise
        self._ahead, self._at_once = ahead, min(ahead, first)
        self.at_hand = self._gathered = NOTHING
        self._large = Scratch()
        self._engine: Engine | None = None
        self._stopped: BaseException | None = None
        self._raised: BaseException | None = None

    def __iter__(self) -> ReadyEngine:
        return self

    def __next__(self) -> Any:
        if self._engine is not None:
            return next(self._engine)
        while True:
            batch = next(self._gathered.batches, NONE_LEFT)
            if batch is not NONE_LEFT:
                self._recorder.tell()
                return batch
            if not self._gather():
                break
        return self._end() if self._engine is None else next(self._engine)

    def _end(self) -> NoReturn:
        stopped, self._stopped = self._stopped, None
        assert stopped is not None
        if not isinstance(stopped, StopIteration):
            self._raised = stopped
        try:
            raise stopped
        finally:
            del stopped  # its traceback leads here: no cycle that would keep the batch before it in memory

    def _gather(self) -> bool:
        """Gather the next batches, or have an engine make them; whether they are at hand."""
        recorder = self._recorder
        begin = recorder.clock()
        samples = self._gathered.go_on()
        if not samples and self._look_up():
            samples = self._gathered.go_on()
        if not samples:
            return False
        self.at_hand = NOTHING if observers else self._gathered
        recorder.gathered(samples, recorder.clock() - begin)
        return True

    def _look_up(self) -> bool:
        """See where the next samples lie; False at the end, or if an engine is to make them."""
        block = self._take()
        if not block.sizes:
            return False
        ready = self._get(block.indices) if all(block.sizes) else None
        if ready is None:
            self._follow(NOTHING)
            stopped, self._stopped = self._stopped, None
            self._engine = self._otherwise(PushedBack(self._batches, block.batches(), stopped))
            return False
        size = max(block.sizes)
        together = fitting(ready.spec, size)
        self._at_once = min(self._ahead, together)
        scratch = self._large if size * ready.spec.sample_bytes > HERE_BYTES else _TOGETHER
        pieces = ready.pieces(block.sizes, together, scratch)
        self._follow(AtHand(block.numbers, block.sizes, pieces, ready.make))
        return True

    def _follow(self, gathered: AtHand) -> None:
        """Hand these over, one whenever a batch is asked for."""
        self._gathered, self.at_hand = gathered, NOTHING
        self._batches.follow(gathered)
        self._recorder.follow(gathered)

    def _take(self) -> Block:
        """The next batches; what ends or interrupts them waits for its turn."""
        taken: list[Numbered] = []
        try:
            if self._stopped is None and (block := self._batches.take(MOST_SAMPLES)) is not None:
                self._stopped = None if block.sizes else StopIteration()
                return block
            while len(taken) < self._at_once and self._stopped is None:
                taken.append(next(self._batches))
        except Exception as stopped:
            self._stopped = stopped
        numbers, batches = zip(*taken, strict=True) if taken else ((), ())
        return Block(numbers, list(map(len, batches)), list(chain.from_iterable(batches)))

    def take_raised(self) -> BaseException | None:
        """As `Engine.take_raised`."""
        if self._engine is not None:
            return self._engine.take_raised()
        error, self._raised = self._raised, None
        return error

    def abandon(self) -> bool:
        """As `Engine.abandon`."""
        return self._engine is None or self._engine.abandon()

    def release(self) -> None:
        """As `Engine.release`."""
        self._gathered.drop()
        if self._engine is not None:
            self._engine.release()
