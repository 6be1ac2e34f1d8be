"""`penstock.profile` on loaders whose truth is known, in real time, as far as a busy machine allows."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, IterableDataset, TensorDataset, get_worker_info

import penstock
from penstock.profiling import figures
from penstock.profiling.alone import source_of
from penstock.profiling.data import Loop
from penstock.profiling.diagnose import Cause
from penstock.profiling.figures import alone_s
from penstock.profiling.measure import (
    Details,
    assemble,
    batch_at_most_s,
    machine,
    measure_details,
    measure_loop,
    setting_of,
)
from penstock.profiling.samples import measure_inline, measure_samples
from penstock.profiling.watching import Limits
from tests.profiling.subjects import (
    Beside,
    Cheap,
    Computing,
    Failing,
    Known,
    Locked,
    Rarely,
    Sleeping,
    Threaded,
)

Step = Callable[[Any], None]


def step_of(seconds: float) -> Step:
    return lambda _: time.sleep(seconds)


def profiled(dataset: Any, workers: int, step: float, seconds: float = 1.2, **more: Any) -> penstock.Report:
    loader = penstock.DataLoader(dataset, batch_size=4, num_workers=workers)
    with loader:
        return penstock.profile(loader, step_of(step), seconds=seconds, **more)


@pytest.mark.slow
def test_a_loop_whose_steps_set_the_pace() -> None:
    report = profiled(Sleeping(0.001, 4000), 2, 0.04)  # an epoch's beginning is a small part of it
    assert report.verdict.cause is Cause.NOTHING
    assert report.stall < 0.05
    assert report.data.ceiling is not None
    assert report.data.ceiling.batch_s == pytest.approx(0.04, rel=0.25)


def test_sleeping_samples_want_more_workers() -> None:
    report = profiled(Sleeping(0.02), 1, 0.02)
    assert report.verdict.cause is Cause.STORAGE
    assert report.stall == pytest.approx(0.75, abs=0.08)
    assert report.samples_per_s == pytest.approx(50, rel=0.2)
    samples = report.data.samples
    assert samples is not None
    assert alone_s(samples) == pytest.approx(0.02, rel=0.1)
    assert samples.waits["sleep"] == pytest.approx(samples.wall_s, rel=0.1)
    assert samples.deterministic is True
    assert samples.lines[0].where.startswith(__file__.replace("test_profile", "subjects"))
    assert samples.lines[0].waiting
    assert report.predict(num_workers=2).samples_per_s == pytest.approx(100, rel=0.25)
    assert any(advice.setting.startswith("num_workers=") for advice in report.verdict.advice)


@pytest.mark.slow
def test_computing_samples_are_told_from_waiting_ones() -> None:
    report = profiled(Computing(0.01), 1, 0.01)
    assert report.verdict.cause is Cause.CPU
    samples = report.data.samples
    assert samples is not None
    assert samples.cpu_s == pytest.approx(0.01, rel=0.1)
    assert "compute" in {line.function for line in samples.lines}


@pytest.mark.slow
def test_a_lock_that_workers_share_is_found() -> None:
    report = profiled(Locked(0.02), 2, 0.005, seconds=5, batches=15)
    assert report.verdict.cause is Cause.SERIALISED
    samples = report.data.samples
    assert samples is not None
    assert samples.contended_lock == pytest.approx(0.5, abs=0.15)
    assert report.predict(num_workers=4).samples_per_s == pytest.approx(50, rel=0.25)


@pytest.mark.slow
def test_one_slow_sample_in_a_hundred_is_found_and_named() -> None:
    report = profiled(Rarely(0.001), 2, 0.001, seconds=5, batches=60)
    assert report.verdict.cause is Cause.OUTLIERS
    samples = report.data.samples
    assert samples is not None
    slow = samples.slowest[0]
    assert int(slow.index) % 100 == 7
    assert slow.path == f"images/{slow.index}.png"
    assert slow.seconds == pytest.approx(0.2, rel=0.2)


def test_threads_beside_the_workers_own_are_seen() -> None:
    loader = penstock.DataLoader(Threaded(0.0), batch_size=4, num_workers=1)
    problems: list[str] = []
    samples = measure_samples(source_of(loader, 100), 1.0, problems)
    assert samples.other_cpu_s > 0.5 * (samples.cpu_s + samples.other_cpu_s)


@pytest.mark.slow
def test_waiting_for_the_interpreter_lock_is_told_from_other_waits() -> None:
    loader = penstock.DataLoader(Beside(0.01), batch_size=4, num_workers=1)
    samples = measure_samples(source_of(loader, 100), 2.0, [])
    assert figures.interpreter_share(samples) > 0.1  # 0.7 where nothing else runs
    assert figures.waits_for(samples) == "interpreter"
    alone = measure_samples(source_of(penstock.DataLoader(Computing(0.01), num_workers=1), 100), 1.0, [])
    assert figures.interpreter_share(alone) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("kind", [penstock.DataLoader, TorchDataLoader])
def test_workers_only_cost_where_samples_are_cheap(kind: Any) -> None:
    report = penstock.profile(kind(Cheap(0.0, 10_000), batch_size=8, num_workers=2), seconds=1)
    assert report.verdict.cause is Cause.CHEAP
    assert report.verdict.advice[0].setting == "num_workers=0"
    assert report.data.setting.loader == ("penstock" if kind is penstock.DataLoader else "torch")


@pytest.mark.slow
def test_the_advice_is_followed_and_keeps_its_promise() -> None:
    report = profiled(Sleeping(0.02), 1, 0.03, seconds=2, check=True)
    assert report.checked is not None
    promised = report.checked.predicted
    assert promised is not None
    assert promised.low * 0.9 <= report.checked.samples_per_s <= promised.high * 1.1
    assert report.checked.stall < report.stall


class Here(Known):
    """Tells in which processes it was asked."""

    def __init__(self, log: Any) -> None:
        super().__init__(0.0, 100)
        self.log = log

    def spend(self, index: int) -> None:  # noqa: ARG002
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()}\n")


def test_samples_are_never_made_here_where_there_are_workers(tmp_path: Any) -> None:
    log = tmp_path / "log"
    profiled(Here(log), 1, 0.001, seconds=0.3)
    assert str(os.getpid()) not in set(log.read_text().split())


class Alone(Known):
    """Can only be made where there are no workers, and not in this process."""

    def __init__(self, process: int) -> None:
        super().__init__(0.0, 1000)
        self.process = process

    def spend(self, index: int) -> None:  # noqa: ARG002
        assert torch.utils.data.get_worker_info() is None
        assert os.getpid() != self.process


@pytest.mark.parametrize("kind", [penstock.DataLoader, TorchDataLoader])
@pytest.mark.parametrize("sampler", [None, list(range(1000))], ids=["known order", "any sampler"])
def test_without_workers_it_is_tried_in_another_process(kind: Any, sampler: Any) -> None:
    loader = kind(Alone(os.getpid()), batch_size=10, num_workers=1, shuffle=sampler is None, sampler=sampler)
    problems: list[str] = []
    trial = measure_inline(source_of(loader, 100), 0.2, 1e-5, problems)
    assert trial is not None
    assert (problems, trial.workers, trial.batch_size, trial.main_cpu_s) == ([], 0, 10, 0)
    assert trial.loader == ("penstock" if kind is penstock.DataLoader else "torch")
    assert 0 < trial.cpu_s < 2 / trial.samples_per_s  # on a busy machine it takes longer than it computes


def test_where_it_can_not_be_tried_without_workers_that_is_told() -> None:
    loader = penstock.DataLoader(Failing(0.0), batch_size=4, num_workers=1)
    problems: list[str] = []
    assert measure_inline(source_of(loader, 100), 0.2, 1e-5, problems) is None
    assert problems[0].startswith("num_workers=0 couldn't be tried: ")


def test_the_random_state_is_left_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    data = TensorDataset(torch.arange(100))
    loader = penstock.DataLoader(data, batch_size=4, shuffle=True, num_workers=1, generator=generator)
    torch.manual_seed(5)
    before = generator.get_state().clone(), torch.get_rng_state().clone()
    measure_details(loader, None, lambda _: None, 1.0)
    assert torch.equal(generator.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


class Hanging(Dataset[int]):
    """Hangs where so many workers are at it."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        info = get_worker_info()
        if info is not None and info.num_workers == self.workers:
            threading.Event().wait()
        return index


