"""Samples that take too long: their worker is ended, and the policy decides."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from penstock import BatchTimeoutError, DataLoader, SampleTimeoutError
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
@pytest.mark.parametrize("workers", [1, 2])
def test_a_hung_sample_is_left_out_where_the_policy_says_so(how: str, workers: int) -> None:
    loader = DataLoader(Hangs(9, how), batch_size=4, num_workers=workers, on_error="skip", sample_timeout=1.0)
    assert [batch.tolist() for batch in loader] == [
        [index for index in range(start, start + 4) if index != 9] for start in range(0, 24, 4)
    ]
    (bad,) = loader.errors
    assert (bad.index, bad.type) == (9, "penstock.errors.SampleTimeoutError")
    assert ("wait_for_ever" in bad.message) == (how != "stopped")
    assert loader.stats().workers_replaced == 1


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
    loader = DataLoader(Hangs(0, "pipe"), batch_size=4, num_workers=1, timeout=2)
    with pytest.raises(BatchTimeoutError, match="DataLoader timed out after 2 seconds") as caught:
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


@pytest.mark.parametrize("options", [{"sample_timeout": 0, "num_workers": 1}, {"sample_timeout": 1}], ids=str)
def test_wrong_limits_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sample_timeout"):
        DataLoader(Squares(3), **options)
