"""Runs one task: the seed, ``dataset[i]``, and the batch or its part put where it belongs.

A `Fetcher` doesn't know where it runs. It lives in one process, runs one task at a time, and is told by
its caller, before every sample, through `before_sample`, to go on or (by `Abandoned`) not to.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Subset

from penstock.arena import Memory
from penstock.collate import (
    BlockWriter,
    Irregular,
    RowWriter,
    Scratch,
    Spec,
    group_of,
    is_default_collate,
    spec_of,
    stack_into,
    tensors_of,
)
from penstock.plan import Course, Task, sample_seeds
from penstock.seeding import SampleSeeder, Seed


class Abandoned(Exception):
    """Raised by `before_sample`: nobody wants this task any more."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The task's samples stand in their rows of the slot, laid out as `spec` says."""

    spec: Spec
    rows: int
    """Of the whole batch."""


@dataclass(frozen=True, slots=True)
class Block:
    """The whole batch stands in the slot as `collate.BlockWriter` writes it."""

    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Direct:
    """The whole batch as an object; only where the caller is in the same process."""

    batch: Any


@dataclass(frozen=True, slots=True)
class NotRegular:
    """The samples can't be placed as rows; the batch has to be collated as a whole."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The iterable dataset of this process has no further batch."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The task was abandoned."""


@dataclass(frozen=True, slots=True)
class Failed:
    """User code raised.

    Attributes:
        error: the exception, with its traceback where it was raised in this process.
        position: of the sample in the batch, or None in collating.
        text: the formatted traceback.
    """

    error: BaseException
    position: int | None
    text: str


Outcome = Rows | Block | Direct | NotRegular | Exhausted | Dropped | Failed


