"""The generators' seed for each sample, and noticing who uses them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from penstock.seeding import LEARN, SampleSeeder

USES: dict[str, Callable[[], Any]] = {
    "torch.rand": lambda: torch.rand(1),
    "torch.randn": lambda: torch.randn(1),
    "torch.randperm": lambda: torch.randperm(3),
    "torch.manual_seed": lambda: torch.manual_seed(5 << 20),
    "random.random": random.random,
    "random.gauss": lambda: random.gauss(0, 1),
    "random.seed": lambda: random.seed(5),
    "np.random.rand": np.random.rand,
    "np.random.randn": np.random.randn,
    "np.random.shuffle": lambda: np.random.shuffle([1, 2, 3]),
    "np.random.seed": lambda: np.random.seed(5),
}


@pytest.fixture(autouse=True)
def same_generators_afterwards() -> Iterator[None]:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    yield
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])


def draws() -> tuple[Any, ...]:
    return torch.rand(2).tolist(), random.random(), np.random.rand(2).tolist(), np.random.randn(1).tolist()


def quiet(seeder: SampleSeeder, tasks: int) -> None:
    for seed in range(tasks):
        seeder.seed(seed, study=True)
        seeder.learn()


def watching_seeder() -> SampleSeeder:
    seeder = SampleSeeder()
    quiet(seeder, LEARN)
    assert seeder.watching
    return seeder


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_the_same_seed_gives_the_same_draws(seed: int) -> None:
    seeder = SampleSeeder()
    seeder.seed(seed, study=False)
    first = draws()
    draws()
    seeder.seed(seed, study=False)
    assert draws() == first


@pytest.mark.parametrize(
    ("seed", "other", "draw"),
    [
        (1, 2, lambda: torch.rand(2).tolist()),
        (1, 2, random.random),
        (1, 1 + (1 << 63), random.random),
        (1 << 40, 2 << 40, np.random.rand),
    ],
    ids=["torch", "random", "random, by the high bits", "numpy"],
)
def test_another_seed_gives_other_draws(seed: int, other: int, draw: Callable[[], Any]) -> None:
    seeder = SampleSeeder()
    seeder.seed(seed, study=False)
    first = draw()
    seeder.seed(other, study=False)
    assert draw() != first


def test_a_new_seeder_does_not_watch() -> None:
    assert not SampleSeeder().watching


def test_it_watches_after_enough_quiet_tasks_and_not_before() -> None:
    seeder = SampleSeeder()
    quiet(seeder, LEARN - 1)
    assert not seeder.watching
    quiet(seeder, 1)
    assert seeder.watching


def test_samples_that_are_not_studied_do_not_count() -> None:
    seeder = SampleSeeder()
    for seed in range(2 * LEARN):
        seeder.seed(seed, study=False)
    assert not seeder.watching


WATCHED = {name: use for name, use in USES.items() if not name.startswith("torch")}


@pytest.mark.parametrize("use", WATCHED.values(), ids=WATCHED)
def test_a_use_while_learning_keeps_it_from_watching_for_good(use: Callable[[], Any]) -> None:
    seeder = SampleSeeder()
    quiet(seeder, LEARN - 1)
    seeder.seed(9, study=True)
    use()
    seeder.learn()
    quiet(seeder, 2 * LEARN)
    assert not seeder.watching


@pytest.mark.parametrize("use", WATCHED.values(), ids=WATCHED)
def test_a_use_is_noticed_while_watching(use: Callable[[], Any]) -> None:
    seeder = watching_seeder()
    use()
    assert seeder.used()
    assert not seeder.watching


def test_nothing_is_noticed_where_nothing_is_used() -> None:
    seeder = watching_seeder()
    for _ in range(3):
        assert not seeder.used()
    assert seeder.watching


def test_a_use_between_two_quiet_tasks_is_noticed_by_the_next() -> None:
    seeder = watching_seeder()
    assert not seeder.used()
    random.random()
    assert seeder.used()


def test_once_used_is_used_for_ever() -> None:
    seeder = watching_seeder()
    random.random()
    assert all(seeder.used() for _ in range(4))


def test_private_generators_are_not_noticed() -> None:
    seeder = watching_seeder()
    random.Random(0).random()
    np.random.default_rng(0).random()
    torch.rand(1, generator=torch.Generator())
    assert not seeder.used()
