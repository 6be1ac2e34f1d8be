"""Fetches what this process's iterator over an iterable dataset has next."""

from __future__ import annotations

from typing import Any

from penstock.bad import NoneSampleError
from penstock.collate import Irregular
from penstock.fetch.fetcher import Fetcher
from penstock.fetch.outcomes import Exhausted, Outcome, Timing
from penstock.plan import Task
from penstock.streams import Standing, Stream

MAX_IN_A_ROW = 1000
"""An iterator that fails so often for one batch won't recover."""


class StreamFetcher(Fetcher):
    """See `Fetcher`: a task's indices only tell how many samples to take."""

    _stream: Stream | None = None

    def standing(self) -> Standing | None:
        return None if self._stream is None else self._stream.standing()

    def _begin(self, standing: Standing) -> None:
        """Generators that the dataset keeps are left alone: it may share its shards out by what they draw,
        which has to be the same in all workers and on all ranks."""
        if self._seeder is not None and self._placer.shares:
            self._seeder.seed_global(self._seeds_of(0, 0, (self._worker,))[0])
        self._stream = Stream(self._recipe.dataset, standing)

    def _outcome(self, task: Task, slot: int, timing: Timing) -> Outcome:
        return self._attempt(self._make, task, slot, timing)

    def _make(self, task: Task, slot: int, timing: Timing) -> Outcome:
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
