"""The choice of the number of workers, in made-up worlds."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.stats import Decision
from penstock.tuning import Controller, Limits, Meter, Observation, Span, Totals
from penstock.tuning.controller import (
    IDLE,
    LEAP,
    MOST_AHEAD,
    MOST_EPOCHS,
    MOST_TRIALS,
    PATIENCE,
    REVIEWS,
    TOLERANCE,
)
from penstock.tuning.meter import PATIENT_BATCHES
from penstock.tuning.observation import expected_cycle

PLENTY = 1000


@dataclass(frozen=True)
class World:
    """A machine on which workers don't hinder each other, unless what they do is `serial`; times in ms."""

    step: float = 10.0
    work: float = 30.0
    hand: float = 0.2
    cpus: int = 8
    step_cpu: float = 1.0
    serial: bool = False
    uneven: float = 0.0

    def cycle(self, workers: int, ahead: int = MOST_AHEAD) -> float:
        if workers == 0:
            return self.step + self.work
        pace = self.work if self.serial else self.work / workers
        return max(self.step + self.hand, pace, self.uneven / ahead)

    def seen(self, workers: int, ahead: int = MOST_AHEAD) -> Observation:
        cycle = self.cycle(workers, ahead)
        work = self.work * workers if self.serial else self.work
        main_cpu = (self.step * self.step_cpu + self.hand) / cycle
        figures = (figure / 1e3 for figure in (cycle, self.step, self.hand, work))
        return Observation(workers, *figures, main_cpu)

    def best(self, most: int) -> int:
        """The fewest that keep the best pace, to what is tolerated."""
        best = min(map(self.cycle, range(1, most + 1)))
        return next(n for n in range(1, most + 1) if self.cycle(n) <= (1 + TOLERANCE) * best)


def settle(world: World, controller: Controller, room: int = PLENTY) -> list[int]:
    """The numbers of workers that were tried."""
    tried = []
    while not controller.settled:
        tried.append(controller.workers)
        assert len(tried) <= MOST_TRIALS + 4
        controller.batches += 10
        controller.observe(world.seen(controller.workers, controller.prefetch_factor), room)
    return tried


def chosen(world: World, room: int = PLENTY, most: int = 1000, why_some: str = "") -> int:
    controller = Controller(Limits(world.cpus, most, why_some))
    settle(world, controller, room)
    return controller.workers


# -- what is chosen ------------------------------------------------------------------------------------


def test_one_worker_that_keeps_up_is_enough() -> None:
    assert chosen(World(step=40)) == 1


def test_as_many_as_end_the_waiting_and_no_more() -> None:
    assert chosen(World(step=10, work=30)) == 3
    assert chosen(World(step=10, work=49)) == 5


def test_one_core_is_left_to_a_training_process_that_computes() -> None:
    assert chosen(World(step=20, work=1000, cpus=4)) == 4  # it idles
    assert chosen(World(step=100, work=400, cpus=4)) == 3


def test_a_training_process_that_waits_for_a_gpu_leaves_its_core() -> None:
    assert chosen(World(step=100, work=400, cpus=4, step_cpu=0.1)) == 4


def test_on_a_single_core_there_is_one() -> None:
    assert chosen(World(cpus=1)) == 1


def test_no_more_than_the_memory_has_room_for() -> None:
    assert chosen(World(work=80), room=0) == 1
    controller = Controller(Limits(64, 64))
    controller.observe(World(work=80, cpus=64).seen(1), room=2)
    assert controller.workers == 3


def test_no_more_than_there_may_be() -> None:
    assert chosen(World(work=80), most=2) == 2


def test_more_workers_on_what_only_one_can_do_are_sent_away_again() -> None:
    controller = Controller(Limits(16, 16))
    tried = settle(World(step=1, work=100, cpus=16, serial=True), controller)
    assert tried == [1, LEAP]
    assert controller.workers == 1


def test_none_where_handing_over_costs_more_than_making() -> None:
    assert chosen(World(step=0.0, work=0.3, hand=0.15)) == 0
    assert chosen(World(step=100.0, work=0.3, hand=0.15)) == 0


def test_there_are_workers_where_they_save_the_loop_time() -> None:
    assert chosen(World(step=1.0, work=0.7, hand=0.15)) == 1


