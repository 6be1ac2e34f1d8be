"""The loop's times, by clocks that the test sets: exact."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from penstock.profiling.recorder import CeilingRecorder, Clocks, LoopRecorder


@dataclass
class Time:
    """A clock for everything; CPU time goes half as fast."""

    now: float = 100.0

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now, lambda: self.now / 2, lambda: self.now / 2)


def run(
    recorder: LoopRecorder, time: Time, wait: float, step: float, batches: int, first: float = 1.0
) -> None:
    """One epoch, to its end."""
    recorder.begin()
    for number in range(batches):
        recorder.ask()
        time.now += wait if number else first
        recorder.got(10)
        time.now += step
    recorder.ask()
    time.now += 0.125
    recorder.end()


def test_waits_and_steps_are_told_apart() -> None:
    time = Time()
    recorder = LoopRecorder(clocks=time.clocks())
    run(recorder, time, wait=0.25, step=0.5, batches=20)
    loop = recorder.loop()
    assert loop is not None
    assert (loop.batches, loop.samples) == (19, 190)
    assert set(loop.waits) == {0.25}
    assert set(loop.steps) == {0.5}
    assert loop.first_batch_s == 1.0
    assert loop.epoch_gap_s is None
    assert (loop.wait_cpu_s, loop.step_cpu_s) == (0.125, 0.25)


def test_what_the_program_does_between_epochs_is_no_part_of_the_loop() -> None:
    time = Time()
    recorder = LoopRecorder(clocks=time.clocks())
    assert recorder.elapsed == 0
    run(recorder, time, wait=0.25, step=0.5, batches=3)
    epoch_s = 1.0 + 2 * 0.25 + 3 * 0.5 + 0.125
    time.now += 1000
    assert recorder.elapsed == pytest.approx(epoch_s)
    run(recorder, time, wait=0.25, step=0.5, batches=3)
    assert recorder.elapsed == pytest.approx(2 * epoch_s)


def test_a_loop_that_always_leaves_its_epoch_early_takes_all_the_time() -> None:
    time = Time()
    recorder = LoopRecorder(clocks=time.clocks())
    for _ in range(3):
        recorder.begin()
        recorder.ask()
        recorder.got(10)
        time.now += 7
    assert recorder.elapsed == 21


def test_the_gap_between_epochs_is_the_loaders_part_of_it() -> None:
    time = Time()
    recorder = LoopRecorder(clocks=time.clocks())
    run(recorder, time, 0.25, 0.5, 3)
    time.now += 1000  # what the program does between two epochs
    run(recorder, time, 0.25, 0.5, 3, first=2.0)
    loop = recorder.loop()
    assert loop is not None
    assert loop.epoch_gap_s == pytest.approx(2.125)
    assert loop.first_batch_s == 1.0
    assert loop.epochs == 2
    assert loop.batches == 4


def test_the_workers_head_start_is_left_out() -> None:
    time = Time()
    recorder = LoopRecorder(settle=4, clocks=time.clocks())
    run(recorder, time, 0.25, 0.5, 20)
    loop = recorder.loop()
    assert loop is not None
    assert loop.batches == 15


def test_of_a_few_batches_none_is_left_out() -> None:
    time = Time()
    recorder = LoopRecorder(settle=4, clocks=time.clocks())
    run(recorder, time, 0.25, 0.5, 4)
    loop = recorder.loop()
    assert loop is not None
    assert loop.batches == 3


def test_a_loop_that_is_left_has_a_last_step_of_unknown_length() -> None:
    time = Time()
    recorder = LoopRecorder(clocks=time.clocks())
    recorder.begin()
    for _ in range(3):
        recorder.ask()
        time.now += 0.25
        recorder.got(10)
        time.now += 0.5
    time.now += 1000
    recorder.begin()  # the program has left the loop, and begins another
    loop = recorder.loop()
    assert loop is not None
    assert loop.steps == (0.5,)


def test_one_batch_is_no_loop() -> None:
    time = Time()
    recorder = LoopRecorder(clocks=time.clocks())
    run(recorder, time, 0.25, 0.5, 1)
    assert recorder.loop() is None


def test_the_first_round_of_the_ceiling_does_not_count() -> None:
    time = Time()
    recorder = CeilingRecorder(time.clocks())
    for length in (9.0, 0.5, 0.5, 0.5):
        recorder.gives()
        time.now += length
        recorder.asked()
        time.now += 7.0  # copying the batch
    ceiling = recorder.ceiling()
    assert ceiling is not None
    assert (ceiling.batches, ceiling.batch_s, ceiling.cpu_s) == (3, 0.5, 0.25)


def test_without_a_round_there_is_no_ceiling() -> None:
    assert CeilingRecorder().ceiling() is None
