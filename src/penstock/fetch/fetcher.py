"""Runs one task: the seed, the samples, and the batch or its part put where it belongs.

A `Fetcher` doesn't know where it runs. It lives in one process, runs one task at a time, and may be told by
its caller, before every sample, through `before_samples`, to go on or not to.
"""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

from penstock.arena import Memory
from penstock.bad import BadSample, describe
from penstock.collate import Irregular, Spec
from penstock.fetch.outcomes import Dropped, Failed, NotRegular, Outcome, Timing
from penstock.fetch.placing import Placer
from penstock.fetch.recipe import Recipe
from penstock.plan import Course, Task, sample_seeds
from penstock.seeding import SampleSeeder
from penstock.streams import Standing


class Abandoned(Exception):
    """Nobody wants this task any more."""


class Fetcher(ABC):
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
        self._recipe, self._worker = recipe, worker
        self._placer = Placer(memory, recipe.collate_fn, can_send)
        self._course = Course(0, 0, 0)
        self._before_samples = before_samples
        self._seeder = seeder
        self._clock = time.perf_counter
        self._position: int | None = None
        self.bad: list[BadSample] = []

    def run(self, task: Task, slot: int) -> tuple[Outcome, Timing]:
        """Run one task; `slot` is acquired for its batch. What user code raises comes as `Failed`."""
        timing = Timing()
        start = self._clock()
        outcome = self._outcome(task, slot, timing)
        timing.ended = self._clock()
        timing.collate_s = max(0.0, timing.ended - start - timing.fetch_s)
        return outcome, timing

    def begin(self, course: Course, standing: Standing | None = None) -> None:
        """Begin an epoch, of an iterable dataset where `standing` says; raises what ``iter()`` on that
        raises."""
        self._course = course
        self._placer.begin()
        self._begin(standing or Standing())

    @abstractmethod
    def standing(self) -> Standing | None:
        """How the iterator stands, if the dataset is iterable; raises what telling it raises."""

    @abstractmethod
    def _begin(self, standing: Standing) -> None: ...

    @abstractmethod
    def _outcome(self, task: Task, slot: int, timing: Timing) -> Outcome:
        """What comes of a task: of `_attempt`, mostly."""

    def _attempt(self, make: Callable[..., Outcome], *arguments: Any) -> Outcome:
        """What `make` gives; of what it raises, what that means."""
        self._position, self.bad = None, []
        try:
            return make(*arguments)
        except Abandoned:
            return Dropped()
        except Irregular:
            return NotRegular()
        except Exception as error:
            return Failed(error, self._position, traceback.format_exc())

    def _seeds_of(self, batch: int, offset: int, indices: tuple[Any, ...]) -> list[int]:
        return sample_seeds(self._course.base_seed, self._course.epoch, batch, offset, indices)

    def _told(self, task: Task, start: int) -> Iterator[None]:
        """Tells the caller of the next sample, from `start` on, whenever an item is asked for."""
        if self._before_samples is None:
            return repeat(None)
        told = self._before_samples(task.batch, task.offset + start)
        return chain(told, map(_abandon, repeat(None)))

    def _note(self, error: Exception, task: Task, position: int, index: Any) -> None:
        bad = describe(error, self._recipe.dataset, task.batch, position, index, self._course.epoch)
        self.bad.append(bad)

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