def test_there_are_workers_where_there_have_to_be() -> None:
    assert chosen(World(step=0.0, work=0.3, hand=0.15, cpus=1), why_some="timeout") == 1


def test_there_are_workers_for_batches_that_are_slow_to_make_and_to_take_over() -> None:
    assert chosen(World(step=0.0, work=20.0, hand=5.0)) == 4


def woken(workers: int, cycle: float = 1.0) -> Observation:
    """Batches of little work, and little to do for who takes them over; but one comes only so often (ms)."""
    return Observation(workers, cycle / 1e3 / workers, 0.00001, 0.00004, 0.00025, 0.5)


def test_none_where_workers_promise_less_than_the_training_process_by_itself() -> None:
    controller = Controller(Limits(2, 64))
    controller.observe(woken(1), PLENTY)
    assert (controller.workers, controller.settled) == (0, True)
    assert controller.decisions[-1].why == (
        "no workers: making a batch takes 0.25 ms, and it comes from a worker only every 1 ms"
    )


def test_some_where_more_of_them_may_be_faster_than_none() -> None:
    controller = Controller(Limits(16, 64))
    controller.observe(woken(1), PLENTY)
    assert controller.workers > 1


def test_none_is_final() -> None:
    world = World(step=0.0, work=0.3, hand=0.15)
    controller = Controller(Limits(8, 8))
    settle(world, controller)
    controller.observe(world.seen(1), PLENTY)
    assert (controller.workers, controller.settled) == (0, True)


def test_batches_of_unequal_cost_are_made_further_ahead_before_there_are_more_workers() -> None:
    controller = Controller(Limits(8, 8))
    settle(World(step=40, work=20, uneven=320), controller)
    assert (controller.workers, controller.prefetch_factor) == (1, 8)


def test_what_does_not_help_is_undone() -> None:
    world = World(step=10, work=20, uneven=0)
    stuck = Observation(1, 0.04, 0.01, 0.0002, 0.02, 0.5)
    controller = Controller(Limits(8, 8))
    controller.observe(stuck, PLENTY)
    assert controller.prefetch_factor == 4
    controller.observe(stuck, PLENTY)
    assert (controller.prefetch_factor, controller.workers) == (2, 4)
    settle(world, controller)
    assert controller.prefetch_factor == 2


def test_a_prefetch_factor_that_was_given_stays() -> None:
    controller = Controller(Limits(8, 8, prefetch_factor=3))
    settle(World(step=40, work=20, uneven=320), controller)
    assert controller.prefetch_factor == 3


# -- how it gets there ---------------------------------------------------------------------------------

ms = st.floats(0.5, 500, allow_nan=False)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    step=st.floats(0, 500),
    work=ms,
    hand=st.floats(0.05, 1),
    cpus=st.integers(1, 128),
    room=st.integers(0, 200),
)
def test_it_settles_on_the_best(step: float, work: float, hand: float, cpus: int, room: int) -> None:
    world = World(step, work, hand, cpus, step_cpu=0.0)  # the hand-over can keep the training process busy
    controller = Controller(Limits(cpus, 1000, why_some="this is about how many"))
    tried = []
    while not controller.settled:
        tried.append(controller.workers)
        assert len(tried) == len(set(tried)) <= MOST_TRIALS
        left = max(0, room - controller.workers + 1)
        controller.observe(world.seen(controller.workers), left)
    allowed = min(cpus, room + 1)
    assert max(tried) <= allowed
    if allowed == cpus and world.seen(cpus).main_cpu >= IDLE and controller.workers < cpus:
        allowed = max(1, cpus - 1)
    assert controller.workers == world.best(allowed)
    assert controller.decisions[-1].settled


@settings(max_examples=150, deadline=None, derandomize=True)
@given(step=st.floats(0, 100), work=ms, cpus=st.integers(1, 64), seed=st.integers(0, 10**9))
def test_it_settles_however_noisy_it_is(step: float, work: float, cpus: int, seed: int) -> None:
    """With noise of up to 40%, which isn't another world."""
    world, dice = World(step, work, cpus=cpus), random.Random(seed)
    controller = Controller(Limits(cpus, 1000))
    for _ in range(MOST_TRIALS + 20):
        assert 0 <= controller.workers <= cpus
        seen = world.seen(controller.workers or 1)
        cycle, work_s = seen.cycle_s * dice.uniform(0.72, 1.4), seen.work_s * dice.uniform(0.72, 1.4)
        noisy = replace(seen, cycle_s=max(cycle, seen.step_s), work_s=work_s)
        controller.observe(noisy, PLENTY)
    assert controller.settled
    assert sum(decision.settled for decision in controller.decisions) == 1


