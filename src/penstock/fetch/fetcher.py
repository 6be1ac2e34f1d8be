"""Runs one task: the seed, ``dataset[i]``, and the batch or its part put where it belongs.

A `Fetcher` doesn't know where it runs. It lives in one process, runs one task at a time, and may be told by
its caller, before every sample, through `before_samples`, to go on or not to.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat
from typing import Any

from penstock.arena import Memory
from penstock.bad import BadSample, NoneSampleError, describe
from penstock.collate import Irregular, ReadyRows, RowWriter, Spec
from penstock.fetch.outcomes import (
    Dropped,
    Exhausted,
    Failed,
    LeftOut,
    NotRegular,
    Outcome,
    Rows,
    Timing,
)
from penstock.fetch.placing import Placer
from penstock.fetch.recipe import ReadyGetter, Recipe, batched_getter, ready_getter
from penstock.plan import ATTEMPTS, Course, Task, sample_seeds, substitute
from penstock.seeding import SampleSeeder, Seeds
from penstock.streams import Standing, Stream

_BAD: Any = object()
"""Stands in the place of a sample that is left out."""
MAX_IN_A_ROW = 1000
"""An iterator that fails so often for one batch won't recover."""


class Abandoned(Exception):
    """Nobody wants this task any more."""


class Fetcher:
    """Runs tasks of one recipe; `memory` and `can_send` are its `Placer`'s.

    Of what ``before_samples(batch, first)`` gives, an item is asked for before each of a batch's samples,
    from the position `first` on; if there is none, nobody wants the task any more.

    With no `seeder` the generators are left to the dataset, as torch does.

    Attributes:
        bad: the bad samples of the task that was run last.
    """

    def __init__(
        self,
        recipe: Recipe,
        memory: Memory | None,
        before_samples: Callable[[int, int], Iterator[None]] | None,
        seeder: SampleSeeder | None,
        worker: int = 0,
        can_send: Callable[[Spec], bool] = lambda _: True,
    ) -> None:
        self._recipe, self._worker, self._tolerant = recipe, worker, recipe.policy.tolerant
        self._careful = recipe.policy.tolerant or recipe.policy.refuses_none
        self._placer = Placer(memory, recipe.collate_fn, can_send)
        self._course = Course(0, 0, 0)
        self._stream: Stream | None = None
        self._before_samples = before_samples
        self._seeder = seeder
        self._get_many = batched_getter(recipe.dataset) if recipe.batched and not recipe.iterable else None
        self._ready = ready_getter(recipe.dataset) if recipe.rows and not recipe.iterable else None
        self._clock = time.perf_counter
        self._position: int | None = None
        self._completed = False
        self.bad: list[BadSample] = []
        self._seeds: list[int] = []

    def run(self, task: Task, slot: int) -> tuple[Outcome, Timing]:
        """Run one task; `slot` is acquired for its batch. What user code raises comes as `Failed`."""
        timing = Timing()
        start = self._clock()
        outcome = self._run_seeded(task, slot, timing)
        timing.ended = self._clock()
        timing.collate_s = max(0.0, timing.ended - start - timing.fetch_s)
        return outcome, timing

    def begin(self, course: Course, standing: Standing | None = None) -> None:
        """Begin an epoch, of an iterable dataset where `standing` says; raises what ``iter()`` on that
        raises."""
        self._course = course
        self._placer.begin()
        if self._recipe.iterable:
            self._begin_stream(standing or Standing())
        elif self._seeder is not None:
            self._seeder.look_again()

    def standing(self) -> Standing | None:
        """How the iterator stands, if the dataset is iterable; raises what telling it raises."""
        return None if self._stream is None else self._stream.standing()

    def _begin_stream(self, standing: Standing) -> None:
        """Generators that the dataset keeps are left alone: it may share its shards out by what they draw,
        which has to be the same in all workers and on all ranks."""
        if self._seeder is not None and self._placer.shares:
            self._seeder.seed_global(self._seeds_of(0, 0, (self._worker,))[0])
        self._stream = Stream(self._recipe.dataset, standing)

    def _seeds_of(self, batch: int, offset: int, indices: tuple[Any, ...]) -> list[int]:
        return sample_seeds(self._course.base_seed, self._course.epoch, batch, offset, indices)

    def _run_seeded(self, task: Task, slot: int, timing: Timing) -> Outcome:
        seeder = self._seeder
        if self._ready is not None and (ready := self._ready_rows(self._ready, task, timing)) is not None:
            return self._place_ready(ready, task, slot)
        if self._recipe.iterable:
            return self._attempt(task, slot, timing, None)
        if seeder is not None or self._tolerant:
            self._seeds = self._seeds_of(task.batch, task.offset, task.indices)
        if seeder is None:
            return self._attempt(task, slot, timing, None)
        studied = 0 if self._get_many else len(task.indices) - 1
        while True:
            seeds = seeder.begin(self._seeds, studied)
            try:
                outcome = self._attempt(task, slot, timing, seeds)
            finally:
                again = seeder.end(completed=self._completed)
            if not again or isinstance(outcome, Dropped):
                return outcome

    def _attempt(self, task: Task, slot: int, timing: Timing, seeds: Seeds | None) -> Outcome:
        self._position, self._completed = None, False
        self.bad = []
        try:
            return self._make(task, slot, timing, seeds)
        except Abandoned:
            return Dropped()
        except Irregular:
            return NotRegular()
        except Exception as error:
            return Failed(error, self._position, traceback.format_exc())

    def _make(self, task: Task, slot: int, timing: Timing, seeds: Seeds | None) -> Outcome:
        if self._recipe.iterable:
            return self._next_of_stream(task, slot, timing)
        if self._get_many is not None:
            try:
                return self._whole(self._fetch_many(self._get_many, task, timing, seeds), task, slot)
            except Exception:
                if not self._tolerant:
                    raise  # otherwise see, one by one, which of them is bad
        elif self._recipe.batched and task.rows and task.indices and self._placer.shares:
            return self._rows(task, slot, timing, seeds)
        fetched = self._at_once(task, seeds, timing)
        self._completed = True
        samples = [sample for sample in fetched if sample is not _BAD] if self._tolerant else fetched
        if fetched and not samples:
            return LeftOut(tuple(range(len(fetched))))
        return self._collated(samples if self._recipe.batched else samples[0], slot)

    def _fetch(self, samples: Iterator[Any], count: int | None, timing: Timing) -> list[Any]:
        """The next so many samples, or all."""
        begin = self._clock()
        fetched = list(islice(samples, count))
        timing.fetch_s += self._clock() - begin
        timing.samples += len(fetched)
        return fetched

    def _at_once(self, task: Task, seeds: Seeds | None, timing: Timing) -> list[Any]:
        """All samples of a task."""
        if seeds is not None or self._before_samples is not None or self._careful:
            return self._fetch(self._samples(task, seeds), None, timing)
        begin, dataset, fetched = self._clock(), self._recipe.dataset, []
        try:
            for index in task.indices:  # nothing is to be done in between
                fetched.append(dataset[index])
        except Exception as error:
            position = task.offset + len(fetched)
            fetched.clear()  # the error's traceback keeps it
            self._on_error(error, position)
            raise
        timing.fetch_s += self._clock() - begin
        timing.samples += len(fetched)
        return fetched

    def _samples(self, task: Task, seeds: Seeds | None) -> Iterator[Any]:
        """The task's samples, each made when it is asked for."""
        k, dataset, told = 0, self._recipe.dataset, self._told(task, 0)
        try:
            if self._careful:
                for k, _ in zip(range(len(task.indices)), told, strict=False):
                    yield self._tolerantly(task, k, seeds)
            else:
                seeded = repeat(None) if seeds is None else seeds.all()
                for index, _, _ in zip(task.indices, told, seeded, strict=False):
                    yield dataset[index]
                    k += 1
        except Exception as error:
            self._on_error(error, task.offset + k)
            raise

    def _on_error(self, error: Exception, position: int) -> None:
        """Note which sample raised; raises if what it raised means something else to whoever asks for it."""
        self._position = position
        if isinstance(error, StopIteration):  # would end what asks for samples as if all were well
            raise RuntimeError("dataset[i] raised StopIteration") from error

    def _told(self, task: Task, start: int) -> Iterator[None]:
        """Tells the caller of the next sample, from `start` on, whenever an item is asked for."""
        if self._before_samples is None:
            return repeat(None)
        told = self._before_samples(task.batch, task.offset + start)
        return chain(told, map(_abandon, repeat(None)))

    def _tolerantly(self, task: Task, k: int, seeds: Seeds | None) -> Any:
        """A sample, or another in its place, or `_BAD`, as the policy says."""
        policy, dataset, index = self._recipe.policy, self._recipe.dataset, task.indices[k]
        position = task.offset + k
        killing = task.bad.count(position)  # of the attempts, the first ones
        for attempt in range(ATTEMPTS + 1):
            if attempt >= killing:
                try:
                    if seeds is not None:
                        seeds.set(k)
                    sample = dataset[index]
                    if sample is None and policy.refuses_none:
                        raise NoneSampleError
                    return sample
                except Exception as error:
                    if not policy.tolerant or attempt == ATTEMPTS:
                        raise
                    self._note(error, task, position, index)
            if policy.on_error == "skip":
                return _BAD
            index = substitute(self._seeds[k], attempt, len(dataset))
        raise AssertionError("the last attempt returns or raises")

    def _note(self, error: Exception, task: Task, position: int, index: Any) -> None:
        bad = describe(error, self._recipe.dataset, task.batch, position, index, self._course.epoch)
        self.bad.append(bad)

    def _next_of_stream(self, task: Task, slot: int, timing: Timing) -> Outcome:
        """The stream's next batch. Its samples can't be had twice, so an irregular one is collated here."""
        assert self._stream is not None
        try:
            samples = self._pull(self._stream, task, timing)
        finally:
            timing.standing = self._stream.standing()
        short = len(samples) < len(task.indices)
        if not samples or (short and self._recipe.drop_last):
            return Exhausted()
        if not self._recipe.batched:
            return self._collated(samples[0], slot)
        try:
            return self._whole(samples, task, slot)
        except Irregular:
            return self._collated(samples, slot)

    def _pull(self, stream: Stream, task: Task, timing: Timing) -> list[Any]:
        """So many samples of the stream, or those that are left."""
        begin, policy = self._clock(), self._recipe.policy
        samples: list[Any] = []
        told = self._told(task, 0)
        while len(samples) < len(task.indices):
            next(told)
            try:
                sample = next(stream)
                if sample is None and policy.refuses_none:
                    raise NoneSampleError
                samples.append(sample)
            except StopIteration:
                break
            except Exception as error:
                self._position = len(samples)
                told = self._told(task, self._position)  # the next one stands in its place
                self._note(error, task, self._position, None)
                if not policy.tolerant or len(self.bad) >= MAX_IN_A_ROW:
                    timing.samples += len(samples) + len(self.bad)
                    self.bad = self.bad[:-1]
                    raise
        timing.fetch_s += self._clock() - begin
        timing.samples += len(samples) + len(self.bad)
        return samples

    def _ready_rows(self, get: ReadyGetter, task: Task, timing: Timing) -> ReadyRows | None:
        """The task's samples, if all of them lie in memory: nothing is drawn for them, and none is bad."""
        if not task.rows:
            return None
        begin = self._clock()
        ready = get(task.indices)
        if ready is None or (self._placer.shares and not self._placer.knows(ready.spec)):
            return None
        timing.fetch_s += self._clock() - begin
        timing.samples += len(task.indices)
        return ready

    def _place_ready(self, ready: ReadyRows, task: Task, slot: int) -> Outcome:
        self.bad = []
        try:
            next(self._told(task, 0))
        except Abandoned:
            return Dropped()
        return self._placer.ready(ready, slot, task.offset, task.batch_size)

    def _fetch_many(
        self, get_many: Callable[[list[Any]], Any], task: Task, timing: Timing, seeds: Seeds | None
    ) -> Any:
        """All samples of a batch by one call, under the first one's seed."""
        next(self._told(task, 0))
        begin = self._clock()
        if task.indices and seeds is not None:
            seeds.set(0)
        many = get_many(list(task.indices))
        self._completed = bool(task.indices)
        timing.fetch_s += self._clock() - begin
        timing.samples += len(task.indices)
        return many

    def _rows(self, task: Task, slot: int, timing: Timing, seeds: Seeds | None) -> Outcome:
        """Fetch and place by turns, a group of samples at a time."""
        writer: RowWriter | None = None
        left_out: list[int] = []
        tolerant, size = self._tolerant, len(task.indices)
        each, done, group = self._samples(task, seeds), 0, self._placer.group
        while done < size and (writer is None or group > 1):
            samples = self._fetch(each, group, timing)
            row = task.offset + done
            for first, run in _runs(samples, row, left_out) if tolerant else ((row, samples),):
                if writer is None:
                    writer = self._placer.writer(run[0], slot, task.batch_size)
                    group = writer.group
                writer.write(run, first)
            done += len(samples)
            samples = run = []  # a large sample's memory is wanted for the next one
        if writer is not None:
            self._one_by_one(each, writer, task.offset + done, left_out, timing)
        self._completed = True
        if writer is None:
            return LeftOut(tuple(left_out))
        return Rows(writer.spec, task.batch_size, tuple(left_out))

    def _one_by_one(
        self, samples: Iterator[Any], writer: RowWriter, row: int, left_out: list[int], timing: Timing
    ) -> None:
        """Fetch and place the samples that are left, from a row on: large ones, which sweep the processor's
        caches, so in few steps each."""
        clock, write = self._clock, writer.write_one
        begin = clock()
        for sample in samples:
            timing.fetch_s += clock() - begin
            timing.samples += 1
            if sample is _BAD:
                left_out.append(row)
            else:
                write(sample, row)
            del sample  # its memory is wanted for the next one
            row += 1
            begin = clock()

    def _whole(self, many: Any, task: Task, slot: int) -> Outcome:
        """The batch of samples that came all at once."""
        if task.rows and self._placer.shares and isinstance(many, list | tuple) and many:
            return self._placer.whole(many, slot)
        return self._collated(many, slot)

    def _collated(self, samples: Any, slot: int) -> Outcome:
        self._position = None
        return self._placer.collated(samples, slot)


def _abandon(_: None) -> None:
    raise Abandoned


def _runs(samples: list[Any], first: int, left_out: list[int]) -> Iterator[tuple[int, list[Any]]]:
    """The samples between bad ones, each run with its first row; the rows of the bad go to `left_out`."""
    run: list[Any] = []
    for row, sample in enumerate([*samples, _BAD], first):
        if sample is not _BAD:
            run.append(sample)
            continue
        if run:
            yield row - len(run), run
            run = []
        if row < first + len(samples):
            left_out.append(row)
