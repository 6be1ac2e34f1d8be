"""Measuring the epochs of a loader, on a clock of the test's own, without workers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pytest

from penstock.loader.tuned import Tuned
from penstock.stats import Recorder
from penstock.tuning import Controller, Limits
from penstock.tuning.controller import MOST_EPOCHS

WORK, STEP, START = 0.02, 0.001, 0.05
LONG_STEP = 0.02


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Crew:
    """In the place of a session."""

    workers: int
    all_run: bool = True
    ahead: int = 2

    def room(self) -> int:
        return 8

    def resize(self, workers: int, prefetch_factor: int) -> None:
        self.workers, self.ahead = workers, prefetch_factor


class Batches:
    """In the place of an engine: workers that divide the work, and that start with the first batch."""

    making = ahead = 0

    def __init__(self, number: int, crew: Crew, clock: Clock, recorder: Recorder) -> None:
        self._left, self.crew, self._clock, self._recorder = number, crew, clock, recorder
        self._starting = START

    def __next__(self) -> int:
        if not self._left:
            raise StopIteration
        since = self._clock()
        wait, work = self._takes(self._left)
        self._clock.now += wait + self._starting
        self._starting = 0.0
        self._recorder.task_done(0, 8, work, 0.0)
        self._recorder.batch_out(8, since, 0, copied=False)
        self._left -= 1
        return self._left

    def _takes(self, number: int) -> tuple[float, float]:  # noqa: ARG002
        """Seconds that the loop waits for it, and those of work in it."""
        return WORK / self.crew.workers, WORK


class RarelySlow(Batches):
    """One in twelve takes long; all workers go on with what they have ahead of it."""

    def _takes(self, number: int) -> tuple[float, float]:
        rare = 0.12 if number % 12 == 0 else 0.0
        return max(0.0, rare - self.crew.ahead * LONG_STEP), 0.006 + rare


def epoch(
    controller: Controller,
    clock: Clock,
    batches: int,
    taken: int | None = None,
    kind: type[Batches] = Batches,
    step: float = STEP,
) -> None:
    """One, which the loop leaves when it has taken so many."""
    recorder, crew = Recorder(clock), Crew(controller.workers, ahead=controller.prefetch_factor)
    parts: Any = kind(batches, crew, clock, recorder), crew
    tuned = Tuned(*parts, controller, recorder)
    for _ in range(batches + 1 if taken is None else taken):
        try:
            next(tuned)
        except StopIteration:
            return
        clock.now += step


def searched(batches: int, limits: Limits, taken: int | None = None, epochs: int = 60) -> Controller:
    controller, clock = Controller(limits), Clock()
    for _ in range(epochs):
        epoch(controller, clock, batches, taken)
        clock.now += 10  # what is done between two epochs doesn't count
    return controller


@pytest.mark.parametrize("batches", range(1, 13))
@pytest.mark.parametrize("most", [2, 8])
def test_it_settles_however_few_batches_an_epoch_has(batches: int, most: int) -> None:
    controller = searched(batches, Limits(8, most))
    last = controller.decisions[-1]
    assert last.settled
    assert last.workers > 1
    assert last.batch <= max(100, 40 * batches)
    assert "let nothing be measured" not in last.why


@pytest.mark.parametrize("batches", [40, 100, 1000])
def test_batches_that_are_rare_and_slow_are_noticed_and_made_further_ahead(batches: int) -> None:
    controller, clock = Controller(Limits(8, 8)), Clock()
    for _ in range(2000 // batches):
        epoch(controller, clock, batches, kind=RarelySlow, step=LONG_STEP)
    first = next(decision for decision in controller.decisions if decision.settled)
    assert (first.workers, first.prefetch_factor) == (1, 2)
    last = controller.decisions[-1]
    assert (last.workers, last.prefetch_factor, last.settled) == (1, 8, True)
    assert last.batch <= 1000
    assert sum(decision.settled for decision in controller.decisions) == 2


def test_of_a_short_epoch_the_step_after_its_last_batch_counts() -> None:
    why = searched(1, Limits(1, 1)).decisions[-1].why
    assert why.startswith(
        "with 1 worker the loop waits 99% of the time (a step takes 1 ms, making a batch 20 ms)"
    )


def test_of_a_long_epoch_the_first_batch_does_not_count() -> None:
    why = searched(40, Limits(1, 1), epochs=3).decisions[-1].why
    assert why.startswith("with 1 worker the loop waits 95% of the time")


def test_loops_that_leave_their_epochs_at_once_are_told_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "penstock"):
        controller = searched(100, Limits(8, 8), taken=2)
    begun, last = controller.decisions
    assert (last.batch, last.workers, last.settled) == (2 * MOST_EPOCHS, 1, True)
    assert [record.getMessage() for record in caplog.records] == [f"num_workers='auto': {last.why}."]
    assert begun.why == "it begins with one worker"