def test_it_does_not_swing_in_a_noise_that_goes_on() -> None:
    world = World(step=10, work=30)
    controller = Controller(Limits(8, 8))
    settle(world, controller)
    before = list(controller.decisions)
    for factor in (0.6, 1.5, 1.9, 0.55) * 10:
        controller.observe(World(step=10 * factor, work=30 / factor).seen(controller.workers), PLENTY)
    assert controller.decisions == before


def test_it_searches_anew_when_the_work_has_changed_for_good() -> None:
    controller = Controller(Limits(8, 8))
    settle(World(step=10, work=30), controller)
    heavier = World(step=10, work=65)
    for _ in range(PATIENCE):
        controller.observe(heavier.seen(controller.workers), PLENTY)
    assert not controller.settled
    settle(heavier, controller)
    assert controller.workers == 7


def waiting_more(seen: Observation, share: float) -> Observation:
    """The same in a loop that waits for a share more of its time, though the workers have no more to do."""
    return replace(seen, cycle_s=seen.cycle_s / (1 - share))


def test_it_searches_anew_and_patiently_when_the_loop_waits_more_than_it_seemed() -> None:
    controller, world = Controller(Limits(8, 8)), World(step=40, work=20)
    settle(world, controller)
    slower = waiting_more(world.seen(1), 0.35)
    for _ in range(REVIEWS):
        assert controller.settled
        controller.review(slower)
    assert (controller.settled, controller.patient, controller.workers) == (False, True, 1)
    assert controller.decisions[-1].why == (
        "with 1 worker the loop waits 35% of the time (a step takes 40 ms, making a batch 20 ms), "
        "more than it seemed: looking at more batches"
    )
    settle(World(step=40, work=20, uneven=320), controller)
    assert (controller.workers, controller.prefetch_factor) == (1, 8)
    decided = len(controller.decisions)
    for _ in range(3 * REVIEWS):
        controller.review(slower)
    assert len(controller.decisions) == decided


def test_waiting_as_much_as_was_known_or_more_but_once_is_no_reason_to_search() -> None:
    controller, world = Controller(Limits(2, 8)), World(step=10, work=60)
    settle(world, controller)
    seen = world.seen(controller.workers)
    for _ in range(REVIEWS):
        controller.review(replace(seen, cycle_s=2 * seen.cycle_s, step_s=2 * seen.step_s))
        controller.review(seen)
    assert (controller.settled, controller.patient) == (True, False)


def test_a_short_disturbance_changes_nothing() -> None:
    controller = Controller(Limits(8, 8))
    settle(World(), controller)
    for _ in range(PATIENCE):
        for _ in range(PATIENCE - 1):
            controller.observe(World(work=300).seen(controller.workers), PLENTY)
        controller.observe(World().seen(controller.workers), PLENTY)
    assert controller.settled


def test_what_another_iterator_measured_before_it_followed_does_not_count() -> None:
    controller = Controller(Limits(8, 8))
    controller.observe(World().seen(1), PLENTY)
    assert controller.workers == 3
    controller.observe(World().seen(1), PLENTY)
    assert not controller.settled


def test_the_decisions_tell_what_was_measured() -> None:
    controller = Controller(Limits(8, 8))
    settle(World(step=10, work=30), controller)
    assert controller.decisions == [
        Decision(0, 1, 2, False, "it begins with one worker"),
        Decision(
            10,
            3,
            2,
            False,
            "with 1 worker the loop waits 67% of the time (a step takes 10 ms, making a batch 30 ms): "
            "trying 3 workers",
        ),
        Decision(
            20,
            3,
            2,
            True,
            "with 3 workers the loop waits 2% of the time (a step takes 10 ms, making a batch 30 ms) "
            "(batches a second: 1 worker: 33.3; 3 workers: 98)",
        ),
    ]