@dataclass(slots=True)
class Timing:
    """How many samples one task made, and the seconds it took."""

    fetch_s: float = 0.0
    collate_s: float = 0.0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a loader makes batches; what a worker gets of it."""

    dataset: Any
    collate_fn: Callable[[Any], Any]
    batched: bool
    """False for ``batch_size=None``: a task is then one sample, given to `collate_fn` as it is."""
    iterable: bool = False
    """Samples come from ``iter(dataset)`` instead of ``dataset[i]``."""
    drop_last: bool = False
    """Of an iterable dataset, leave out a last batch that is short."""
    seeds_samples: bool = True
    """Every sample gets random state of its own; otherwise that is left to the dataset."""

    @property
    def rows(self) -> bool:
        """Whether samples may be placed as rows; if they turn out not to fit, they are made again."""
        return self.batched and (self.seeds_samples or self.iterable) and is_default_collate(self.collate_fn)

    @property
    def by_turns(self) -> bool:
        """Whether it matters which worker makes a batch: each has its iterator, or its random state."""
        return self.iterable or not self.seeds_samples

    @property
    def splittable(self) -> bool:
        """Whether several tasks may make one batch."""
        return self.rows and not self.by_turns and batched_getter(self.dataset) is None


def batched_getter(dataset: Any) -> Callable[[list[Any]], Any] | None:
    """The dataset's ``__getitems__``, where it is more than a loop over ``dataset[i]``.

    ``Subset`` has one in any case; it counts only if the dataset beneath has one.
    """
    if isinstance(dataset, Subset) and type(dataset).__getitems__ is Subset.__getitems__:
        return dataset.__getitems__ if batched_getter(dataset.dataset) else None
    return getattr(dataset, "__getitems__", None) or None


class Fetcher:
    """Runs tasks of one recipe.

    `memory` is the process's mapping of the arena. Without one, every batch is collated and returned as an
    object, exactly as torch does it.
    With no `seeder` the generators are left to the dataset, as torch does. `can_send` tells whether the
    caller can be told of a spec.
    """

    def __init__(
        self,
        recipe: Recipe,
        memory: Memory | None,
        before_sample: Callable[[int, int], None],
        seeder: SampleSeeder | None,
        worker: int = 0,
        can_send: Callable[[Spec], bool] = lambda _: True,
    ) -> None:
        self._recipe, self._memory = recipe, memory
        self._worker, self._can_send = worker, can_send
        self._course = Course(0, 0, 0)
        self._stream: Iterator[Any] | None = None
        self._before_sample = before_sample
        self._seeder = seeder
        self._get_many = batched_getter(recipe.dataset) if recipe.batched and not recipe.iterable else None
        self._spec: Spec | None = None
        self._clock = time.perf_counter
        self._position: int | None = None
        self._completed = False
        self._views: dict[int, tuple[Spec, int, list[torch.Tensor]]] = {}
        self._scratch = Scratch()

    def run(self, task: Task, slot: int) -> tuple[Outcome, Timing]:
        """Run one task; `slot` is acquired for its batch. What user code raises comes as `Failed`."""
        timing = Timing()
        start = self._clock()
        outcome = self._run_seeded(task, slot, timing)
        timing.collate_s = max(0.0, self._clock() - start - timing.fetch_s)
        return outcome, timing

    def begin(self, course: Course) -> None:
        """Begin an epoch; raises what ``iter()`` on an iterable dataset raises."""
        self._course = course
        self._views.clear()  # the main process may have given memory back
        if self._seeder is not None:
            self._seeder.look_again()
        if self._recipe.iterable:
            if self._seeder is not None and self._memory is not None:
                self._seeder.seed_all(self._seeds_of(0, 0, (self._worker,))[0])
            self._stream = iter(self._recipe.dataset)
            self._skip(course.skip)

    def _skip(self, count: int) -> None:
        """Take what another worker had taken before its place was taken by this one."""
        for _ in range(count):
            try:
                next(self._stream or iter(()))
            except StopIteration:
                return
            except Exception:
                continue  # it was told when that one took it

    def _seeds_of(self, batch: int, offset: int, indices: tuple[Any, ...]) -> list[int]:
        return sample_seeds(self._course.base_seed, self._course.epoch, batch, offset, indices)

    def _run_seeded(self, task: Task, slot: int, timing: Timing) -> Outcome:
        seeder = self._seeder
        if seeder is None or self._recipe.iterable:
            return self._attempt(task, slot, timing, None)
        seeds = self._seeds_of(task.batch, task.offset, task.indices)
        studied = 0 if self._get_many else len(task.indices) - 1
        while True:
            seed = seeder.begin(seeds, studied)
            try:
                outcome = self._attempt(task, slot, timing, seed)
            finally:
                again = seeder.end(completed=self._completed)
            if not again or isinstance(outcome, Dropped):
                return outcome

    def _attempt(self, task: Task, slot: int, timing: Timing, seed: Seed | None) -> Outcome:
        self._position, self._completed = None, False
        try:
            return self._make(task, slot, timing, seed)
        except Abandoned:
            return Dropped()
        except Irregular:
            return NotRegular()
        except Exception as error:
            return Failed(error, self._position, traceback.format_exc())

    def _make(self, task: Task, slot: int, timing: Timing, seed: Seed | None) -> Outcome:
        if self._recipe.iterable:
            return self._next_of_stream(task, slot, timing)
        if not self._recipe.batched:
            return self._collated(self._fetch(task, 0, 1, timing, seed)[0], slot)
        if self._get_many is not None:
            return self._batch_of(self._fetch_many(self._get_many, task, timing, seed), task, slot)
        if task.rows and task.indices and self._memory is not None:
            return self._rows(task, slot, timing, seed)
        return self._collated(self._fetch(task, 0, len(task.indices), timing, seed), slot)

    def _fetch(self, task: Task, start: int, stop: int, timing: Timing, seed: Seed | None) -> list[Any]:
        """The task's samples from `start` to `stop`, counted in the task."""
        dataset, before_sample = self._recipe.dataset, self._before_sample
        begin, samples = self._clock(), []
        try:
            for k, index in enumerate(task.indices[start:stop], start):
                before_sample(task.batch, task.offset + k)
                if seed is not None:
                    seed(k)
                samples.append(dataset[index])
        except BaseException:
            self._position = task.offset + start + len(samples)
            raise
        self._completed = start + len(samples) == len(task.indices)
        timing.fetch_s += self._clock() - begin
        timing.samples += len(samples)
        return samples

    def _next_of_stream(self, task: Task, slot: int, timing: Timing) -> Outcome:
        """The stream's next batch. Its samples can't be had twice, so an irregular one is collated here."""
        samples = self._pull(task, timing)
        short = len(samples) < len(task.indices)
        if not samples or (short and self._recipe.drop_last):
            return Exhausted()
        if not self._recipe.batched:
            return self._collated(samples[0], slot)
        try:
            return self._batch_of(samples, task, slot)
        except Irregular:
            return self._collated(samples, slot)

    def _pull(self, task: Task, timing: Timing) -> list[Any]:
        """So many samples of the stream, or those that are left."""
        begin = self._clock()
        samples: list[Any] = []
        while self._stream is not None and len(samples) < len(task.indices):
            self._before_sample(task.batch, len(samples))
            try:
                samples.append(next(self._stream))
            except StopIteration:
                self._stream = None
            except BaseException:
                self._position = len(samples)
                timing.samples += len(samples) + 1  # taken, if not made
                raise
        timing.fetch_s += self._clock() - begin
        timing.samples += len(samples)
        return samples

    def _fetch_many(
        self, get_many: Callable[[list[Any]], Any], task: Task, timing: Timing, seed: Seed | None
    ) -> Any:
        """All samples of a batch by one call, under the first one's seed."""
        self._before_sample(task.batch, 0)
        begin = self._clock()
        if task.indices and seed is not None:
            seed(0)
        many = get_many(list(task.indices))
        self._completed = bool(task.indices)
        timing.fetch_s += self._clock() - begin
        timing.samples += len(task.indices)
        return many

    def _rows(self, task: Task, slot: int, timing: Timing, seed: Seed | None) -> Outcome:
        """Fetch and place by turns, a group of samples at a time."""
        samples = self._fetch(task, 0, 1 if self._spec is None else group_of(self._spec), timing, seed)
        writer = self._writer(samples[0], slot, task.batch_size, task.offset)
        writer.write(samples)
        done = len(samples)
        while done < len(task.indices):
            del samples  # a large sample's memory is wanted for the next one
            samples = self._fetch(task, done, done + writer.group, timing, seed)
            writer.write(samples)
            done += len(samples)
        return Rows(writer.spec, task.batch_size)

    def _batch_of(self, many: Any, task: Task, slot: int) -> Outcome:
        """The batch of samples that came all at once."""
        if not (task.rows and self._memory is not None and isinstance(many, list | tuple) and many):
            return self._collated(many, slot)
        writer = self._writer(many[0], slot, len(many), 0)
        for start in range(0, len(many), writer.group):
            writer.write(many[start : start + writer.group])
        return Rows(writer.spec, len(many))

    def _writer(self, first: Any, slot: int, rows: int, first_row: int) -> RowWriter:
        spec = spec_of(first, self._spec)
        if spec is not self._spec and not self._can_send(spec):
            raise Irregular
        self._spec = spec
        return RowWriter(spec, self._tensors(slot, spec, rows), first_row)

    def _tensors(self, slot: int, spec: Spec, rows: int) -> list[torch.Tensor]:
        """The columns of a slot; making 200 views anew for every task would be felt."""
        known = self._views.get(slot)
        if known is not None and known[0] is spec and known[1] == rows:
            return known[2]
        assert self._memory is not None
        tensors = tensors_of(self._memory.reserve(slot, spec.layout(rows)[1]), spec, rows)
        self._views[slot] = (spec, rows, tensors)
        return tensors

    def _collated(self, samples: Any, slot: int) -> Outcome:
        self._position = None
        with stack_into(self._scratch):
            batch = self._recipe.collate_fn(samples)
        del samples
        memory = self._memory
        if memory is None:
            return Direct(batch)
        return Block(*BlockWriter(lambda nbytes: memory.reserve(slot, nbytes)).pack(batch))
