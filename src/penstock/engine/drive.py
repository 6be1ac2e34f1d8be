"""Drives one epoch: which batches are in the making, which comes next, and what becomes of failures.

Everything happens inside ``next()`` and ``close()``, in the caller's thread; between two calls nothing
runs in this process. A batch goes through these hands:

    waiting for a slot -> its tasks submitted -> all tasks done -> handed over (or its error raised)

A batch whose samples turn out not to be regular is submitted again, once, as one task that collates; so
are all batches after it. Its slot goes back to the arena when no task of it is left, or, handed over,
when the last tensor of it dies.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from operator import attrgetter
from typing import Any, NoReturn

from penstock.arena import Arena
from penstock.backends.base import Backend, Died, Done
from penstock.bad import BadSample
from penstock.engine.batch import Batch
from penstock.engine.epoch import Epoch
from penstock.engine.handover import Handed, failure, hand_over
from penstock.engine.recovery import Recovery
from penstock.engine.watch import Watch
from penstock.errors import BatchNotSendableError, BatchTimeoutError, SampleInHand
from penstock.fetch import Exhausted, Failed
from penstock.plan import NoIndices, Task, Window, parts_for, split, window
from penstock.stats import Recorder

_log = logging.getLogger("penstock")
_PLACE = attrgetter("batch", "position")


class Engine:
    """An iterator over the batches of one epoch.

    Attributes:
        ahead: as in `Epoch`; it may be changed between two calls.
    """

    def __init__(self, epoch: Epoch, backend: Backend, arena: Arena, recorder: Recorder) -> None:
        self._epoch, self._backend, self._arena = epoch, backend, arena
        self._recorder = recorder
        self.ahead = epoch.ahead
        self._making: dict[int, Batch] = {}
        self._watch = Watch(backend, epoch.policy.sample_timeout)
        self._recovery = Recovery(epoch, self._watch)
        self._standings = dict(epoch.batches.standings)
        self._turns = deque(range(backend.workers if epoch.by_turns else 0))
        self._turns.rotate(-epoch.batches.turn)
        self._rows = epoch.rows
        self._exhausted = False
        self._sampler_error: Exception | None = None
        self._last_bad: tuple[BadSample, ...] = ()
        """What iterators gave after their last batch."""
        self._raised: BaseException | None = None
        for worker, standing in backend.begin(epoch.course, epoch.batches.standings).items():
            epoch.batches.stands(worker, standing)
        self._fill(self._window().high)

    def __iter__(self) -> Engine:
        return self

    def __next__(self) -> Any:
        since = self._recorder.clock()
        batch = self._next_complete()
        while batch.left_out():
            self._discard(batch)
            batch = self._next_complete()
        del self._making[batch.number]
        self._tell(batch)
        handed = self._hand_over(batch)
        self._recorder.batch_out(batch.samples, since, handed.nbytes, handed.copied)
        if self.ahead:
            self._fill_up()  # only now is the first batch's cost known
        self._handed_over(batch)
        return handed.result

    def _hand_over(self, batch: Batch) -> Handed:
        error = failure(batch)
        if error is None:
            return hand_over(batch, self._arena, self._wanted)
        self._arena.release(batch.slot)
        self._handed_over(batch)
        batch.outcomes.clear()
        try:
            raise self._on_purpose(error)
        finally:
            del error  # its traceback leads here: no cycle that would keep the iterator alive

    def _discard(self, batch: Batch) -> None:
        """A batch without a single good sample is left out."""
        del self._making[batch.number]
        self._recorder.batch_left_out()
        self._tell(batch)
        self._arena.release(batch.slot)
        self._handed_over(batch)
        self._fill(self._window().high)

    def _tell(self, batch: Batch) -> None:
        try:
            self._epoch.book.add(batch.all_bad(), batch.samples)
        except BaseException:
            self._arena.release(batch.slot)
            raise

    def abandon(self) -> bool:
        """Give up what is in the making, and wait until no worker is at it; it keeps the backend.

        Returns False if that took longer than the epoch's timeout: then the backend has to be closed.
        """
        self._exhausted = True
        self._backend.drop()
        deadline = self._deadline()
        while any(batch.left for batch in self._making.values()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            for event in self._backend.wait(left):
                if isinstance(event, Died):
                    return False
                self._making[event.batch].left -= 1
        self.release()
        return True

    @property
    def making(self) -> int:
        """How many batches are in the making."""
        return len(self._making)

    def go_on_with(self, backend: Backend) -> None:
        """Have another backend make the batches that follow; none is in the making."""
        assert not self._making
        self._backend = backend
        self._watch = Watch(backend, self._epoch.policy.sample_timeout)
        self._recovery = Recovery(self._epoch, self._watch)
        backend.begin(self._epoch.course, self._epoch.batches.standings)

    def release(self) -> None:
        """Give back the slots of what was in the making; no worker is at it any more."""
        self._exhausted = True
        for batch in self._making.values():
            self._arena.release(batch.slot)
        self._making.clear()

    def _on_purpose(self, error: BaseException) -> BaseException:
        """Mark an error after which the next batch can be had; after any other the books may be wrong."""
        self._raised = error
        return error

    def take_raised(self) -> BaseException | None:
        """What was raised on purpose just now; kept no longer, as its traceback leads back to us."""
        error, self._raised = self._raised, None
        return error

    # -- submitting ------------------------------------------------------------------------------

    def _window(self) -> Window:
        return window(self.ahead, self._backend.workers, self._recorder.batch_cost() if self.ahead else None)

    def _wanted(self) -> int:
        """How many slots the batches to come want."""
        return max(1, self._window().high - len(self._making))

    def _fill_up(self) -> None:
        """Ask for as many batches more as there are to be, if so few are left that it is worth it."""
        wanted = self._window()
        if len(self._making) <= wanted.low:
            self._fill(wanted.high)
            self._backend.flush()

    def _fill(self, ahead: int) -> None:
        """Put batches in the making, up to `ahead` of them, as far as there are slots."""
        while len(self._making) < ahead and not self._exhausted:
            slot = self._arena.acquire(beyond_budget=not self._making)
            if slot is None:
                return
            try:
                numbered = self._next_indices()
            except BaseException:  # Ctrl-C in the sampler
                self._arena.release(slot)
                raise
            if numbered is None:
                self._arena.release(slot)
                return
            worker = self._next_worker() if self._turns else None
            batch = Batch(*numbered, slot, self._rows, worker, self._epoch.iterable)
            self._making[batch.number] = batch
            self._submit(batch)

    def _next_indices(self) -> tuple[int, tuple[Any, ...]] | None:
        """What the sampler gives next; None at its end, or if it raised, which waits for its turn."""
        try:
            return next(self._epoch.batches)
        except StopIteration:
            pass
        except Exception as error:
            self._sampler_error = error
        self._exhausted = True
        return None

    def _next_worker(self) -> int:
        """By turns, in a fixed order; so the order of batches doesn't depend on who is done when.

        With ``in_order=False``, whoever has the least to do: a slow one doesn't get all that
        may be in the making.
        """
        if not self._epoch.in_order:
            load = Counter(batch.worker for batch in self._making.values() if batch.left)
            self._turns.rotate(-min(range(len(self._turns)), key=lambda k: load[self._turns[k]]))
        self._turns.rotate(-1)
        return self._turns[-1]

    def _handed_over(self, batch: Batch) -> None:
        self._epoch.batches.handed_over(batch.number, batch.worker, batch.standing)

    def _on_exhausted(self, batch: Batch, worker: int) -> None:
        """A worker's iterator has ended: the other workers go on."""
        if batch.standing is not None:
            self._epoch.batches.stands(worker, batch.standing)
        if batch.worker is not None and batch.worker in self._turns:
            self._turns.remove(batch.worker)
        self._exhausted |= not self._turns
        del self._making[batch.number]
        self._last_bad += batch.bad
        self._arena.release(batch.slot)
        self._fill(self._window().high)

    def _submit(self, batch: Batch) -> None:
        if isinstance(batch.indices, NoIndices):
            batch.fail(Failed(batch.indices.error, None, ""))
            return
        size, workers, parts = len(batch.indices), self._backend.workers, 1
        if workers > 1 and batch.rows and self._epoch.splittable:
            parts = parts_for(size, workers, self._recorder.sample_cost())
        places = split(size, parts) if parts > 1 else [range(size)]
        batch.left = len(places)
        for place in places:
            task = Task(
                self._epoch.course.generation,
                batch.number,
                place.start,
                batch.indices[place.start : place.stop],
                size,
                batch.rows,
                batch.worker,
                tuple(bad.position for bad in batch.condemned) if batch.condemned else (),
            )
            try:
                self._backend.submit(task, batch.slot)
            except Exception as error:  # indices that can't be sent
                batch.fail(Failed(error, None, ""))
                batch.left -= 1

    def _submit_collated(self, batch: Batch) -> None:
        """Start over with a batch whose samples aren't regular; the next ones hardly will be."""
        self._rows = batch.rows = False
        batch.start_over()
        self._submit(batch)

    def _raise_end(self) -> NoReturn:
        error, self._sampler_error = self._sampler_error, None
        if error is None:
            bad, self._last_bad = self._last_bad, ()
            self._epoch.book.add(sorted(bad, key=_PLACE), 0)
            raise StopIteration
        self._exhausted = False  # it may have more to give
        raise self._on_purpose(error)

    # -- waiting ---------------------------------------------------------------------------------

    def _next_complete(self) -> Batch:
        deadline = self._deadline()
        while (batch := self._first_complete()) is None:
            if not self._making:
                self._fill(1)
                if not self._making:
                    self._raise_end()
                continue  # it may have failed before any worker was asked
            for event in self._backend.wait(self._patience(deadline)):
                self._on_event(event)
            self._watch.end_late(self._name)
        return batch

    def _patience(self, deadline: float | None) -> float | None:
        """How long to wait for the next event, in seconds; None for ever."""
        look = self._watch.next_look()
        if deadline is None:
            return look
        left = deadline - time.monotonic()
        if left <= 0:
            self._raise_timeout()
        return left if look is None else min(left, look)

    def _deadline(self) -> float | None:
        return time.monotonic() + self._epoch.timeout if self._epoch.timeout else None

    def _first_complete(self) -> Batch | None:
        for batch in self._making.values():
            if not batch.left:
                return batch
            if self._epoch.in_order:
                return None
        return None

    def _on_event(self, event: Done | Died) -> None:
        if isinstance(event, Died):
            self._on_death(event)
            return
        timing = event.timing
        self._recovery.alive(event.worker)
        self._recorder.task_done(event.worker, timing.samples, timing.fetch_s, timing.collate_s, timing.ended)
        batch = self._making[event.batch]
        batch.add(event.outcome, timing.samples, event.bad)
        if timing.standing is not None:
            self._standings[event.worker] = batch.standing = timing.standing
        if isinstance(event.outcome, Exhausted):
            self._on_exhausted(batch, event.worker)
            return
        if batch.rows and not batch.left and batch.failure() is None and batch.irregular():
            if not batch.iterable:
                self._submit_collated(batch)
            else:  # its samples are gone
                error = BatchNotSendableError("of an iterable dataset", "its class can't be imported here")
                batch.outcomes.clear()
                batch.fail(Failed(error, None, ""))

    def _on_death(self, event: Died) -> None:
        """Have another take its place, and the lost tasks run again."""
        verdict = self._recovery.judge(event, self._name)
        if verdict.fatal or event.worker is None:
            raise verdict.error
        # its text alone: a record that somebody keeps would keep the traceback
        _log.warning("%s Another worker takes its place.", str(verdict.error))
        self._recorder.worker_replaced()
        self._backend.replace(event.worker, self._epoch.course, self._standings.get(event.worker))
        for lost in event.lost:
            batch = self._making[lost.batch]
            task = self._recovery.settle(lost, batch, verdict, event.worker)
            if task is None:
                batch.left -= 1
            else:
                self._backend.submit(task, batch.slot)

    def _name(self, place: tuple[int, int] | None) -> SampleInHand | None:
        """The sample at (batch, position), with its index."""
        if place is None or place[0] not in self._making:
            return None
        number, position = place
        return self._making[number].sample(position)

    def _raise_timeout(self) -> None:
        workers = self._backend.busy()
        busy = [(b.worker, b.pid, self._name(b.sample)) for b in workers]
        stacks = [
            f"worker {b.worker}: {self._backend.stack(b.worker)}" for b in workers if b.pid and b.sample
        ]
        raise self._on_purpose(
            BatchTimeoutError.of(next(iter(self._making)), self._epoch.timeout, busy, stacks)
        )
