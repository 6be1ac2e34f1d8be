"""Drives one epoch: which batches are in the making, which comes next, and what becomes of failures.

Everything happens inside ``next()`` and ``close()``, in the caller's thread; between two calls nothing
runs in this process. A batch goes through these hands:

    waiting for a slot -> its tasks submitted -> all tasks done -> handed over (or its error raised)

A batch whose samples turn out not to be regular is submitted again, once, as one task that collates; so
are all batches after it. Its slot goes back to the arena when no task of it is left, or, handed over,
when the last tensor of it dies.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np

from penstock.arena import Arena
from penstock.backends.base import Backend, Died, Done
from penstock.bad import BadSample, ErrorBook, describe
from penstock.collate import batch_of_rows, batch_of_some_rows, unpack
from penstock.errors import BatchNotSendableError, BatchTimeoutError, SampleInHand, WorkerDiedError, annotate
from penstock.fetch import Block, Direct, Exhausted, Failed, LeftOut, NotRegular, Outcome, Rows
from penstock.machine import memory_kills
from penstock.plan import Course, Task, Window, parts_for, split, window
from penstock.policy import Deaths, Policy
from penstock.stats import Recorder
from penstock.streams import Standing
from penstock.watch import Watch

_log = logging.getLogger("penstock")


@dataclass(slots=True)
class _Batch:
    """A batch in the making."""

    number: int
    indices: tuple[Any, ...]
    slot: int
    rows: bool
    worker: int | None
    iterable: bool
    left: int = 0
    samples: int = 0
    bad: list[BadSample] = field(default_factory=list)
    standing: Standing | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.left == 0

    def sample(self, position: int) -> SampleInHand:
        if self.iterable:
            return SampleInHand(self.number, position, self.worker)
        return SampleInHand(self.number, self.indices[position])

    def failure(self) -> Failed | None:
        """Of several, the one of the first sample, whichever came first."""
        failed = [o for o in self.outcomes if isinstance(o, Failed)]
        last = len(self.indices)
        return min(failed, key=lambda f: last if f.position is None else f.position, default=None)

    def left_out(self) -> bool:
        """Whether all its samples were bad."""
        return bool(self.outcomes) and all(isinstance(o, LeftOut) for o in self.outcomes)

    def rows_left_out(self) -> set[int]:
        return {row for o in self.outcomes if isinstance(o, Rows | LeftOut) for row in o.left_out}

    def irregular(self) -> bool:
        """Whether its parts don't make one batch of rows."""
        if any(isinstance(o, NotRegular) for o in self.outcomes):
            return True
        specs = [o.spec for o in self.outcomes if isinstance(o, Rows)]
        return any(spec is not specs[0] and spec != specs[0] for spec in specs)


