"""Iterable datasets: the same batches, in the same order, with the same ends as torch's loader gives."""

from __future__ import annotations

import multiprocessing
import random
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import ChainDataset, IterableDataset, get_worker_info

from penstock import DataLoader
from tests.datasets import equal

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
Torch = torch.utils.data.DataLoader
WORKERS = pytest.mark.parametrize("workers", [0, 1, 2, 3])


class Count(IterableDataset[Any]):
    """Counts to `size` in every worker."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        return iter(range(self.size))


class Shares(Count):
    """Shares `size` unequally between the workers: the first gets most."""

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        id_, workers = (info.id, info.num_workers) if info else (0, 1)
        edges = [self.size * (w * 2) // (w * 2 + 1) if w < workers else self.size for w in range(workers + 1)]
        edges = sorted(edges)
        for value in range(edges[id_], edges[id_ + 1]):
            yield {"value": torch.tensor([float(value)]), "worker": id_}


class Sized(Count):
    def __len__(self) -> int:
        return self.size // 2


class Point(NamedTuple):
    x: int
    y: torch.Tensor


class Odd(Count):
    """Samples of which every seventh has another shape or type."""

    def __iter__(self) -> Iterator[Any]:
        for value in range(self.size):
            yield Point(value, torch.zeros(2 if value % 7 else 3)) if value % 5 else "text"


class Broken(Count):
    """An iterator of its own that raises at one value and goes on after it."""

    def __iter__(self) -> Iterator[Any]:
        self.at = 0
        return self

    def __next__(self) -> Any:
        self.at += 1
        if self.at == 5:
            raise ValueError("the fifth is broken")
        if self.at > self.size:
            raise StopIteration
        return self.at


def both(dataset: Any, **options: Any) -> tuple[list[Any], list[Any]]:
    return list(DataLoader(dataset, **options)), list(Torch(dataset, **options))


@WORKERS
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [0, 1, 7, 32])
def test_every_worker_goes_through_the_whole_dataset(workers: int, drop_last: bool, size: int) -> None:
    ours, theirs = both(Count(size), batch_size=4, drop_last=drop_last, num_workers=workers)
    assert equal(ours, theirs)


@WORKERS
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_unequal_shares_come_by_turns(workers: int, batch_size: int | None) -> None:
    ours, theirs = both(Shares(40), batch_size=batch_size, num_workers=workers)
    assert equal(ours, theirs)


@WORKERS
def test_chained_datasets(workers: int) -> None:
    ours, theirs = both(ChainDataset([Count(5), Shares(9)]), batch_size=None, num_workers=workers)
    assert equal(ours, theirs)


@WORKERS
def test_a_collate_fn_gets_the_samples_as_they_are(workers: int) -> None:
    ours, theirs = both(Odd(20), batch_size=3, num_workers=workers, collate_fn=list)
    assert equal(ours, theirs)


@WORKERS
def test_samples_that_do_not_fit_together_fail_batch_by_batch_as_in_torch(workers: int) -> None:
    def outcomes(kind: Any) -> list[Any]:
        iterator, found = iter(kind(Odd(30), batch_size=3, num_workers=workers)), []
        while True:
            try:
                found.append(next(iterator))
            except StopIteration:
                return found
            except (RuntimeError, TypeError, AttributeError) as error:
                found.append(type(error))

    assert equal(outcomes(DataLoader), outcomes(Torch))


@WORKERS
def test_it_goes_on_after_an_error_where_the_iterator_does(workers: int) -> None:
    def outcomes(kind: Any) -> list[Any]:
        iterator, found = iter(kind(Broken(12), batch_size=2, num_workers=workers)), []
        while True:
            try:
                found.append(next(iterator))
            except StopIteration:
                return found
            except ValueError:
                found.append("broken")

    ours = outcomes(DataLoader)
    assert "broken" in ours
    assert equal(ours, outcomes(Torch))


def test_an_error_names_the_sample_of_the_stream() -> None:
    with pytest.raises(ValueError, match="the fifth is broken") as caught:
        list(DataLoader(Broken(12), batch_size=2, num_workers=1))
    assert "sample 0 of batch 2 from the iterable dataset in worker 0" in "\n".join(caught.value.__notes__)


class NotIterable(Count):
    def __iter__(self) -> Iterator[Any]:
        raise OSError("no such bucket")


@WORKERS
def test_an_error_of_iter_is_raised(workers: int) -> None:
    with pytest.raises(OSError, match="no such bucket"):
        list(DataLoader(NotIterable(3), num_workers=workers))


def test_workers_persist_and_begin_anew() -> None:
    loader = DataLoader(Shares(20), batch_size=4, num_workers=2, persistent_workers=True)
    first = list(loader)
    pids = [worker.pid for worker in iter(loader)._session._backend._crew.values()]
    assert equal(list(loader), first)
    assert pids == [worker.pid for worker in loader._iterator._session._backend._crew.values()]
    iterator = iter(loader)
    next(iterator)
    assert equal(list(loader), first), "after an epoch that was left early"
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_length_is_warned_of_in_torchs_words(workers: int) -> None:
    def warned(kind: Any) -> list[str]:
        loader = kind(Sized(8), batch_size=None, num_workers=workers)
        len(loader)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(loader)
        texts = [str(warning.message) for warning in caught]
        return [text for text in texts if text.startswith("Length of")]

    def anonymous(texts: list[str]) -> list[str]:
        return [text.split(" object at ")[0] + text.split(">")[-1] for text in texts]

    ours = anonymous(warned(DataLoader))
    assert ours
    assert ours == anonymous(warned(Torch))


class Noisy(Count):
    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.size):
            yield torch.rand(1), random.random(), np.random.rand(1)


def test_workers_draw_differently_and_the_same_for_the_same_seed() -> None:
    def run() -> list[Any]:
        torch.manual_seed(3)
        return list(DataLoader(Noisy(4), batch_size=2, num_workers=2))

    batches = run()
    assert len(torch.cat([leaf.double().ravel() for batch in batches for leaf in batch]).unique()) == 24
    assert equal(run(), batches)


class ShuffledShards(Count):
    """Every worker shuffles all numbers in the same way and takes its share, as WebDataset's kind do."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.order = np.random.default_rng(5)

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        step, first = (info.num_workers, info.id) if info else (1, 0)
        yield from self.order.permutation(self.size)[first::step].tolist()