@pytest.mark.parametrize(
    ("limits", "room", "said"),
    [
        (Limits(2, 64), PLENTY, "one of the 2 CPUs is left to the training process"),
        (Limits(8, 64), 0, "there is no memory for more"),
        (Limits(8, 1), PLENTY, "there can be no more than 1"),
    ],
)
def test_it_says_what_it_is_bound_by(limits: Limits, room: int, said: str) -> None:
    controller = Controller(limits)
    controller.observe(World(step=50, work=100).seen(1), room)
    assert controller.decisions[-1].why.endswith(f", but {said}")


def short_epochs(controller: Controller, number: int, batches: int) -> int:
    """Epochs in which nothing can be measured; how many of them were told that the search is over."""
    told = 0
    for _ in range(number):
        told += controller.begin_epoch()
        controller.batches += batches
    return told


def test_it_says_once_that_nothing_could_be_measured() -> None:
    controller = Controller(Limits(8, 8))
    assert short_epochs(controller, MOST_EPOCHS, 3) == 0
    assert short_epochs(controller, 3 * MOST_EPOCHS, 3) == 1
    why = f"{MOST_EPOCHS} epochs, of which the loop took 3 batches at most, let nothing be measured: "
    stays = Decision(3 * MOST_EPOCHS, 1, 2, True, f"{why}it stays with 1 worker")
    assert controller.decisions[1:] == [stays]


def test_it_goes_on_with_the_search_once_something_is_measured() -> None:
    controller = Controller(Limits(8, 8))
    short_epochs(controller, MOST_EPOCHS + 1, 1)
    assert controller.settled
    controller.observe(World().seen(1), PLENTY)
    assert not controller.settled
    settle(World(step=10, work=30), controller)
    assert controller.workers == 3
    assert short_epochs(controller, 2 * MOST_EPOCHS, 1) == 0


def test_epochs_in_which_something_is_measured_are_no_reason_to_give_up() -> None:
    controller = Controller(Limits(64, 64))
    for step in range(4):
        assert short_epochs(controller, MOST_EPOCHS, 3) == 0
        controller.observe(World(work=1000 - step, cpus=64).seen(controller.workers), PLENTY)


# -- what is expected ----------------------------------------------------------------------------------


def test_what_was_measured_is_expected() -> None:
    world = World(step=10, work=95)
    seen = {1: world.seen(1), 4: world.seen(4)}
    assert expected_cycle(seen, 4) == seen[4].cycle_s


def test_work_is_divided() -> None:
    seen = {1: World(step=10, work=90).seen(1)}
    assert [1e3 * expected_cycle(seen, n) for n in (2, 3, 90)] == pytest.approx([45, 30, 10.2])


def test_between_two_measurements_and_beyond_them_what_grows_goes_on_growing() -> None:
    seen = {n: World(step=1, work=100, serial=True).seen(n) for n in (1, 3)}
    assert [1e3 * expected_cycle(seen, n) for n in (2, 8)] == pytest.approx([100, 100])


# -- how it is measured --------------------------------------------------------------------------------


def fed(meter: Meter, batches: list[tuple[float, float]], work_s: float = 0.03) -> list[Observation]:
    """Batches by (wait, step), of four samples each; a tenth of the time is the training process's."""
    found = []
    cpu = 0.0
    for number, (wait, step) in enumerate(batches, 1):
        cpu += (wait + step) / 10
        totals = Totals(number * work_s, 4 * number, 4 * number, cpu)
        seen = meter.add(wait, step, 0.001, totals)
        if seen is not None:
            found.append(seen)
            meter = Meter(1, totals)
    return found


START = Totals(0.0, 0, 0, 0.0)


def test_an_observation_takes_eight_batches() -> None:
    (seen,) = fed(Meter(1, START), [(0.01, 0.02)] * 8)
    assert seen == Observation(1, *(pytest.approx(x) for x in (0.03, 0.02, 0.001, 0.03, 0.1)))


def test_a_pause_of_the_training_process_does_not_count() -> None:
    (seen,) = fed(Meter(1, START), [(0.01, 0.02)] * 5 + [(0.0, 600.0)] + [(0.01, 0.02)] * 2)
    assert (seen.cycle_s, seen.step_s) == (pytest.approx(0.03), pytest.approx(0.02))


