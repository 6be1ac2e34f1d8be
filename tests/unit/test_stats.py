"""Counting an epoch, with a clock of the test's own."""

from __future__ import annotations

import dataclasses

import pytest

from penstock.stats import Recorder, Stats, WorkerStats


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(clock: Clock) -> Recorder:
    return Recorder(clock)


def test_nothing_is_counted_at_first(recorder: Recorder) -> None:
    assert recorder.snapshot() == Stats()


def test_batches_samples_bytes_and_copies_add_up(recorder: Recorder) -> None:
    recorder.batch_out(4, 100.0, nbytes=10, copied=False)
    recorder.batch_out(3, 100.0, nbytes=20, copied=True)
    stats = recorder.snapshot()
    assert (stats.batches, stats.samples, stats.batch_bytes, stats.copied_batches) == (2, 7, 30, 1)


def test_waiting_is_the_time_inside_next(recorder: Recorder, clock: Clock) -> None:
    clock.now = 102.0
    recorder.batch_out(1, 101.5, 0, False)
    clock.now = 110.0
    recorder.batch_out(1, 109.0, 0, False)
    assert recorder.snapshot().wait_s == pytest.approx(1.5)


def test_the_first_batch_is_timed_from_the_start_and_only_once(recorder: Recorder, clock: Clock) -> None:
    assert recorder.snapshot().first_batch_s is None
    clock.now = 103.0
    recorder.batch_out(1, 102.0, 0, False)
    clock.now = 150.0
    recorder.batch_out(1, 149.0, 0, False)
    assert recorder.snapshot().first_batch_s == pytest.approx(3.0)


def test_each_workers_work_adds_up_and_they_come_in_order(recorder: Recorder) -> None:
    recorder.task_done(1, 4, 0.5, 0.25)
    recorder.task_done(0, 1, 0.125, 0.0)
    recorder.task_done(1, 2, 0.5, 0.25)
    workers = recorder.snapshot().workers
    assert list(workers) == [0, 1]
    assert workers[0] == WorkerStats(1, 1, 0.125, 0.0)
    assert workers[1] == WorkerStats(6, 2, 1.0, 0.5)
    assert workers[1].busy_s == 1.5


def test_the_cost_of_a_sample_is_the_mean_over_all_workers(recorder: Recorder) -> None:
    assert recorder.sample_cost() is None
    recorder.task_done(0, 3, 0.5, 0.25)
    recorder.task_done(1, 1, 0.25, 0.0)
    assert recorder.sample_cost() == pytest.approx(0.25)


def test_a_task_without_samples_leaves_the_cost_unknown(recorder: Recorder) -> None:
    recorder.task_done(0, 0, 0.5, 0.25)
    assert recorder.sample_cost() is None


def test_the_cost_of_a_batch_is_that_of_its_samples(recorder: Recorder) -> None:
    recorder.task_done(0, 8, 1.0, 1.0)
    assert recorder.batch_cost() is None
    recorder.batch_out(4, 100.0, 0, False)
    recorder.batch_out(2, 100.0, 0, False)
    assert recorder.batch_cost() == pytest.approx(0.25 * 3)


def test_the_snapshot_tells_the_slots(recorder: Recorder) -> None:
    stats = recorder.snapshot(slots=5, slots_in_use=2)
    assert (stats.slots, stats.slots_in_use) == (5, 2)


def test_a_snapshot_stays_as_it_was(recorder: Recorder) -> None:
    recorder.task_done(0, 1, 0.5, 0.0)
    stats = recorder.snapshot()
    recorder.task_done(0, 1, 0.5, 0.0)
    recorder.task_done(1, 1, 0.5, 0.0)
    recorder.batch_out(1, 100.0, 0, False)
    assert stats.batches == 0
    assert stats.workers == {0: WorkerStats(1, 1, 0.5, 0.0)}


def test_a_snapshot_cannot_be_changed(recorder: Recorder) -> None:
    recorder.task_done(0, 1, 0.5, 0.0)
    stats = recorder.snapshot()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.batches = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        stats.workers[0] = WorkerStats()  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.workers[0].samples = 2  # type: ignore[misc]