@WORKERS
def test_a_generator_that_all_workers_share_their_work_out_by_is_left_alone(workers: int) -> None:
    arguments: dict[str, Any] = {"batch_size": 3, "num_workers": workers, "persistent_workers": workers > 0}

    def epochs(loader: Any) -> list[Any]:
        made = loader(ShuffledShards(20), **arguments)
        return [list(made) for _ in range(2)]

    ours = epochs(DataLoader)
    assert sorted(torch.cat(ours[1]).tolist()) == list(range(20))
    assert equal(ours, epochs(Torch))


@WORKERS
def test_leaving_an_endless_stream(workers: int) -> None:
    class Endless(Count):
        def __iter__(self) -> Iterator[Any]:
            while True:
                yield torch.ones(2)

    for _, batch in zip(range(20), DataLoader(Endless(0), batch_size=2, num_workers=workers), strict=False):
        assert batch.shape == (2, 2)


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver"])
def test_other_start_methods(method: str) -> None:
    options: dict[str, Any] = {"batch_size": 3, "num_workers": 2, "multiprocessing_context": method}
    ours = list(DataLoader(Shares(20), **options))
    assert equal(ours, list(Torch(Shares(20), **{**options, "multiprocessing_context": "fork"})))


class Gated(Count):
    """Worker 0 waits at a gate before its first sample."""

    def __init__(self, size: int, gate: Any) -> None:
        super().__init__(size)
        self.gate = gate

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        if info.id == 0:
            self.gate.wait(30)
        return ([info.id, value] for value in range(self.size))


def test_out_of_order_a_slow_worker_does_not_keep_the_others_waiting() -> None:
    gate = multiprocessing.get_context("fork").Event()
    loader = DataLoader(Gated(200, gate), batch_size=None, num_workers=2, in_order=False, timeout=20)
    batches = iter(loader)
    assert [next(batches) for _ in range(200)] == [[1, value] for value in range(200)]
    gate.set()
    assert list(batches) == [[0, value] for value in range(200)]