def test_batches_that_come_in_bursts_count_together() -> None:
    bursts = ([(0.09, 0.01)] + [(0.0, 0.01)] * 2) * 3
    (seen,) = fed(Meter(3, START), bursts)
    assert seen.cycle_s == pytest.approx(0.04)


def test_what_had_been_in_store_is_no_pace_to_believe_in() -> None:
    """Four workers that take 20 ms for a batch don't go on giving one every 3 ms."""
    (seen,) = fed(Meter(4, START), [(0.0, 0.003)] * 12, work_s=0.02)
    assert (seen.cycle_s, seen.step_s) == (pytest.approx(0.005), pytest.approx(0.003))
    assert seen.blocked == pytest.approx(0.2)


def test_a_patient_meter_sees_what_is_rare() -> None:
    batches = [(0.12 if number % 12 == 5 else 0.0, 0.02) for number in range(PATIENT_BATCHES)]
    (quick, *_) = fed(Meter(1, START), batches, work_s=0.005)
    assert quick.blocked == 0.0 or quick.cycle_s < 0.021
    assert len(fed(Meter(1, START, patient=True), batches[:-1], work_s=0.005)) == 0
    (seen,) = fed(Meter(1, START, patient=True), batches, work_s=0.005)
    waits = sum(wait for wait, _ in batches) / len(batches)
    assert (seen.cycle_s, seen.step_s) == (pytest.approx(0.02 + waits), pytest.approx(0.02))


def test_nor_does_a_pause_count_to_a_patient_meter() -> None:
    batches = [(0.01, 600.0 if number == 30 else 0.02) for number in range(PATIENT_BATCHES)]
    (seen,) = fed(Meter(1, START, patient=True), batches)
    assert (seen.cycle_s, seen.step_s) == (pytest.approx(0.03), pytest.approx(0.02))


def test_of_short_batches_more_are_looked_at() -> None:
    assert len(fed(Meter(1, START), [(0.0001, 0.0)] * 23, work_s=0.0001)) == 0
    assert len(fed(Meter(1, START), [(0.0001, 0.0)] * 24, work_s=0.0001)) == 1


def test_an_epoch_goes_on_with_what_the_last_one_left() -> None:
    meter = Meter(1, START)
    for _ in range(4):
        for number, wait in ((1, 0.01), (2, 0.01), (3, 9.0)):
            seen = meter.add(wait, 0.02, 0.001, Totals(number * 0.03, 4 * number, 4 * number, 0.0))
            if seen is not None:
                break
        meter.begin_block(START)
    assert seen == Observation(1, *(pytest.approx(x) for x in (0.03, 0.02, 0.001, 0.03, 0.0)))


def test_while_no_worker_made_anything_it_goes_on() -> None:
    meter = Meter(1, START)
    for number in range(1, 30):
        assert meter.add(0.01, 0.02, 0.001, Totals(0.0, 0, 4 * number, 0.0)) is None
    assert meter.add(0.01, 0.02, 0.001, Totals(0.06, 8, 120, 0.0)) == Observation(
        1, *(pytest.approx(x) for x in (0.03, 0.02, 0.001, 0.03, 0.0))
    )


def whole(wait: float, step: float, batches: int = 1) -> tuple[Span, Totals]:
    """An epoch, of batches that take 30 ms of work."""
    span = Span(START)
    for number in range(batches):
        span.add(wait, step if number else 0.0, 0.001)
    span.add_last_step(step)
    return span, Totals(batches * 0.03, 4 * batches, 4 * batches, batches * (wait + step) / 10)


@pytest.mark.parametrize(("batches", "epochs"), [(1, 8), (2, 4), (3, 3)])
def test_an_epoch_too_short_for_a_block_is_one_from_its_first_batch_on(batches: int, epochs: int) -> None:
    meter = Meter(4, START)
    found = [meter.add_block(*whole(0.03, 0.02, batches)) for _ in range(epochs)]
    assert found[:-1] == [None] * (epochs - 1)
    assert found[-1] == Observation(4, *(pytest.approx(x) for x in (0.05, 0.02, 0.001, 0.03, 0.1)))
