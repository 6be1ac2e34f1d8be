"""Saving a loader and going on, with map-style datasets: before and after together are the whole run."""

from __future__ import annotations

import copy
import gc
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import RandomSampler, Sampler, SubsetRandomSampler, WeightedRandomSampler

from penstock import ClosedError, DataLoader
from tests.datasets import Fails, Hooked, Kills, Noise, Squares, equal
from tests.differential.effort import many

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SIZE = 37


class Epochal(Sampler[int]):
    """A function of its seed and of the epoch that it was told."""

    def __init__(self, size: int) -> None:
        self.size, self.epoch = size, 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        dice = torch.Generator().manual_seed(100 + self.epoch)
        return iter(torch.randperm(self.size, generator=dice).tolist())


class Counting(Sampler[int]):
    """Has a state of its own: how far it is, and how often it has been through."""

    def __init__(self, size: int) -> None:
        self.size, self.at, self.rounds = size, 0, 0

    def __iter__(self) -> Iterator[int]:
        while self.at < self.size:
            self.at += 1
            yield (5 * self.at + self.rounds) % self.size
        self.at, self.rounds = 0, self.rounds + 1

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at, "rounds": self.rounds}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at, self.rounds = state["at"], state["rounds"]


def own() -> torch.Generator:
    return torch.Generator().manual_seed(9)


ORDERS: dict[str, Any] = {
    "sequential": dict,
    "shuffled": lambda: {"shuffle": True},
    "by its generator": lambda: {"shuffle": True, "generator": own()},
    "generator, no shuffle": lambda: {"generator": own()},
    "seeded": lambda: {"shuffle": True, "seed": 4},
    "replacement": lambda: {"sampler": RandomSampler(range(SIZE), True, 50)},
    "subset": lambda: {"sampler": SubsetRandomSampler(range(3, 30))},
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0] * SIZE, 40, generator=own())},
    "epochal": lambda: {"sampler": Epochal(SIZE)},
    "stateful": lambda: {"sampler": Counting(SIZE)},
    "batches": lambda: {"batch_sampler": [[i, i + 1] for i in range(0, 20, 2)], "batch_size": 1},
}
orders = st.sampled_from(sorted(ORDERS))


def make(order: str, size: int = SIZE, **options: Any) -> DataLoader[Any]:
    arguments = {"batch_size": 4, **ORDERS[order](), **options}
    if "batch_sampler" in arguments:
        arguments |= {"batch_size": 1, "drop_last": False}
    return DataLoader(Noise(size), **arguments)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state))  # type: ignore[no-any-return]


def take(loader: DataLoader[Any], count: int | None) -> list[Any]:
    """The next batches of a loader, all if None; then the iterator is dropped."""
    iterator = iter(loader)
    return list(iterator) if count is None else [next(iterator) for _ in range(count)]


def indices(batch: Any) -> list[int]:
    """Which samples a batch is made of."""
    return batch[-1].tolist()  # type: ignore[no-any-return]


workers = st.sampled_from([0, 0, 1, 2])


@given(orders, st.booleans(), st.lists(workers, min_size=3, max_size=3), st.data())
@many(30)
def test_before_and_after_are_the_whole_run(
    order: str, drop_last: bool, counts: list[int], data: st.DataObject
) -> None:
    """Saved twice in the second epoch, with other numbers of workers, and then on through the third."""

    def loader(workers: int) -> DataLoader[Any]:
        prefetch = data.draw(st.integers(1, 3)) if workers else None
        return make(order, drop_last=drop_last, num_workers=workers, prefetch_factor=prefetch)

    torch.manual_seed(1)
    whole = make(order, drop_last=drop_last)
    list(whole)
    second, third = list(whole), list(whole)

    torch.manual_seed(1)
    ours = loader(0)
    list(ours)
    got: list[Any] = []
    for number in counts[:2]:
        got += take(ours, data.draw(st.integers(0, len(second) - len(got))))
        state = through_json(ours.state_dict())
        assert ours.state_dict() == state
        ours = loader(number)
        ours.load_state_dict(state)
        assert ours.state_dict() == state
    ours = loader(counts[2])
    ours.load_state_dict(state)
    got += take(ours, None)
    assert equal(got, second)
    assert equal(list(ours), third)


# -- moments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["shuffled", "by its generator", "stateful", "epochal"])
@pytest.mark.parametrize("workers", [0, 2])
def test_before_the_first_epoch(order: str, workers: int) -> None:
    torch.manual_seed(2)
    expected = list(make(order))
    first = make(order, num_workers=workers)
    state = through_json(first.state_dict())
    other = make(order, num_workers=workers)
    if other.generator is not None:
        other.generator.manual_seed(78)
    other.load_state_dict(state)
    torch.manual_seed(2)
    assert equal(list(other), expected)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (1, True)])