class Batches(Protocol):
    """What is asked for an epoch's batches.

    Attributes:
        turn: the worker that makes the first, where it matters who does.
        standings: of an iterable dataset, from where the workers' iterators go on, if not from the start.
    """

    @property
    def turn(self) -> int: ...
    @property
    def standings(self) -> Mapping[int, Standing]: ...
    def __next__(self) -> tuple[int, tuple[Any, ...]]: ...
    def handed_over(self, number: int, worker: int | None, standing: Standing | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch is made of.

    Attributes:
        batches: the number and the indices of each batch, in order; may be endless. It is told what was
            handed over, be it as an exception, and how the worker's iterator stood then.
        ahead: how many batches, at least, to have in the making while the caller has one in hand; 0
            makes each only when it is asked for.
        rows, splittable: what the recipe allows (`fetch.Recipe`).
        course: what its tasks have in common.
        by_turns: the workers make one batch each, by turns, as it matters which worker makes it.
        iterable: that is since each has an iterator, which ends by itself.
        timeout: seconds to wait for a batch; 0 for ever.
        in_order: hand batches over in their order, or as they are done.
        policy: what is done about faults.
        book: what is told of bad samples.
        dataset: to tell the path of a bad sample.
    """

    batches: Batches
    ahead: int
    rows: bool
    splittable: bool
    course: Course
    by_turns: bool
    iterable: bool
    timeout: float
    in_order: bool
    policy: Policy
    book: ErrorBook
    dataset: Any


class Engine:
    """An iterator over the batches of one epoch."""

    def __init__(self, epoch: Epoch, backend: Backend, arena: Arena, recorder: Recorder) -> None:
        self._epoch, self._backend, self._arena = epoch, backend, arena
        self._recorder = recorder
        self._making: dict[int, _Batch] = {}
        self._watch = Watch(backend, epoch.policy.sample_timeout)
        self._deaths = Deaths(epoch.policy)
        self._memory_kills = memory_kills()
        self._standings = dict(epoch.batches.standings)
        self._turns = deque(range(backend.workers if epoch.by_turns else 0))
        self._turns.rotate(-epoch.batches.turn)
        self._rows = epoch.rows
        self._exhausted = False
        self._sampler_error: Exception | None = None
        self._raised: BaseException | None = None
        backend.begin(epoch.course, epoch.batches.standings)
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
        result, nbytes, copied = self._assemble(batch)
        self._recorder.batch_out(batch.samples, since, nbytes, copied)
        wanted = self._window()
        if len(self._making) <= wanted.low:
            self._fill(wanted.high)
            self._backend.flush()
        self._handed_over(batch)
        return result

    def _discard(self, batch: _Batch) -> None:
        """A batch without a single good sample is left out."""
        del self._making[batch.number]
        self._recorder.batch_left_out()
        self._tell(batch)
        self._arena.release(batch.slot)
        self._handed_over(batch)
        self._fill(self._window().high)

    def _tell(self, batch: _Batch) -> None:
        try:
            self._epoch.book.add(sorted(batch.bad, key=lambda bad: bad.position), batch.samples)
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
        return window(self._epoch.ahead, self._backend.workers, self._recorder.batch_cost())

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
            batch = _Batch(*numbered, slot, self._rows, self._next_worker(), self._epoch.iterable)
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

    def _next_worker(self) -> int | None:
        """By turns, in a fixed order; so the order of batches doesn't depend on who is done when."""
        if not self._turns:
            return None
        self._turns.rotate(-1)
        return self._turns[-1]

    def _handed_over(self, batch: _Batch) -> None:
        self._epoch.batches.handed_over(batch.number, batch.worker, batch.standing)

    def _on_exhausted(self, batch: _Batch) -> None:
        """A worker's iterator has ended: the other workers go on."""
        if batch.worker is not None and batch.worker in self._turns:
            self._turns.remove(batch.worker)
        self._exhausted |= not self._turns
        del self._making[batch.number]
        self._arena.release(batch.slot)
        self._fill(self._window().high)

    def _submit(self, batch: _Batch) -> None:
        size = len(batch.indices)
        split_it = batch.rows and self._epoch.splittable
        cost = self._recorder.sample_cost()
        parts = parts_for(size, self._backend.workers, cost) if split_it else 1
        places = split(size, parts) or [range(0)]
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
            )
            try:
                self._backend.submit(task, batch.slot)
            except Exception as error:  # indices that can't be sent
                batch.outcomes.append(Failed(error, None, ""))
                batch.left -= 1

    def _submit_collated(self, batch: _Batch) -> None:
        """Start over with a batch whose samples aren't regular; the next ones hardly will be."""
        self._rows = batch.rows = False
        batch.outcomes.clear()
        batch.samples = 0
        batch.bad.clear()
        self._submit(batch)

    def _raise_end(self) -> NoReturn:
        error, self._sampler_error = self._sampler_error, None
        if error is None:
            raise StopIteration
        self._exhausted = False  # it may have more to give
        raise self._on_purpose(error)

    # -- waiting ---------------------------------------------------------------------------------

    def _next_complete(self) -> _Batch:
        deadline = self._deadline()
        while (batch := self._first_complete()) is None:
            if not self._making:
                self._fill(1)
            if not self._making:
                self._raise_end()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self._raise_timeout()
            limits = [limit for limit in (left, self._watch.next_look()) if limit is not None]
            for event in self._backend.wait(min(limits, default=None)):
                self._on_event(event)
            self._watch.end_late(self._name)
        return batch

    def _deadline(self) -> float | None:
        return time.monotonic() + self._epoch.timeout if self._epoch.timeout else None

    def _first_complete(self) -> _Batch | None:
        for batch in self._making.values():
            if batch.complete:
                return batch
            if self._epoch.in_order:
                return None
        return None

    def _on_event(self, event: Done | Died) -> None:
        if isinstance(event, Died):
            self._on_death(event)
            return
        timing = event.timing
        self._deaths.forget(event.worker)
        self._recorder.task_done(event.worker, timing.samples, timing.fetch_s, timing.collate_s)
        batch = self._making[event.batch]
        batch.outcomes.append(event.outcome)
        batch.left -= 1
        batch.samples += timing.samples - len(event.bad)
        batch.bad += event.bad
        if timing.standing is not None:
            self._standings[event.worker] = batch.standing = timing.standing
        if isinstance(event.outcome, Exhausted):
            self._on_exhausted(batch)
            return
        if batch.complete and batch.failure() is None and batch.irregular():
            if not batch.iterable:
                self._submit_collated(batch)
            else:  # its samples are gone
                error = BatchNotSendableError("of an iterable dataset", "its class can't be imported here")
                batch.outcomes = [Failed(error, None, "")]

    def _on_death(self, event: Died) -> None:
        """Have another take its place, and the lost tasks run again: they give the same batches.

        A sample that keeps killing its worker has failed like one that raises; workers that die without
        being on a sample, and a template, end the epoch.
        """
        late = self._watch.cause_of(event.pid)
        error = late or self._death(event)
        sample = event.sample
        culprit = (event.worker, sample) if self._epoch.iterable else sample
        hopeless = self._deaths.add(event.worker if sample is None else culprit)
        hopeless |= late is not None and sample is not None
        if event.worker is None or (hopeless and (sample is None or self._epoch.iterable)):
            raise error
        _log.warning("%s Another worker takes its place.", str(error))  # a kept record keeps no traceback
        self._recorder.worker_replaced()
        self._backend.replace(event.worker, self._epoch.course, self._standings.get(event.worker))
        for task in event.lost:
            batch = self._making[task.batch]
            killer = hopeless and sample is not None and task.holds(*sample)
            if killer and not self._epoch.policy.tolerant:
                batch.outcomes.append(Failed(error, sample[1] if sample else None, ""))
                batch.left -= 1
                continue
            if killer and sample is not None:
                index = batch.indices[sample[1]]
                bad = describe(error, self._epoch.dataset, *sample, index, self._epoch.course.epoch)
                batch.bad.append(dataclasses.replace(bad, worker=event.worker))
                task = dataclasses.replace(task, bad=(*task.bad, sample[1]))
            self._backend.submit(task, batch.slot)

    def _death(self, event: Died) -> WorkerDiedError:
        kills, self._memory_kills = self._memory_kills, memory_kills()
        told = kills is not None and self._memory_kills is not None and event.exitcode == -signal.SIGKILL
        for_memory = self._memory_kills != kills if told else None
        sample = self._name(event.sample)
        return WorkerDiedError(event.worker, event.pid, event.exitcode, sample, for_memory)

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
        raise self._on_purpose(BatchTimeoutError(next(iter(self._making)), self._epoch.timeout, busy, stacks))

    # -- handing over ----------------------------------------------------------------------------

    def _assemble(self, batch: _Batch) -> tuple[Any, int, bool]:
        """(the batch, its bytes in shared memory, whether it was copied out of there)."""
        failed = batch.failure()
        outcome = failed or next(o for o in batch.outcomes if not isinstance(o, LeftOut))
        if isinstance(outcome, Failed):
            self._arena.release(batch.slot)
            self._handed_over(batch)
            raise self._on_purpose(self._described(batch, outcome))
        if isinstance(outcome, Direct):
            self._arena.release(batch.slot)
            return outcome.batch, 0, False
        if isinstance(outcome, Rows):
            nbytes = outcome.spec.layout(outcome.rows)[1]
            if left_out := batch.rows_left_out():
                return self._compacted(batch.slot, outcome, left_out), nbytes, True
            block, copied = self._take(batch.slot, nbytes)
            return batch_of_rows(block, outcome.spec, outcome.rows), nbytes, copied
        assert isinstance(outcome, Block)
        block, copied = self._take(batch.slot, outcome.nbytes)
        return unpack(block, outcome.start), outcome.nbytes, copied

    def _compacted(self, slot: int, rows: Rows, left_out: set[int]) -> Any:
        """Without the rows of bad samples."""
        kept = [row for row in range(rows.rows) if row not in left_out]
        block = self._arena.memory.slot(slot, rows.spec.layout(rows.rows)[1])
        result = batch_of_some_rows(block, rows.spec, rows.rows, kept)
        self._arena.release(slot)
        return result

    def _take(self, slot: int, nbytes: int) -> tuple[Any, bool]:
        """The bytes of a batch: in its slot, as long as enough slots remain for those to come."""
        if nbytes == 0:
            self._arena.release(slot)
            return np.empty(0, np.uint8), False
        if self._arena.room() >= max(1, self._window().high - len(self._making)):
            return self._arena.lease(slot, nbytes), False
        return self._arena.take_copy(slot, nbytes), True

    def _described(self, batch: _Batch, failed: Failed) -> BaseException:
        if failed.position is None:
            annotate(failed.error, f"in making batch {batch.number}")
        else:
            annotate(failed.error, str(batch.sample(failed.position)))
        if isinstance(failed.error, StopIteration):  # would end the caller's loop as if all were well
            stopped = RuntimeError("collate_fn raised StopIteration")
            stopped.__cause__ = failed.error
            return stopped
        return failed.error