@pytest.mark.slow
@pytest.mark.parametrize("kind", [penstock.DataLoader, TorchDataLoader])
def test_a_dataset_that_hangs_is_told_of(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.profiling.alone.PATIENCE_S", 2.0)
    hangs = "nothing came for 2 s: the dataset hangs in a worker"
    always = measure_details(kind(Hanging(1), batch_size=4, num_workers=1), None, lambda _: None, 1.0)
    assert always.problems == [f"no sample could be measured: {hangs}"]
    by_two = measure_details(kind(Hanging(2), batch_size=4, num_workers=1), None, lambda _: None, 1.0)
    assert by_two.samples is not None
    assert hangs in by_two.problems
    assert any(problem.startswith("num_workers=2 couldn't be tried") for problem in by_two.problems)
    assert [trial.workers for trial in by_two.trials] == [0, 1]


def test_what_counts_as_hanging_follows_from_the_loop() -> None:
    loop = Loop(3, 12, (1.0, 0.5), (4.0, 5.0), 3.0)
    assert batch_at_most_s(loop, 2) == 11.0
    assert batch_at_most_s(loop, 0) == 5.5
    assert source_of(penstock.DataLoader([1]), 1, 11.0).patience_s == 60 + 20 * 11


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        for number in range(200):
            time.sleep(0.005)
            yield number


@pytest.mark.slow
def test_an_iterable_dataset_is_profiled() -> None:
    report = penstock.profile(penstock.DataLoader(Stream(), batch_size=4, num_workers=1), seconds=1)
    assert report.data.samples is not None
    assert alone_s(report.data.samples) == pytest.approx(0.005, rel=0.3)
    assert report.data.trials
    assert report.verdict.cause is Cause.STORAGE


def test_short_epochs_are_gone_through_again() -> None:
    loader = penstock.DataLoader(Sleeping(0.001, 12), batch_size=4, num_workers=1)
    watch = measure_loop(loader, step_of(0.005), Limits(20, 10), lambda _: None)
    report = penstock.Report(assemble(watch, Details(), setting_of(loader), machine()))
    loop = report.data.loop
    assert loop.epochs >= 6
    assert loop.epoch_gap_s is not None
    spans = report.data.spans
    assert {span.lane for span in spans} == {"loop", "worker 0"}
    of_loop = [span for span in spans if span.lane == "loop"]
    assert [span.name for span in of_loop[:4]] == ["wait", "step", "wait", "step"]
    assert all(one.start_s + one.length_s <= next_.start_s + 1e-9 for one, next_ in pairwise(of_loop))
    assert report.verdict.cause is Cause.STARTUP
    assert report.verdict.advice[0].changes == {"persistent_workers": True}


class TestWhatGoesWrong:
    def test_what_is_no_loader(self) -> None:
        with pytest.raises(TypeError, match="DataLoader"):
            penstock.profile([1, 2, 3])

    def test_what_is_no_step(self) -> None:
        with pytest.raises(TypeError, match="step should be callable"):
            penstock.profile(penstock.DataLoader(Sleeping(0.0)), "x")  # type: ignore[arg-type]

    def test_too_little_to_see(self) -> None:
        loader = penstock.DataLoader(Sleeping(0.0, 0), batch_size=4)
        with pytest.raises(ValueError, match="0 batches"):
            penstock.profile(loader)

    def test_limits_that_allow_nothing(self) -> None:
        with pytest.raises(ValueError, match="3 batches"):
            penstock.profile(penstock.DataLoader(Sleeping(0.0)), batches=1)

    def test_the_datasets_own_error(self) -> None:
        with pytest.raises(KeyError, match="no sample"):
            penstock.profile(penstock.DataLoader(Failing(0.0), batch_size=4, num_workers=1))

    def test_the_steps_own_error_ends_the_workers(self) -> None:
        def step(_: Any) -> None:
            raise ZeroDivisionError

        loader = penstock.DataLoader(Sleeping(0.001), batch_size=4, num_workers=1)
        with pytest.raises(ZeroDivisionError):
            penstock.profile(loader, step)


def test_what_it_is_at_is_shown_where_that_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    penstock.profile(penstock.DataLoader(Sleeping(0.001, 40), batch_size=4), seconds=0.2, live=True)
    said = capsys.readouterr().err
    assert "the loop, with the loader's batches" in said
    assert "measuring samples in a worker" in said
    assert "num_workers=1" in said


@pytest.mark.slow
def test_a_cache_is_followed_as_well() -> None:
    loader = penstock.DataLoader(Computing(0.02, 80), batch_size=4, num_workers=len(os.sched_getaffinity(0)))
    with loader:
        report = penstock.profile(loader, step_of(0.005), seconds=1, check=True)
    assert report.verdict.advice[0].setting == "penstock.cache(dataset)"
    assert report.checked is not None
    assert report.checked.setting == "penstock.cache(dataset)"
    assert report.checked.samples_per_s > 2 * report.samples_per_s
