"""The iterator that a profiled loop gets, and how many samples it takes a batch to hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

import penstock
from penstock.profiling.measure import watch_of
from penstock.profiling.recorder import NOT_COUNTED, CeilingRecorder, Clocks, LoopRecorder
from penstock.profiling.watching import MOST_SPANS, Limits, Watch, samples_in
from penstock.stats import task_observers

IMAGES = TensorDataset(torch.zeros(10, 3, 8, 8), torch.arange(10))
LOADERS = [DataLoader, penstock.DataLoader]


def counted(loader: Any) -> list[int]:
    return [samples_in(batch, loader) for batch in loader]


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize(
    "collate",
    [
        None,
        lambda samples: samples,
        lambda samples: tuple(zip(*samples, strict=True)),
        lambda samples: [torch.cat([image.flatten() for image, _ in samples]), len(samples)],
        lambda samples: {"images": torch.stack([image for image, _ in samples])},
        str,
    ],
    ids=["torch's", "a list", "zipped", "joined", "a dict", "opaque"],
)
def test_the_collation_does_not_matter(make: Callable[..., Any], collate: Any) -> None:
    assert counted(make(IMAGES, batch_size=5, collate_fn=collate)) == [5, 5]


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize("collate", [None, lambda samples: samples], ids=["torch's", "a list"])
def test_the_last_batch_is_shorter(make: Callable[..., Any], collate: Any) -> None:
    assert counted(make(IMAGES, batch_size=4, collate_fn=collate)) == [4, 4, 2]
    batches = BatchSampler(SequentialSampler(range(10)), 4, drop_last=False)
    assert counted(make(IMAGES, batch_sampler=batches, collate_fn=collate)) == [4, 4, 2]


@pytest.mark.parametrize("make", LOADERS)
def test_the_datasets_own_batches_count_as_one(make: Callable[..., Any]) -> None:
    assert counted(make(torch.zeros(3, 7), batch_size=None)) == [1, 1, 1]


@pytest.mark.parametrize("make", LOADERS)
def test_strings_are_counted(make: Callable[..., Any]) -> None:
    assert counted(make([("a", "b")] * 6, batch_size=4)) == [4, 2]


def ignore(_: Watch) -> None:
    """Neither shown nor ended."""


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize("taken", [1, 5])
def test_a_loop_that_leaves_its_epochs_gets_batches_until_it_is_over(
    make: Callable[..., Any], taken: int
) -> None:
    loader = make(IMAGES, batch_size=1)
    watch = watch_of(loader, Limits(4, 1000), True, ignore)
    for _ in range(20):
        for number, batch in enumerate(watch.iterate(lambda: iter(loader), ignore), 1):
            assert batch[0].shape == (1, 3, 8, 8)
            if number == taken:
                break
    assert watch.over


def test_what_is_done_at_the_end_of_an_epoch_is_not_of_the_loop() -> None:
    loader, listening = penstock.DataLoader(IMAGES), []
    watch = watch_of(loader, Limits(None, 1000), True, ignore)
    for _ in watch.iterate(lambda: iter(loader), lambda _: listening.extend(task_observers)):
        pass
    assert watch.iterating is False
    assert listening == []


@pytest.mark.parametrize(("tick_s", "rounds"), [(1e-6, 1000), (1e-5, 999), (1e-3, 30), (5.0, 20)])
def test_a_quick_loop_has_more_rounds_with_one_batch(tick_s: float, rounds: int) -> None:
    loader = penstock.DataLoader(IMAGES, batch_size=1)
    watch = watch_of(loader, Limits(4, 1000), True, ignore)
    moments = itertools.count(0, tick_s)
    watch.ceiling = CeilingRecorder(Clocks(*[lambda: next(moments)] * 3))  # two ticks a round
    while not watch.over:
        for _ in watch.iterate(lambda: iter(loader), ignore):
            pass
    ceiling = watch.ceiling.ceiling()
    assert ceiling is not None
    assert ceiling.batch_s == pytest.approx(2 * tick_s)
    assert ceiling.batches == pytest.approx(rounds, abs=2)


class Ticking:
    """A loop with a clock of its own: waits and steps are only arithmetic."""

    def __init__(self, wait_s: float, step_s: float) -> None:
        self.wait_s, self.step_s, self.now = wait_s, step_s, 0.0
        self.watch = watch_of(DataLoader([0], batch_size=None), Limits(None, 1000), False, ignore)
        self.watch.recorder = LoopRecorder(0, Clocks(self.clock, self.clock, self.clock))

    def clock(self) -> float:
        return self.now

    def batches(self, count: int) -> Iterator[int]:
        for number in range(count):
            self.now += self.wait_s
            yield number

    @property
    def looked_at(self) -> int:
        return sum(samples != NOT_COUNTED for samples in self.watch.recorder._batches.samples)

    def epoch(self, count: int) -> int:
        """How many of its batches were looked at."""
        before, taken = self.looked_at, 0
        for number in self.watch.iterate(lambda: self.batches(count), ignore):
            self.now += self.step_s
            assert number == taken
            taken += 1
        assert taken == count
        return self.looked_at - before


def test_of_very_many_batches_some_are_looked_at_and_tell_the_same() -> None:
    loop = Ticking(wait_s=20e-6, step_s=60e-6)
    assert loop.epoch(MOST_SPANS // 2) == MOST_SPANS // 2  # the time line wants all
    seen = loop.epoch(100_000)
    assert 5_000 < seen < 10_000
    recorder = loop.watch.recorder
    figures = recorder.loop()
    assert figures is not None
    assert figures.samples == figures.batches == recorder.batches - 2 == MOST_SPANS // 2 + 100_000 - 2
    assert figures.waited_s / figures.batches == pytest.approx(20e-6)
    assert figures.stepped_s / figures.batches == pytest.approx(60e-6)
    assert recorder.elapsed == pytest.approx(80e-6 * (100_000 + MOST_SPANS // 2))


def test_short_epochs_with_time_between_them_are_passed_by_too() -> None:
    loop = Ticking(wait_s=20e-6, step_s=260e-6)
    loop.epoch(MOST_SPANS // 2)
    for _ in range(10):
        loop.now += 0.3
        assert loop.epoch(100) < 10


@pytest.mark.parametrize("rare", [500, 997])
@pytest.mark.parametrize("what", ["wait_s", "step_s"])
def test_what_happens_now_and_then_is_not_missed(what: str, rare: int) -> None:
    loop = Ticking(wait_s=50e-6, step_s=1e-3)
    usual = getattr(loop, what)
    for count, _ in enumerate(loop.watch.iterate(lambda: loop.batches(40_000), ignore), 1):
        loop.now += loop.step_s
        setattr(loop, what, 0.2 if count % rare == 0 else usual)
    figures = loop.watch.recorder.loop()
    assert figures is not None
    total = 40_000 * usual + 40_000 // rare * (0.2 - usual)
    found = figures.waited_s if what == "wait_s" else figures.stepped_s
    assert found == pytest.approx(total, rel=0.02)
    assert loop.watch.recorder.spent == pytest.approx(loop.watch.recorder.elapsed, rel=0.01)


def test_a_slow_part_counts_for_what_it_took() -> None:
    loop = Ticking(wait_s=0.005, step_s=0.001)
    loop.epoch(2500)
    loop.wait_s = 50e-6
    loop.epoch(37_500)
    figures = loop.watch.recorder.loop()
    assert figures is not None
    assert figures.waited_s == pytest.approx(2500 * 0.005 + 37_500 * 50e-6, rel=0.01)


def test_the_first_batch_of_every_epoch_is_looked_at() -> None:
    loop = Ticking(wait_s=20e-6, step_s=60e-6)
    loop.epoch(10_000)
    for _ in range(50):
        loop.now += 0.003  # what the program does between its epochs
        assert loop.epoch(20) >= 1
    figures = loop.watch.recorder.loop()
    assert figures is not None
    assert figures.epochs == 51
    assert figures.epoch_gap_s == pytest.approx(20e-6, rel=0.01)


def test_all_batches_that_take_their_time_are_looked_at() -> None:
    loop = Ticking(wait_s=0.001, step_s=0.002)
    assert loop.epoch(10_000) == 10_000


def test_a_loop_that_gets_slow_is_looked_at_again() -> None:
    loop = Ticking(wait_s=20e-6, step_s=60e-6)
    loop.epoch(10_000)
    loop.wait_s = 1.0
    assert loop.epoch(100) >= 98


def test_passing_by_ends_when_there_are_fewer_batches() -> None:
    loop = Ticking(wait_s=20e-6, step_s=60e-6)
    loop.epoch(10_000)
    loop.step_s = 0.01
    assert loop.epoch(1000) >= 950


def test_so_many_batches_are_exactly_so_many() -> None:
    loader = penstock.DataLoader(TensorDataset(torch.arange(6000)), batch_size=1)
    watch = watch_of(loader, Limits(5000, 1000), False, ignore)
    assert len(list(watch.iterate(lambda: iter(loader), ignore))) == 5000
