"""Samples that can't be made: left out, replaced or raised, and told of."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, default_collate

from penstock import BadSample, DataLoader, TooManyErrorsError, WorkerDiedError
from tests.datasets import Squares, equal

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
WORKERS = pytest.mark.parametrize("workers", [0, 1, 3])
BAD = {0, 5, 6, 8, 9, 10, 11, 22}


class Flawed(Squares):
    """Of `BAD`, every third is None, and the others raise; has torchvision's list of paths."""

    def __init__(self, size: int = 24, bad: set[int] | None = None) -> None:
        super().__init__(size)
        self.bad = BAD if bad is None else bad
        self.samples = [(f"images/{index}.jpg", 0) for index in range(size)]

    def __getitem__(self, index: int) -> Any:
        if index in self.bad:
            if index % 3 == 0:
                return None
            raise ValueError(f"{index} is broken")
        return {
            "index": index,
            "x": torch.full((3,), float(index)),
            "noise": torch.rand(2),
        }


def good(indices: list[int]) -> list[int]:
    return [index for index in indices if index not in BAD]


def batches(size: int, batch: int) -> list[list[int]]:
    return [list(range(start, min(size, start + batch))) for start in range(0, size, batch)]


def indices_of(loader: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


COLLATES = pytest.mark.parametrize(
    "collate_fn", [None, lambda samples: default_collate(samples)], ids=["rows", "collated"]
)


@WORKERS
@COLLATES
@pytest.mark.parametrize("batch_size", [1, 2, 4, 24])
def test_skipped_samples_are_missing_and_all_others_are_there(
    workers: int, collate_fn: Any, batch_size: int
) -> None:
    loader = DataLoader(
        Flawed(), batch_size=batch_size, num_workers=workers, on_error="skip", collate_fn=collate_fn
    )
    found = list(loader)
    expected = [kept for kept in map(good, batches(24, batch_size)) if kept]
    assert [batch["index"].tolist() for batch in found] == expected
    assert all(batch["x"][:, 0].tolist() == batch["index"].tolist() for batch in found)
    assert loader.stats().samples == 24 - len(BAD)
    assert loader.stats().batches_left_out == len(batches(24, batch_size)) - len(expected)


@WORKERS
@COLLATES
def test_replaced_samples_keep_the_size_and_are_the_same_every_time(workers: int, collate_fn: Any) -> None:
    def run(workers: int) -> list[Any]:
        loader = DataLoader(
            Flawed(), batch_size=5, num_workers=workers, on_error="replace", seed=3, collate_fn=collate_fn
        )
        return list(loader)

    found = run(workers)
    assert equal(found, run(2))
    assert [len(batch["index"]) for batch in found] == [5, 5, 5, 5, 4]
    flat = [index for batch in found for index in batch["index"].tolist()]
    assert not BAD & set(flat)
    assert all(flat[place] == place for place in range(24) if place not in BAD)


@WORKERS
def test_what_was_bad_is_told(workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "errors.jsonl"
    loader = DataLoader(
        Flawed(), batch_size=4, num_workers=workers, on_error="skip", errors_file=file, seed=1
    )
    with caplog.at_level(logging.WARNING, "penstock"):
        list(loader)
    assert {bad.index for bad in loader.errors} == BAD
    assert len(loader.errors) == len(caplog.messages) == len(BAD)
    told = {bad.index: bad for bad in loader.errors}[5]
    assert isinstance(told, BadSample)
    assert (told.batch, told.position, told.epoch) == (1, 1, 0)
    assert (told.type, told.message, told.path) == ("ValueError", "5 is broken", "images/5.jpg")
    assert "in __getitem__" in told.traceback
    assert "NoneSampleError" in {bad.index: bad for bad in loader.errors}[6].type
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["index"] for line in lines} == BAD
    assert {line["path"] for line in lines} == {f"images/{index}.jpg" for index in BAD}
    list(loader)
    assert len(loader.errors) == 2 * len(BAD)
    assert loader.errors[-1].epoch == 1


@pytest.mark.parametrize(
    "file", ["no/folder", "/dev/full", "a\0b"], ids=["no folder", "a full disk", "no name"]
)
def test_errors_can_be_written_nowhere(file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = DataLoader(Flawed(), batch_size=4, on_error="skip", errors_file=tmp_path / file)
    with caplog.at_level(logging.WARNING, "penstock"):
        assert len(list(loader)) == 5
    assert len([text for text in caplog.messages if "can't be written" in text]) == 1
    assert len(loader.errors) == len(BAD)


@WORKERS
def test_too_many_end_the_run_with_a_summary(workers: int) -> None:
    loader = DataLoader(Flawed(), batch_size=4, num_workers=workers, on_error="skip", max_errors=4)
    found = []
    with pytest.raises(TooManyErrorsError, match="max_errors=4 allows") as caught:
        found.extend(batch["index"].tolist() for batch in loader)
    assert "x ValueError" in str(caught.value)
    assert found == [[1, 2, 3], [4, 7]]
    list(DataLoader(Flawed(), batch_size=4, num_workers=workers, on_error="skip", max_errors=len(BAD)))


@pytest.mark.parametrize(("share", "fails"), [(0.05, True), (0.2, False)])
def test_a_share_of_bad_samples(share: float, fails: bool) -> None:
    bad = set(range(0, 3000, 10))
    loader = DataLoader(Flawed(3000, bad), batch_size=50, on_error="skip", max_errors=share)
    if fails:
        with pytest.raises(TooManyErrorsError):
            list(loader)
    else:
        assert sum(len(batch["index"]) for batch in loader) == 2700


@WORKERS
def test_by_default_the_first_one_is_raised(workers: int) -> None:
    with pytest.raises(ValueError, match="5 is broken"):
        list(DataLoader(Flawed(bad={5}), batch_size=4, num_workers=workers))
    with pytest.raises(TypeError, match=r"returned None"):
        list(DataLoader(Flawed(bad={6}), batch_size=4, num_workers=workers, none_is_error=True))


class Stops(Dataset[int]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        return next(iter([])) if index == 7 else index


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("collate_fn", [None, list])
def test_a_sample_that_raises_stop_iteration_does_not_end_the_epoch(workers: int, collate_fn: Any) -> None:
    with (
        DataLoader(Stops(), batch_size=4, num_workers=workers, collate_fn=collate_fn) as loader,
        pytest.raises(RuntimeError, match=r"dataset\[i\] raised StopIteration") as raised,
    ):
        list(loader)
    assert "on dataset[7] for batch 1" in "; ".join(raised.value.__notes__)
    kept = DataLoader(Stops(), batch_size=4, num_workers=workers, collate_fn=collate_fn, on_error="skip")
    assert [len(batch) for batch in kept] == [4, 3, 4]


def test_none_may_be_a_sample() -> None:
    loader = DataLoader(Flawed(bad={6}), batch_size=4, on_error="skip", none_is_error=False, collate_fn=list)
    assert sum(sample is None for batch in loader for sample in batch) == 1


@WORKERS
def test_without_batches(workers: int) -> None:
    loader = DataLoader(Flawed(), batch_size=None, num_workers=workers, on_error="skip")
    assert [sample["index"] for sample in loader] == good(list(range(24)))


class Many(Flawed):
    def __getitems__(self, indices: list[int]) -> Any:
        return [self[index] if index % 3 else 1 / 0 if index in BAD else self[index] for index in indices]


@WORKERS
def test_a_batch_fetched_at_once_is_tried_one_by_one(workers: int) -> None:
    loader = DataLoader(Many(), batch_size=4, num_workers=workers, on_error="skip")
    assert indices_of(loader) == [kept for kept in map(good, batches(24, 4)) if kept]


class Mute(Exception):
    def __str__(self) -> str:
        raise AttributeError("path")


class Muted(Squares):
    def __getitem__(self, index: int) -> Any:
        if index == 5:
            raise Mute
        return super().__getitem__(index)


@WORKERS
def test_an_exception_whose_message_raises_is_one_bad_sample(workers: int) -> None:
    loader = DataLoader(Muted(8), batch_size=4, num_workers=workers, on_error="skip")
    assert len(list(loader)) == 2
    assert [(bad.index, bad.message) for bad in loader.errors] == [(5, "(its message can't be shown)")]


def test_all_bad() -> None:
    loader = DataLoader(Flawed(8, set(range(8))), batch_size=2, num_workers=2, on_error="skip")
    assert list(loader) == []
    assert len(loader.errors) == 8
    with pytest.raises(ValueError, match="is broken"):
        list(DataLoader(Flawed(8, {1, 2, 4, 5, 7, *range(8)} - {0, 3, 6}), batch_size=8, seed=1))


def test_the_path_behind_a_subset() -> None:
    loader = DataLoader(Subset(Flawed(), [1, 5]), batch_size=2, on_error="skip")
    list(loader)
    assert [bad.path for bad in loader.errors] == ["images/5.jpg"]


class Killer(Flawed):
    def __getitem__(self, index: int) -> Any:
        if index == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Keyed(Squares):
    def __getitem__(self, index: Any) -> Any:
        raise ValueError("broken")


def test_the_file_of_errors_takes_any_index(tmp_path: Path) -> None:
    batches, file = [[{(1, 2): 3}, (4, 5)]], tmp_path / "errors.jsonl"
    loader = DataLoader(Keyed(2), batch_sampler=batches, on_error="skip", errors_file=file)
    assert list(loader) == []
    assert [json.loads(line)["index"] for line in file.read_text().splitlines()] == ["{(1, 2): 3}", [4, 5]]


@pytest.mark.parametrize("policy", ["skip", "replace"])
@COLLATES
def test_a_sample_that_kills_its_workers_is_a_bad_one(policy: str, collate_fn: Any) -> None:
    loader = DataLoader(
        Killer(bad=set()),
        batch_size=4,
        num_workers=2,
        on_error=policy,
        max_retries=2,
        seed=2,
        collate_fn=collate_fn,
    )
    found = indices_of(loader)
    assert len(found[3]) == (3 if policy == "skip" else 4)
    assert 13 not in found[3]
    assert [index for place, batch in enumerate(found) if place != 3 for index in batch] == [
        index for index in range(24) if index // 4 != 3
    ]
    (bad,) = loader.errors
    assert (bad.index, bad.type) == (13, "penstock.errors.WorkerDiedError")
    assert loader.stats().workers_replaced == 2


class KillsMost(Flawed):
    """Two samples of three end their worker; with `good` 0, all of them."""

    def __init__(self, good: int = 3) -> None:
        super().__init__(12, bad=set())
        self.good = good

    def __getitem__(self, index: int) -> Any:
        if not self.good or index % self.good:
            sys.exit(3)
        return super().__getitem__(index)


@COLLATES
def test_what_kills_in_the_place_of_a_killer_is_replaced_as_well(collate_fn: Any) -> None:
    options: dict[str, Any] = {"max_retries": 1, "seed": 2, "collate_fn": collate_fn, "on_error": "replace"}
    found = [indices_of(DataLoader(KillsMost(), 4, num_workers=workers, **options)) for workers in (1, 2)]
    assert found[0] == found[1]
    assert [len(batch) for batch in found[0]] == [4, 4, 4]
    assert all(index % 3 == 0 for batch in found[0] for index in batch)


def test_where_every_one_kills_that_is_told() -> None:
    loader = DataLoader(KillsMost(good=0), 4, num_workers=2, max_retries=1, seed=2, on_error="replace")
    with pytest.raises(WorkerDiedError, match="exit code 3"):
        indices_of(loader)


class Stream(IterableDataset[Any]):
    def __init__(self, forever: bool = False) -> None:
        self.at, self.forever = 0, forever

    def __iter__(self) -> Iterator[Any]:
        self.at = 0
        return self

    def __next__(self) -> Any:
        self.at += 1
        if self.at > 12:
            raise StopIteration
        if self.at % 3 == 0 or self.forever:
            raise ValueError(f"item {self.at}")
        return self.at


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_a_stream_goes_on_where_its_iterator_does(workers: int, policy: str) -> None:
    loader = DataLoader(Stream(), batch_size=3, num_workers=workers, on_error=policy)
    assert [batch.tolist() for batch in loader] == [[1, 2, 4], [5, 7, 8], [10, 11]]
    assert [bad.message for bad in loader.errors] == ["item 3", "item 6", "item 9", "item 12"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": 3, "drop_last": True}], ids=str)
def test_bad_samples_after_a_streams_last_batch_are_told_of(workers: int, options: dict[str, Any]) -> None:
    loader = DataLoader(Stream(), num_workers=workers, on_error="skip", **options)
    given = sum(len(batch) for batch in loader)
    assert given == (8 if options["batch_size"] == 2 else 6)
    assert [bad.message for bad in loader.errors] == ["item 3", "item 6", "item 9", "item 12"]
    with (
        DataLoader(Stream(), num_workers=workers, on_error="skip", max_errors=3, **options) as limited,
        pytest.raises(TooManyErrorsError, match="item 12"),
    ):
        list(limited)


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_error": "ignore"},
        {"max_errors": -1},
        {"max_errors": float("nan")},
        {"max_errors": "5"},
        {"max_retries": 0},
        {"max_retries": 1.5},
        {"errors_file": True},
        {"errors_file": 3},
    ],
    ids=str,
)
def test_wrong_policies_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(wrong))} should be"):
        DataLoader(Flawed(), **wrong)


def test_the_file_of_errors_stays_where_it_was_when_the_program_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    loader = DataLoader(Flawed(), batch_size=4, on_error="skip", errors_file="errors.jsonl")
    iterator = iter(loader)
    next(iterator)
    monkeypatch.chdir(elsewhere)
    list(iterator)
    assert len((tmp_path / "errors.jsonl").read_text().splitlines()) == len(BAD)
