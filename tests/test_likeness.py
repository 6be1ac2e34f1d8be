"""The names that code outside torch reads from the iterators of its loaders."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from typing import Any

import pytest
import torch
from torch.utils.data import get_worker_info

from penstock import ClosedError, DataLoader, cache
from penstock.loader.iterator import PROFILED
from tests.datasets import Squares

NAMES = [
    "_IterableDataset_len_called",
    "_auto_collation",
    "_base_seed",
    "_collate_fn",
    "_dataset",
    "_dataset_kind",
    "_drop_last",
    "_index_sampler",
    "_num_workers",
    "_num_yielded",
    "_persistent_workers",
    "_pin_memory",
    "_pin_memory_device",
    "_timeout",
]
WITH_WORKERS = ["_in_order", "_prefetch_factor", "_worker_init_fn"]


@pytest.mark.parametrize("workers", [0, 2])
def test_names_mean_what_they_do_in_torch(workers: int) -> None:
    dataset, batches = Squares(12), [[0, 1, 2], [3, 4], [5]]

    def look(kind: Any) -> dict[str, Any]:
        torch.manual_seed(7)
        iterator = iter(kind(dataset, batch_sampler=batches, num_workers=workers))
        next(iterator)
        known = [name for name in WITH_WORKERS if workers and hasattr(iterator, name)]
        return {name: getattr(iterator, name) for name in [*NAMES, *known]}

    theirs = look(torch.utils.data.DataLoader)
    ours = look(DataLoader)
    assert {name: ours[name] for name in theirs} == theirs


class WhoMadeIt(Squares):
    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        return info.id, os.getpid()


def test_workers_are_processes() -> None:
    iterator = iter(DataLoader(WhoMadeIt(40), batch_size=4, num_workers=2))
    workers = iterator._workers
    assert all(worker.is_alive() and worker.exitcode is None for worker in workers)
    for ids, pids in iterator:
        assert [workers[worker].pid for worker in ids.tolist()] == pids.tolist()
    for worker in workers:
        worker.join(30)
    assert [(worker.is_alive(), worker.exitcode) for worker in workers] == [(False, 0)] * 2
    assert [worker.pid for worker in iterator._workers] == [worker.pid for worker in workers]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_is_not_copied(workers: int) -> None:
    iterator = iter(DataLoader(Squares(4), num_workers=workers))
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(NotImplementedError, match="cannot be pickled"):
            copied(iterator)


def test_whether_it_was_shut_down_is_told() -> None:
    iterator = iter(DataLoader(Squares(40), num_workers=2))
    assert not iterator._shutdown
    iterator._shutdown_workers()
    assert iterator._shutdown


def test_workers_of_an_epoch_that_is_over_are_known() -> None:
    iterator = iter(DataLoader(Squares(40), batch_size=4, num_workers=2))
    list(iterator)
    assert all(worker.pid and not worker.is_alive() for worker in iterator._workers)
    assert [worker.exitcode for worker in iterator._workers] == [0, 0]


def test_a_worker_may_be_killed_by_its_handle() -> None:
    loader = DataLoader(Squares(400), batch_size=4, num_workers=2)
    iterator = iter(loader)
    first, second = iterator._workers
    first.kill()
    first.join(30)
    assert not first.is_alive()
    assert second.is_alive()
    assert len(list(iterator)) == 100
    assert first.exitcode == -signal.SIGKILL
    assert iterator._workers[0].pid != first.pid
    assert loader.stats().workers_replaced == 1


def test_workers_may_be_shut_down() -> None:
    iterator = iter(DataLoader(Squares(400), batch_size=4, num_workers=2, persistent_workers=True))
    workers = iterator._workers
    next(iterator)
    for worker in workers:  # as programs do that want to be sure
        worker.terminate()
    iterator._shutdown_workers()
    assert not any(worker.is_alive() for worker in workers)
    with pytest.raises(ClosedError):
        next(iterator)


def test_without_workers_there_are_none() -> None:
    assert iter(DataLoader(Squares(4)))._workers == []


class Unreadable(Squares):
    def __setstate__(self, state: Any) -> None:
        raise OSError("no such file")


def test_asking_for_workers_that_cannot_start_loses_no_error() -> None:
    iterator = iter(DataLoader(Unreadable(4), num_workers=2, multiprocessing_context="forkserver"))
    assert not any(worker.is_alive() for worker in iterator._workers)
    with pytest.raises(OSError, match="no such file"):
        next(iterator)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_trace_of_torchs_profiler_tells_the_time_spent_waiting(workers: int) -> None:
    with torch.autograd.profiler.profile() as profile:
        list(DataLoader(Squares(4), batch_size=2, num_workers=workers))
    names = [event.key for event in profile.key_averages() if event.key.startswith("enumerate(DataLoader)#")]
    assert names == ["enumerate(DataLoader)#LoaderIterator.__next__"]


def test_a_trace_tells_of_batches_that_lie_in_memory_too() -> None:
    cached = cache(Squares(20), memory="10MB")
    assert len([cached[index] for index in range(20)]) == 20
    batches = iter(DataLoader(cached, batch_size=2))
    next(batches)
    assert batches._ready is not None
    with torch.autograd.profiler.profile() as profile:
        for _ in range(3):
            next(batches)
    assert sum(event.name == PROFILED for event in profile.function_events) == 3
    assert len(list(batches)) == 6
