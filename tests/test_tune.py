"""`penstock.tune`: real trials of real loaders."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch.utils.data import (
    BatchSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
)

from penstock import DataLoader, tune
from penstock.trials import LEAST_S, Settings, Trial
from tests.datasets import Fails, Hooked, Squares


def sleep(_: int) -> None:
    time.sleep(0.02)


@pytest.fixture(autouse=True)
def quick_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.trials.LEAST_S", 0.02)


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.loader.auto.cpus", lambda: 4)
    monkeypatch.setattr("penstock.loader.dataloader.cpus", lambda: 4)


def tried(settings: Settings) -> list[tuple[int, int | None]]:
    return [(trial.num_workers, trial.prefetch_factor) for trial in settings.trials]


def test_as_many_workers_as_make_it_faster() -> None:
    told: list[Trial] = []
    settings = tune(DataLoader(Hooked(sleep), batch_size=2), batches=12, progress=told.append)
    assert (settings.num_workers, tried(settings)[:3]) == (4, [(1, 2), (2, 2), (4, 2)])
    assert tuple(told) == settings.trials
    one, four = settings.trials[0], settings.trials[2]
    assert one.batches_per_s == pytest.approx(25, rel=0.3)
    assert one.work_s == pytest.approx(0.04, rel=0.3)
    assert four.batches_per_s > 2.5 * one.batches_per_s
    assert settings.why.startswith("num_workers=4, prefetch_factor=")


def test_the_fewest_that_end_the_waiting_under_the_real_step() -> None:
    loader = DataLoader(Hooked(sleep), batch_size=2, prefetch_factor=None)
    settings = tune(loader, lambda _: time.sleep(0.06), batches=8, progress=None)
    assert (settings.num_workers, settings.prefetch_factor) == (1, 2)
    assert settings.trials[0].waiting < 0.2


def test_no_workers_for_samples_that_cost_next_to_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    loader = DataLoader(Squares(1000), batch_size=2)
    settings = tune(loader, workers=[1, 0], batches=200)
    assert (settings.num_workers, settings.prefetch_factor) == (0, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("num_workers=0: ")
    assert len(lines) == len(settings.trials)


def test_no_workers_are_tried_only_where_that_may_be_as_fast() -> None:
    cheap = tune(DataLoader(Squares(1000)), lambda _: time.sleep(0.01), progress=None)
    assert tried(cheap)[-1] == (0, None)
    dear = tune(DataLoader(Hooked(sleep)), lambda _: time.sleep(0.03), batches=8, progress=None)
    assert 0 not in [number for number, _ in tried(dear)]


def test_numbers_that_are_named_are_tried_and_the_loader_stays_as_it_was() -> None:
    loader = DataLoader(Hooked(sleep), batch_size=2)
    settings = tune(loader, workers=[1, 3], batches=6, progress=None)
    assert (settings.num_workers, [number for number, _ in tried(settings)]) == (3, [1, 3])
    assert loader.num_workers == 0


def test_every_trial_has_the_same_batches_and_the_loop_afterwards_too() -> None:
    seen: list[list[int]] = []
    loader = DataLoader(Squares(40), batch_size=4, shuffle=True)
    torch.manual_seed(5)
    expected = [batch[1].tolist() for batch in loader]
    torch.manual_seed(5)
    tune(loader, lambda batch: seen.append(batch[1].tolist()), workers=[1, 2, 0], batches=5, progress=None)
    assert [order for order in seen if order == expected[0]] == [expected[0]] * 3
    assert [batch[1].tolist() for batch in loader] == expected


class Shuffles(Sampler[int]):
    """Draws from whatever `shuffle` does, and counts its epochs."""

    def __init__(self, shuffle: Any) -> None:
        self.shuffle, self.epochs = shuffle, 0

    def __iter__(self) -> Iterator[int]:
        self.epochs += 1
        order = list(range(40))
        self.shuffle(order)
        return iter(order[:: 1 if self.epochs % 2 else -1])

    def __len__(self) -> int:
        return 40


def samplers() -> dict[str, Sampler[int]]:
    def dice() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    return {
        "random": RandomSampler(range(40), generator=dice()),
        "weighted": WeightedRandomSampler([1.0] * 40, 40, generator=dice()),
        "random's": Shuffles(random.shuffle),
        "numpy's": Shuffles(np.random.shuffle),
    }


class Own(Shuffles):
    """Has its generator itself."""

    def __init__(self) -> None:
        self.dice = random.Random(7)
        super().__init__(None)

    def __iter__(self) -> Iterator[int]:
        self.shuffle = self.dice.shuffle
        return super().__iter__()


@pytest.mark.parametrize("name", ["random", "weighted", "random's", "numpy's", "own"])
@pytest.mark.parametrize("batched", [False, True])
def test_the_loop_afterwards_has_the_batches_that_it_would_have_had(name: str, batched: bool) -> None:
    def loader() -> DataLoader[Any]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        sampler = Own() if name == "own" else samplers()[name]
        options = {"batch_sampler": BatchSampler(sampler, 4, False)} if batched else {"sampler": sampler}
        return DataLoader(Squares(40), **({} if batched else {"batch_size": 4}), **options)

    tuned = loader()
    tune(tuned, workers=[1, 0], batches=15, progress=None)
    after = [[batch[1].tolist() for batch in tuned] for _ in range(2)]
    other = loader()
    assert after == [[batch[1].tolist() for batch in other] for _ in range(2)]


def test_what_fails_in_a_trial_is_none_of_the_runs_errors(tmp_path: Path) -> None:
    file = tmp_path / "errors"
    loader = DataLoader(Fails(KeyError("bad"), bad=5), batch_size=4, on_error="skip", errors_file=file)
    tune(loader, workers=[0, 1], batches=10, progress=None)
    assert not file.exists()
    assert not loader.errors


def test_a_trial_of_quick_batches_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.trials.LEAST_S", LEAST_S)
    (trial,) = tune(DataLoader(Squares(1000)), workers=[0], batches=5, progress=None).trials
    assert trial.batches / trial.batches_per_s >= LEAST_S


def test_without_workers_is_tried_wherever_batches_are_quick() -> None:
    loader = DataLoader(Hooked(lambda _: time.sleep(0.0005)), batch_size=1)
    assert 0 in [number for number, _ in tried(tune(loader, batches=20, progress=None))]


def test_a_loader_of_few_batches_is_gone_through_several_times() -> None:
    settings = tune(DataLoader(Squares(4), batch_size=2), workers=[1], batches=20, progress=None)
    assert settings.trials[0].batches >= 20


def test_a_trial_ends_after_so_many_seconds() -> None:
    settings = tune(DataLoader(Hooked(sleep), batch_size=2), workers=[1], seconds=0.1, progress=None)
    assert 2 <= settings.trials[0].batches <= 5


def test_an_empty_loader_is_refused() -> None:
    with pytest.raises(ValueError, match="gives no batches"):
        tune(DataLoader(Squares(0)), progress=None)


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(50))


@pytest.mark.parametrize(
    "loader", [DataLoader(Stream()), DataLoader(Squares(), seeding="worker")], ids=["iterable", "seeding"]
)
def test_where_batches_depend_on_the_number_it_has_to_be_named(loader: Any) -> None:
    with pytest.raises(ValueError, match="workers="):
        tune(loader)
    assert tune(loader, workers=[1], batches=5, progress=None).num_workers == 1


def test_nothing_but_a_dataloader_is_tuned() -> None:
    with pytest.raises(TypeError, match="DataLoader"):
        tune([1, 2, 3])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"penstock\.upgrade"):
        tune(torch.utils.data.DataLoader(Squares()))  # type: ignore[arg-type]


def test_one_number_of_workers_is_no_list_of_them() -> None:
    with pytest.raises(TypeError, match="several numbers"):
        tune(DataLoader(Squares(10)), workers=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batches": 0},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"workers": [-1]},
        {"workers": ["2"]},
        {"workers": [True]},
    ],
)
def test_impossible_limits_and_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"are needed, got|numbers of workers, 0 or more"):
        tune(DataLoader(Squares()), progress=None, **wrong)


@pytest.mark.parametrize(
    "wrong", [{"batches": "5"}, {"batches": 1.5}, {"seconds": None}, {"step": 3}, {"progress": 3}]
)
def test_what_is_no_number_or_function_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="take"):
        tune(DataLoader(Squares()), **wrong)
