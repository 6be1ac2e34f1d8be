"""An epoch whose samples lie in memory already: no worker, no task, no seed; several batches to one gather.

It stands in for an `Engine`; when a batch comes that isn't all there, one takes over from that batch on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from penstock.at_hand import NOTHING, AtHand
from penstock.collate import Scratch, Spec
from penstock.engine import Batches, Engine
from penstock.fetch import ReadyGetter
from penstock.plan import Block
from penstock.stats import Recorder, observers
from penstock.streams import Standing

GATHER_BYTES = 1 << 20
"""So much is gathered at once, where batches are smaller; who keeps one of them keeps this much."""
MOST_BATCHES = 64
_TOGETHER = Scratch()
"""For what is gathered at once, of all loaders of this process: it stays warm from one to the next, and what
nobody uses of it is a few megabytes."""

Numbered = tuple[int, tuple[Any, ...]]


def fitting(spec: Spec, batch_size: int) -> int:
    """How many batches of such samples to gather at once."""
    return max(1, GATHER_BYTES // max(1, spec.sample_bytes * batch_size))


class BatchesAtOnce(Batches, Protocol):
    """Those that may be had several at once."""

    def take(self, most: int) -> Block | None:
        """The next so many, or fewer, but none only at the end; None if they can't be had so.

        It draws nothing earlier than torch does, where others see that.
        """

    def follow(self, at_hand: AtHand) -> None:
        """Those count as they are handed over; of those before no more will be."""


class PushedBack:
    """An epoch's batches, of which some were taken and given back (`engine.Batches`)."""

    def __init__(self, batches: Batches, taken: Sequence[Numbered]) -> None:
        self._batches, self._taken = batches, deque(taken)

    @property
    def turn(self) -> int:
        return self._batches.turn

    @property
    def standings(self) -> Mapping[int, Standing]:
        return self._batches.standings

    def __next__(self) -> Numbered:
        return self._taken.popleft() if self._taken else next(self._batches)

    def handed_over(self, number: int, worker: int | None, standing: Standing | None) -> None:
        self._batches.handed_over(number, worker, standing)

    def stands(self, worker: int, standing: Standing) -> None:
        self._batches.stands(worker, standing)


class ReadyEngine:
    """An iterator over the batches of one epoch.

    Args:
        batches: their numbers and indices.
        ahead: how many of them may be asked for at once.
        get: where the samples lie.
        together: how many to ask for first.
        otherwise: makes the engine that takes over.

    Attributes:
        at_hand: batches that may be popped from there, by any thread, instead of being asked for.
    """

    def __init__(
        self,
        batches: BatchesAtOnce,
        ahead: int,
        together: int,
        get: ReadyGetter,
        recorder: Recorder,
        otherwise: Callable[[Batches], Engine],
    ) -> None:
        self._batches, self._get, self._recorder, self._otherwise = batches, get, recorder, otherwise
        self._large = Scratch()
        self._most, self._together = ahead, min(ahead, together)
        self.at_hand = self._gathered = NOTHING
        self._engine: Engine | None = None
        self._stopped: BaseException | None = None
        self._raised: BaseException | None = None

    def __iter__(self) -> ReadyEngine:
        return self

    def __next__(self) -> Any:
        try:
            part = self._gathered.parts.popleft()
        except IndexError:
            pass
        else:
            self._recorder.tell()
            return self._gathered.make(part)
        return self._next_gathered() if self._engine is None else next(self._engine)

    def _next_gathered(self) -> Any:
        since = self._recorder.clock()
        if self._gather():
            self._recorder.waited(self._recorder.clock() - since)
            return next(self)
        if self._engine is not None:
            return next(self._engine)
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
        begin = self._recorder.clock()
        self._follow(NOTHING)
        block = self._take()
        sizes = block.sizes
        if not sizes:
            return False
        ready = self._get(block.indices) if all(sizes) else None
        if ready is None:
            self._engine = self._otherwise(PushedBack(self._batches, block.batches()))
            return False
        scratch = self._large if len(ready.rows) * ready.spec.sample_bytes > GATHER_BYTES else _TOGETHER
        self._follow(AtHand(ready.parts(sizes, scratch), ready.make, block.numbers, sizes))
        self._together = min(self._most, fitting(ready.spec, max(sizes)))
        self._recorder.task_done(0, sum(sizes), self._recorder.clock() - begin, 0.0)
        return True

    def _follow(self, gathered: AtHand) -> None:
        """Hand these over, one whenever a batch is asked for."""
        self._gathered = gathered
        self.at_hand = NOTHING if observers else gathered
        self._batches.follow(gathered)
        self._recorder.follow(gathered)

    def _take(self) -> Block:
        """The next batches; what ends or interrupts them waits for its turn."""
        taken: list[Numbered] = []
        try:
            if self._stopped is None and (block := self._batches.take(self._together)) is not None:
                self._stopped = None if block.sizes else StopIteration()
                return block
            while len(taken) < self._together and self._stopped is None:
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
