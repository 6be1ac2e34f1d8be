"""Fetches what a map-style dataset has at the indices of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, repeat
from typing import Any

from penstock.bad import NoneSampleError
from penstock.collate import ReadyRows, RowWriter
from penstock.fetch.fetcher import Fetcher
from penstock.fetch.outcomes import Dropped, LeftOut, Outcome, Rows, Timing
from penstock.fetch.recipe import ReadyGetter, Recipe, batched_getter, ready_getter
from penstock.plan import ATTEMPTS, Task, substitute
from penstock.seeding import Seeds
from penstock.streams import Standing

_BAD: Any = object()
"""Stands in the place of a sample that is left out."""


class IndexFetcher(Fetcher):
    """See `Fetcher`: each sample is ``dataset[i]``, under its own seed."""

    def __init__(self, recipe: Recipe, *arguments: Any) -> None:
        super().__init__(recipe, *arguments)
        self._tolerant = recipe.policy.tolerant
        self._careful = self._tolerant or recipe.policy.refuses_none
        self._get_many = batched_getter(recipe.dataset) if recipe.batched else None
        self._ready = ready_getter(recipe.dataset) if recipe.rows else None
        self._completed = False
        self._seeds: list[int] = []

    def standing(self) -> None:
        """There is no iterator."""

    def _begin(self, standing: Standing) -> None:
        del standing
        if self._seeder is not None:
            self._seeder.look_again()

    def _outcome(self, task: Task, slot: int, timing: Timing) -> Outcome:
        if self._ready is not None and (ready := self._ready_rows(self._ready, task, timing)) is not None:
            return self._attempt(self._place_ready, ready, task, slot)
        seeder = self._seeder
        if seeder is not None or self._tolerant:
            self._seeds = self._seeds_of(task.batch, task.offset, task.indices)
        if seeder is None:
            return self._attempt(self._make, task, slot, timing, None)
        studied = 0 if self._get_many else len(task.indices) - 1
        while True:
            seeds = seeder.begin(self._seeds, studied)
            try:
                outcome = self._attempt(self._make, task, slot, timing, seeds)
            finally:
                again = seeder.end(completed=self._completed)
            if not again or isinstance(outcome, Dropped):
                return outcome

    def _make(self, task: Task, slot: int, timing: Timing, seeds: Seeds | None) -> Outcome:
        self._completed = False
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
        next(self._told(task, 0))
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
            samples = run = []  # both lead to the sample; a large one's memory is wanted for the next one
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
