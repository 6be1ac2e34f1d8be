"""Workers that die are replaced, and the batches are those of an undisturbed run."""

from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from penstock import DataLoader, WorkerDiedError
from tests.datasets import Squares, equal

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Dies(Squares):
    """At each of these indices the worker ends itself, so many times; samples draw at random."""

    def __init__(self, folder: Path, size: int, deaths: dict[int, int], how: int = signal.SIGKILL) -> None:
        super().__init__(size)
        self.folder, self.deaths, self.how = folder, deaths, how

    def __getitem__(self, index: int) -> Any:
        for time in range(self.deaths.get(index, 0)):
            try:
                (self.folder / f"{index}-{time}").touch(exist_ok=False)
            except FileExistsError:
                continue
            if self.how < 0:
                os._exit(-self.how)
            os.kill(os.getpid(), self.how)
        return index, torch.rand(3), random.random()


def run(dataset: Any, **options: Any) -> list[Any]:
    torch.manual_seed(1)
    return list(DataLoader(dataset, batch_size=4, shuffle=True, **options))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, -3])
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_batches_are_those_of_an_undisturbed_run(workers: int, how: int, tmp_path: Path) -> None:
    undisturbed = run(Dies(tmp_path, 60, {}), num_workers=0)
    dying = Dies(tmp_path, 60, {0: 1, 7: 2, 8: 1, 33: 1, 59: 2}, how)
    assert equal(run(dying, num_workers=workers), undisturbed)
    assert len(list(tmp_path.iterdir())) == 7


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_under_every_start_method(method: str, tmp_path: Path) -> None:
    undisturbed = run(Dies(tmp_path, 20, {}), num_workers=0)
    again = run(Dies(tmp_path, 20, {7: 1}), num_workers=2, multiprocessing_context=method)
    assert equal(again, undisturbed)


def test_a_collate_fn_and_whole_batches(tmp_path: Path) -> None:
    undisturbed = run(Dies(tmp_path, 40, {}), num_workers=0, collate_fn=list)
    assert equal(run(Dies(tmp_path, 40, {7: 2}), num_workers=2, collate_fn=list), undisturbed)


def test_it_is_told_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = DataLoader(Dies(tmp_path, 20, {7: 2}), batch_size=4, num_workers=2)
    with caplog.at_level(logging.WARNING, "penstock"):
        assert len(list(loader)) == 5
    assert loader.stats().workers_replaced == 2
    assert len(caplog.messages) == 2
    assert all("is killed by signal: Killed" in text for text in caplog.messages)
    assert all("on dataset[7] for batch 1" in text for text in caplog.messages)
    assert all("Another worker takes its place" in text for text in caplog.messages)


@pytest.mark.parametrize("retries", [1, 3])
def test_a_sample_that_keeps_killing_fails_like_one_that_raises(retries: int, tmp_path: Path) -> None:
    loader = DataLoader(
        Dies(tmp_path, 20, {7: 99}), batch_size=4, num_workers=2, max_retries=retries, in_order=True
    )
    iterator, found = iter(loader), []
    while True:
        try:
            found.append(next(iterator)[0].tolist())
        except StopIteration:
            break
        except WorkerDiedError as error:
            found.append(getattr(error.sample, "index", None))
    assert found == [[0, 1, 2, 3], 7, *([*range(b, b + 4)] for b in range(8, 20, 4))]
    assert len(list(tmp_path.iterdir())) == retries


def test_workers_that_cannot_even_start_end_the_epoch() -> None:
    def leave(_: int) -> None:
        os._exit(5)

    with pytest.raises(WorkerDiedError, match="exit code 5"):
        list(DataLoader(Squares(20), batch_size=4, num_workers=2, worker_init_fn=leave))


def test_no_retries_is_refused() -> None:
    with pytest.raises(ValueError, match="max_retries should be 1 or more, but got 0"):
        DataLoader(Squares(3), max_retries=0)


class Stream(IterableDataset[Any]):
    """A shuffled stream in every worker, which dies once at one of its items."""

    def __init__(self, folder: Path, bad: int | None) -> None:
        self.folder, self.bad = folder, bad

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        for place, item in enumerate(torch.randperm(30).tolist()):
            if info.id == 1 and place == self.bad:
                try:
                    (self.folder / "died").touch(exist_ok=False)
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            yield info.id, item


@pytest.mark.parametrize("bad", [0, 5, 8, 29])
def test_an_iterator_is_wound_forward_to_where_it_was(bad: int, tmp_path: Path) -> None:
    def epoch(bad: int | None) -> list[Any]:
        torch.manual_seed(1)
        return list(DataLoader(Stream(tmp_path, bad), batch_size=4, num_workers=2))

    undisturbed = epoch(None)
    assert equal(epoch(bad), undisturbed)
    assert (tmp_path / "died").exists()


class Anywhere(Dataset[Any]):
    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> Any:
        return os.getpid(), torch.full((10,), float(index)), torch.rand(1)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_killed_from_outside_at_any_time(persistent: bool) -> None:
    def epoch(kill: bool, chance: random.Random) -> list[Any]:
        kept = []
        for pids, values, drawn in loader:
            kept.append((values, drawn))
            if kill and chance.random() < 0.2:
                try:
                    os.kill(int(pids[0]), signal.SIGKILL)
                except ProcessLookupError:
                    continue
        return kept

    with DataLoader(Anywhere(), batch_size=8, num_workers=2, persistent_workers=persistent, seed=4) as loader:
        loader.set_epoch(0)
        undisturbed = epoch(False, random.Random(0))
        for seed in range(4):
            loader.set_epoch(0)
            assert equal(epoch(True, random.Random(seed)), undisturbed)