def test_back_to_before_the_first_epoch(seed: int | None, workers: int, persistent: bool) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(
            Noise(12), 4, shuffle=True, num_workers=workers, persistent_workers=persistent, seed=seed
        )

    torch.manual_seed(2)
    with loader() as fresh:
        state = through_json(fresh.state_dict())
        expected = [list(fresh), list(fresh)]
    with loader() as used:
        list(used)
        take(used, 2)
        used.load_state_dict(state)
        torch.manual_seed(2)
        assert equal([list(used), list(used)], expected)


@pytest.mark.parametrize("order", sorted(ORDERS))
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_at_the_last_batch_nothing_is_left_and_then_a_full_epoch(order: str, workers: int) -> None:
    torch.manual_seed(3)
    loader = make(order, num_workers=workers)
    length = len(list(loader))
    expected = list(loader)
    torch.manual_seed(3)
    loader = make(order, num_workers=workers)
    for _ in zip(range(length), loader, strict=False):
        state = through_json(loader.state_dict())
    other = make(order, num_workers=workers)
    other.load_state_dict(state)
    assert list(other) == []
    assert equal(list(other), expected)


@pytest.mark.parametrize("order", sorted(ORDERS))
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_after_the_end_of_an_epoch_comes_a_full_one(order: str, workers: int) -> None:
    torch.manual_seed(3)
    loader = make(order, num_workers=workers)
    list(loader)
    state = through_json(loader.state_dict())
    rng = torch.get_rng_state()
    expected = [list(loader), list(loader)]
    other = make(order, num_workers=workers)
    other.load_state_dict(state)
    assert other.state_dict() == state
    torch.set_rng_state(rng)
    assert equal([list(other), list(other)], expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_made_ahead_was_not_handed_over(workers: int) -> None:
    options = {"num_workers": workers, "prefetch_factor": 4 if workers else None}
    loader = make("shuffled", **options)
    iterator = iter(loader)
    got = [next(iterator) for _ in range(3)]
    assert loader.state_dict()["_num_yielded"] == 3
    other = make("shuffled", **options)
    other.load_state_dict(loader.state_dict())
    assert equal(list(other), list(iterator))
    assert len(got) == 3


def test_the_state_outlives_the_iterator_and_its_workers() -> None:
    loader = make("shuffled", num_workers=2)
    iterator = iter(loader)
    next(iterator)
    rest = copy.deepcopy(loader.state_dict())
    expected = list(iterator)
    del iterator
    gc.collect()
    assert loader.state_dict()["_iterator_finished"]
    loader.load_state_dict(rest)
    for _ in loader:
        break
    gc.collect()
    assert loader.state_dict()["_num_yielded"] == 2
    loader.close()
    assert loader.state_dict()["_num_yielded"] == 2
    other = make("shuffled")
    other.load_state_dict(loader.state_dict())
    assert equal(list(other), expected[1:])


def test_a_state_goes_on_as_often_as_one_likes() -> None:
    loader = make("shuffled")
    take(loader, 3)
    state = loader.state_dict()
    runs = []
    for _ in range(3):
        other = make("shuffled")
        other.load_state_dict(state)
        runs.append(list(other))
        assert other.state_dict() != state
    assert equal(runs[0], runs[1])
    assert equal(runs[1], runs[2])
    loader.load_state_dict(state)
    assert equal(list(loader), runs[0])


def test_a_loaded_state_is_kept_until_a_batch_follows_it() -> None:
    loader = make("shuffled", num_workers=1)
    take(loader, 3)
    state = loader.state_dict()
    other = make("shuffled", num_workers=1)
    other.load_state_dict(state)
    iter(other)
    iter(other)
    assert other.state_dict() == state
    iterator = iter(other)
    next(iterator)
    assert other.state_dict()["_num_yielded"] == 4
    assert len(list(iterator)) + 4 == len(list(other))


# -- iterators in use ----------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("given", [0, 2])
def test_an_iterator_in_use_goes_on_from_the_state(workers: int, persistent: bool, given: int) -> None:
    saved = make("shuffled")
    take(saved, 5)
    state = saved.state_dict()
    saved.load_state_dict(state)
    expected = list(saved)
    loader = make("shuffled", num_workers=workers, persistent_workers=persistent)
    iterator = iter(loader)
    for _ in range(given):
        next(iterator)
    loader.load_state_dict(state)
    assert loader.state_dict() == state
    assert equal(list(iterator), expected)
    assert len(list(loader)) == len(loader)
    loader.close()


@pytest.mark.parametrize("persistent", [False, True])
def test_a_new_iterator_takes_the_state_from_one_in_use(persistent: bool) -> None:
    loader = make("shuffled", num_workers=1, persistent_workers=persistent)
    old = iter(loader)
    next(old)
    state = loader.state_dict()
    expected = list(old)
    loader.load_state_dict(state)
    assert list(old) == [], "it had come to its end"
    old = iter(loader)
    next(old)
    loader.load_state_dict(state)
    assert equal(list(loader), expected)
    loader.close()


def test_an_older_iterator_is_left_alone() -> None:
    loader = make("sequential")
    old, new = iter(loader), iter(loader)
    next(new)
    state = loader.state_dict()
    next(new)
    loader.load_state_dict(state)
    assert indices(next(old)) == [0, 1, 2, 3]
    assert indices(next(new)) == [4, 5, 6, 7]


# -- what it costs -------------------------------------------------------------------------------


def test_no_sample_is_fetched_and_thrown_away() -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(Hooked(fetched.append, size=40), batch_size=4, shuffle=True)

    fetched: list[int] = []
    first = loader()
    take(first, 6)
    state = first.state_dict()
    done, fetched = fetched, []
    second = loader()
    second.load_state_dict(state)
    assert len(list(second)) == 4
    assert sorted(done + fetched) == list(range(40))


def test_a_state_is_small() -> None:
    for order in ORDERS:
        loader = make(order, size=10**6)
        take(loader, 1)
        assert len(json.dumps(loader.state_dict())) < 20_000


# -- out of order --------------------------------------------------------------------------------


class Gated(Squares):
    """Its first sample waits until the gate is opened."""

    def __init__(self) -> None:
        super().__init__(80)
        self.gate = os.pipe()

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            os.read(self.gate[0], 1)
        return super().__getitem__(index)

    def open(self) -> None:
        os.write(self.gate[1], b"x" * 10)

    def close(self) -> None:
        for fd in self.gate:
            os.close(fd)


def whole(samples: list[Any]) -> Any:
    """A collate function that isn't torch's: one worker makes the batch."""
    return torch.utils.data.default_collate(samples)


def test_batches_out_of_order_are_each_handed_over_once() -> None:
    """The first batch waits for a gate; the others overtake it, and it is what is left."""
    gate = Gated()
    options = {"batch_size": 4, "collate_fn": whole, "num_workers": 2, "in_order": False}
    loader = DataLoader(gate, **options)
    iterator = iter(loader)
    got = [indices(next(iterator)) for _ in range(5)]
    state = through_json(loader.state_dict())
    gate.open()
    assert [0, 1, 2, 3] not in got
    assert state["missing"][0] == 0
    assert state["_num_yielded"] == 5
    other = DataLoader(gate, **options)
    other.load_state_dict(state)
    got += [indices(batch) for batch in other]
    assert sorted(got) == [list(range(start, start + 4)) for start in range(0, 80, 4)]
    in_order = DataLoader(gate, batch_size=4)
    in_order.load_state_dict(state)
    later = range(5 + len(state["missing"]), 20)
    assert [indices(batch)[0] // 4 for batch in in_order] == [*state["missing"], *later]
    del iterator
    gate.close()


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_that_failed_was_handed_over_as_an_exception(workers: int) -> None:
    loader = DataLoader(Fails(ValueError("bad"), bad=5), batch_size=4, num_workers=workers)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(ValueError, match="bad"):
        next(iterator)
    state = loader.state_dict()
    expected = [batch[1].tolist() for batch in iterator]
    other = DataLoader(Fails(ValueError("bad"), bad=5), batch_size=4, num_workers=workers)
    other.load_state_dict(state)
    assert [batch[1].tolist() for batch in other] == expected == [[*range(b, b + 4)] for b in (8, 12, 16)]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_no_batch_was_handed_over_as_an_exception(workers: int) -> None:
    batches: Any = [[0], None, [1], [2, 3]]
    loader = DataLoader(Squares(4), batch_sampler=batches, num_workers=workers)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(TypeError, match="not iterable"):
        next(iterator)
    state = loader.state_dict()
    other = DataLoader(Squares(4), batch_sampler=batches, num_workers=workers)
    other.load_state_dict(state)
    assert (
        [batch[1].tolist() for batch in other] == [batch[1].tolist() for batch in iterator] == [[1], [2, 3]]
    )


def test_a_run_that_broke_can_be_saved() -> None:
    loader = DataLoader(Kills(signal.SIGKILL, bad=9), batch_size=4, num_workers=1, max_retries=1)
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    loader.close()
    with pytest.raises(ClosedError):
        next(iterator)
    other = DataLoader(Squares(20), batch_size=4)
    state = loader.state_dict()
    other.load_state_dict(state)
    assert [batch[1].tolist() for batch in other] == [[*range(b, b + 4)] for b in (8, 12, 16)]
