"""Samples that take too long: their worker is ended, and the policy decides."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from penstock import BatchTimeoutError, DataLoader, SampleTimeoutError
from penstock.arena import Arena, Notes
from penstock.backends.processes.handle import WorkerHandle
from penstock.backends.processes.wire import Line, pair
from penstock.backends.processes.worker import STACK_SIGNAL
from penstock.plan import Task
from tests.datasets import Squares


class Hangs(Squares):
    """Never comes back from one index; `how` tells where it is then."""

    def __init__(self, bad: int, how: str, size: int = 24) -> None:
        super().__init__(size)
        self.bad, self.how = bad, how

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            self.wait_for_ever()
        return index

    def wait_for_ever(self) -> None:
        if self.how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.how == "pipe":
            os.read(os.pipe()[0], 1)
        elif self.how == "lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        while True:
            pass


HOW = pytest.mark.parametrize("how", ["pipe", "lock", "loop", "stopped"])


@HOW
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_hung_sample_is_left_out_where_the_policy_says_so(how: str, workers: int) -> None:
    loader = DataLoader(Hangs(9, how), batch_size=4, num_workers=workers, on_error="skip", sample_timeout=1.0)
    assert [batch.tolist() for batch in loader] == [
        [index for index in range(start, start + 4) if index != 9] for start in range(0, 24, 4)
    ]
    (bad,) = loader.errors
    assert (bad.index, bad.type) == (9, "penstock.errors.SampleTimeoutError")
    assert ("wait_for_ever" in bad.message) == (how != "stopped")
    assert loader.stats().workers_replaced == 1


class EndsWhenAsked(Squares):
    """Sample 1 takes until its worker is asked for its stack; sample 2, at first, until that is killed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(8)
        self.folder = folder

    def __getitem__(self, index: int) -> Any:
        if index == 1:
            signal.pthread_sigmask(signal.SIG_BLOCK, [STACK_SIGNAL])
            signal.sigwait([STACK_SIGNAL])
        if index == 2 and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            time.sleep(60)
        return index


def test_who_gets_on_to_another_sample_before_the_end_is_not_to_blame_for_that(tmp_path: Path) -> None:
    loader = DataLoader(
        EndsWhenAsked(tmp_path), batch_size=4, num_workers=1, on_error="skip", sample_timeout=1.0
    )
    assert [batch.tolist() for batch in loader] == [[0, 2, 3], [4, 5, 6, 7]]
    assert [bad.index for bad in loader.errors] == [1]
    assert (tmp_path / "killed").exists()


class OfAnotherType(EndsWhenAsked):
    """Sample 2 hangs once, and makes no batch of rows with sample 3, which is looked at after that."""

    def __getitem__(self, index: int) -> Any:
        if index == 3:
            return torch.tensor(3.0)
        return torch.tensor(super().__getitem__(index)) if index != 1 else torch.tensor(1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_late_sample_is_not_tried_again_where_its_batch_is_made_anew(workers: int, tmp_path: Path) -> None:
    loader = DataLoader(
        OfAnotherType(tmp_path), batch_size=4, num_workers=workers, on_error="skip", sample_timeout=1.0
    )
    assert [batch.tolist() for batch in loader] == [[0, 1, 3], [4, 5, 6, 7]]
    assert [bad.index for bad in loader.errors] == [2]


def test_a_task_may_take_longer_than_each_of_its_samples() -> None:
    """Right after its last sample a worker is no longer on one, and has not been idle for the whole task."""
    arena = Arena()
    ours, theirs = pair()
    with contextlib.closing(arena), ours, theirs:
        notes = Notes(arena.memory, 0)
        handle = WorkerHandle(0, Line(ours), notes, {})
        handle.give(Task(1, 0, 0, (0, 1), 2, True, None), b"")
        assert handle.busy().since == 0, "before its first sample"
        next(notes.samples(0, 0, 0))
        on_a_sample = handle.busy()
        notes.clear()
        between = handle.busy()
        assert (on_a_sample.sample, between.sample) == ((0, 0), None)
        assert handle.idle_since < on_a_sample.since < between.since <= time.monotonic()


def test_by_default_it_is_raised_with_its_stack_and_the_next_batch_comes() -> None:
    iterator = iter(DataLoader(Hangs(5, "lock"), batch_size=4, num_workers=2, sample_timeout=1.0))
    assert next(iterator).tolist() == [0, 1, 2, 3]
    with pytest.raises(
        SampleTimeoutError, match=r"sample_timeout=1 seconds.*dataset\[5\] for batch 1"
    ) as caught:
        next(iterator)
    assert caught.value.stack is not None
    assert "in wait_for_ever" in caught.value.stack
    assert isinstance(caught.value, TimeoutError)
    del caught
    assert next(iterator).tolist() == [8, 9, 10, 11]


def test_torchs_timeout_tells_the_stack_too() -> None:
    loader = DataLoader(Hangs(0, "pipe"), batch_size=4, num_workers=1, timeout=1)
    with pytest.raises(BatchTimeoutError, match="DataLoader timed out after 1 seconds") as caught:
        next(iter(loader))
    assert "in wait_for_ever" in str(caught.value)


def test_samples_in_time_are_left_alone() -> None:
    loader = DataLoader(Squares(400), batch_size=4, num_workers=2, sample_timeout=30)
    assert len(list(loader)) == 100
    assert loader.stats().workers_replaced == 0


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield torch.ones(1)
        os.read(os.pipe()[0], 1)


def test_a_stream_that_hangs_ends_the_epoch() -> None:
    iterator = iter(DataLoader(Endless(), batch_size=1, num_workers=1, on_error="skip", sample_timeout=1.0))
    next(iterator)
    with pytest.raises(SampleTimeoutError, match="sample 0 of batch 1 from the iterable dataset in worker 0"):
        next(iterator)


@pytest.mark.parametrize("name", ["sample_timeout", "timeout"])
@pytest.mark.parametrize("limit", [float("inf"), 1e10])
def test_a_limit_may_be_as_large_as_one_likes(name: str, limit: float) -> None:
    options: dict[str, Any] = {name: limit}
    assert len(list(DataLoader(Squares(3), num_workers=1, **options))) == 3


@pytest.mark.parametrize(
    "options",
    [
        *({"sample_timeout": wrong, "num_workers": 1} for wrong in (0, float("nan"), "3")),
        {"sample_timeout": 1},
    ],
    ids=str,
)
def test_wrong_limits_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sample_timeout"):
        DataLoader(Squares(3), **options)
