"""What a state is checked for when it is loaded, and what it brings along: epochs, the dataset's state."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import RandomSampler, Sampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler as TorchDistributedSampler

from penstock import DataLoader, StateError
from tests.datasets import Noise, Squares, equal
from tests.test_resume import Counting, Epochal, indices, make, take, through_json

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def saved(**options: Any) -> dict[str, Any]:
    loader = DataLoader(Squares(40), **{"batch_size": 4, **options})
    take(loader, 2)
    return through_json(loader.state_dict())


@pytest.mark.parametrize(
    ("before", "size", "after", "told"),
    [
        ({}, 41, {}, "dataset length: 40 then, 41 now"),
        ({}, 40, {"batch_size": 8}, "batch_size: 4 then, 8 now"),
        ({}, 40, {"batch_size": None}, "batch_size: 4 then, None now"),
        ({}, 40, {"drop_last": True}, "drop_last: False then, True now"),
        ({}, 40, {"shuffle": True}, "sampler: 'SequentialSampler' then, 'RandomSampler' now"),
        ({}, 40, {"sampler": list(range(40))}, "sampler: 'SequentialSampler' then, 'list' now"),
        ({"seed": 1}, 40, {"seed": 2}, "seed: 1 then, 2 now"),
        ({}, 40, {"seeding": "worker"}, "seeding: 'sample' then, 'worker' now"),
        (
            {"sampler": RandomSampler(range(40))},
            40,
            {"sampler": RandomSampler(range(40), replacement=True)},
            "sampler.replacement: False then, True now",
        ),
        (
            {"sampler": WeightedRandomSampler([1.0] * 40, 12)},
            40,
            {"sampler": WeightedRandomSampler([1.0] * 40, 13)},
            "sampler.num_samples: 12 then, 13 now",
        ),
        (
            {"sampler": TorchDistributedSampler(range(40), 2, 0)},
            40,
            {"sampler": TorchDistributedSampler(range(40), 4, 0)},
            "Use penstock.DistributedSampler",
        ),
        ({}, 40, {"batch_size": 1, "batch_sampler": [[1]]}, "sampler: 'SequentialSampler' then, 'list' now"),
    ],
)
def test_a_state_of_another_loader_is_refused(before: Any, size: int, after: Any, told: str) -> None:
    loader = DataLoader(Squares(size), **{"batch_size": 4, **after})
    with pytest.raises(StateError) as error:
        loader.load_state_dict(saved(**before))
    assert told in str(error.value)
    assert len(list(loader)) == len(loader), "nothing of it was taken over"


def test_everything_that_differs_is_told_at_once() -> None:
    with pytest.raises(StateError, match=r"(?s)batch_size: 4 then, 5 now.*dataset length: 40 then, 3 now"):
        DataLoader(Squares(3), batch_size=5).load_state_dict(saved())


@pytest.mark.parametrize("state", [{"_num_yielded": 3, "_snapshot": {}}, {"version": 1}])
def test_something_else_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(StateError, match="isn't the state of a penstock"):
        DataLoader(Squares(40)).load_state_dict(state)


@pytest.mark.parametrize("state", [None, 5, [], ["version"]])
def test_what_is_no_dictionary_is_refused(state: Any) -> None:
    with pytest.raises(StateError, match=f"of type '{type(state).__name__}'"):
        DataLoader(Squares(40), batch_size=4).load_state_dict(state)


@pytest.mark.parametrize("lost", ["order", "missing", "_num_yielded", "count"])
def test_a_state_that_has_lost_something_is_refused(lost: str) -> None:
    state = {name: value for name, value in saved().items() if name != lost}
    with pytest.raises(StateError, match=f"isn't whole: it has no '{lost}'"):
        DataLoader(Squares(40), batch_size=4).load_state_dict(state)


@pytest.mark.parametrize("given", [-1, "3", None])
def test_a_count_that_cannot_be_is_refused(given: Any) -> None:
    with pytest.raises(StateError, match="'_num_yielded' is"):
        DataLoader(Squares(40), batch_size=4).load_state_dict({**saved(), "_num_yielded": given})


def test_a_later_version_is_refused() -> None:
    with pytest.raises(StateError, match="version 99"):
        DataLoader(Squares(40), batch_size=4).load_state_dict({**saved(), "version": 99})


def test_an_empty_state_stands_for_none() -> None:
    loader = DataLoader(Squares(40), batch_size=4)
    loader.load_state_dict(saved())
    loader.load_state_dict({})
    assert len(list(loader)) == 10


def test_other_workers_prefetching_and_collating_are_no_difference() -> None:
    loader = DataLoader(Squares(40), batch_size=4, num_workers=2, prefetch_factor=5, collate_fn=list)
    loader.load_state_dict(saved(num_workers=1, persistent_workers=True, timeout=9))
    assert len(list(loader)) == 8


# -- samplers of others --------------------------------------------------------------------------


class Restless(Sampler[int]):
    """Never gives the same order twice, whatever the generators' states."""

    fresh = random.SystemRandom()

    def __iter__(self) -> Iterator[int]:
        return iter(self.fresh.sample(range(40), 40))


def test_a_sampler_that_gives_other_indices_than_before_is_told_of() -> None:
    loader = DataLoader(Squares(40), batch_size=4, sampler=Restless())
    loader.load_state_dict(saved(sampler=Restless()))
    with pytest.raises(StateError, match="Restless doesn't give the indices again"):
        next(iter(loader))


class Shuffles(Sampler[list[int]]):
    """Batches in an order drawn from Python's own generator, as many people write it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[list[int]]:
        batches = [[i, i + 1] for i in range(0, self.size, 2)]
        random.shuffle(batches)
        yield from batches


def test_a_sampler_that_draws_from_the_global_generators_goes_on_in_its_order() -> None:
    random.seed(5)
    loader = DataLoader(Squares(40), batch_sampler=Shuffles(40))
    iterator = iter(loader)
    next(iterator)
    state = through_json(loader.state_dict())
    expected = [indices(batch) for batch in iterator]
    random.seed(6)
    drawn = random.Random(6).random()
    loader = DataLoader(Squares(40), batch_sampler=Shuffles(40))
    loader.load_state_dict(state)
    assert [indices(batch) for batch in loader] == expected
    assert random.random() == drawn, "the program's own draws go on as if nothing had been"


def test_a_sampler_with_a_state_is_not_walked_again() -> None:
    asked: list[int] = []

    class Asked(Counting):
        def __iter__(self) -> Iterator[int]:
            for index in super().__iter__():
                asked.append(index)
                yield index

    loader = DataLoader(Squares(40), batch_size=4, sampler=Asked(40))
    take(loader, 8)
    state = through_json(loader.state_dict())
    assert state["order"] == {"sampler": {"at": 32, "rounds": 0}}
    asked.clear()
    loader = DataLoader(Squares(40), batch_size=4, sampler=Asked(40))
    loader.load_state_dict(state)
    assert len(list(loader)) == 2
    assert len(asked) == 8


# -- epochs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tell", ["loader", "sampler"])
def test_the_sampler_is_told_the_epoch_again(tell: str) -> None:
    loader = make("epochal")
    (loader if tell == "loader" else loader.sampler).set_epoch(3)
    iterator = iter(loader)
    next(iterator)
    state = through_json(loader.state_dict())
    expected = list(iterator)
    other = make("epochal")
    other.load_state_dict(state)
    assert other.sampler.epoch == 3
    assert equal(list(other), expected)
    other = make("epochal")
    other.load_state_dict(state)
    (other if tell == "loader" else other.sampler).set_epoch(3)
    assert equal(list(other), expected)


@pytest.mark.parametrize("tell", ["loader", "sampler"])
def test_another_epoch_set_after_loading_is_told_of_while_batches_are_left(tell: str) -> None:
    loader = make("epochal")
    (loader if tell == "loader" else loader.sampler).set_epoch(3)
    take(loader, 2)
    other = make("epochal")
    other.load_state_dict(loader.state_dict())
    (other if tell == "loader" else other.sampler).set_epoch(0)
    with pytest.raises(StateError, match=r"is of epoch 3, with batches left, .* epoch 0"):
        iter(other)


def test_another_epoch_set_when_nothing_is_left_begins_that_one() -> None:
    """As trainers do that save at the last batch and count it as the epoch's end."""
    loader = make("epochal")
    take(loader, len(loader))
    other = make("epochal")
    other.load_state_dict(loader.state_dict())
    other.sampler.set_epoch(1)
    assert [index for batch in other for index in indices(batch)] == list(epoch_of(Epochal(37), 1))


def epoch_of(sampler: Epochal, epoch: int) -> Iterator[int]:
    sampler.set_epoch(epoch)
    return iter(sampler)


def test_an_announced_epoch_decides_the_seeds_and_reaches_the_dataset() -> None:
    class Told(Noise):
        epoch = -1

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __getitem__(self, index: int) -> Any:
            return *super().__getitem__(index), self.epoch

    def loader(workers: int) -> DataLoader[Any]:
        return DataLoader(Told(20), batch_size=4, shuffle=True, seed=3, num_workers=workers)

    first = loader(0)
    first.set_epoch(6)
    iterator = iter(first)
    next(iterator)
    state = through_json(first.state_dict())
    expected = list(iterator)
    for workers in (0, 2):
        other = loader(workers)
        other.load_state_dict(state)
        assert equal(list(other), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_under_a_seed_are_counted_on(workers: int) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(Noise(12), batch_size=4, seed=3, num_workers=workers)

    whole = loader()
    epochs = [list(whole) for _ in range(4)]
    first = loader()
    for _ in range(2):
        list(first)
    take(first, 1)
    other = loader()
    other.load_state_dict(through_json(first.state_dict()))
    assert equal([list(other), list(other)], [epochs[2][1:], epochs[3]])


def test_epochs_of_persistent_workers_are_counted_on() -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(Noise(12), batch_size=4, num_workers=1, persistent_workers=True)

    torch.manual_seed(1)
    whole = loader()
    epochs = [list(whole) for _ in range(4)]
    torch.manual_seed(1)
    first = loader()
    for _ in range(2):
        list(first)
    between = through_json(first.state_dict())
    take(first, 1)
    within = through_json(first.state_dict())
    for state, expected in ((between, epochs[2:]), (within, [epochs[2][1:], epochs[3]])):
        other = loader()
        other.load_state_dict(state)
        assert equal([list(other), list(other)], expected)
        other.close()
    first.load_state_dict(within)
    assert equal([list(first), list(first)], [epochs[2][1:], epochs[3]])
    first.close()
    whole.close()


# -- the dataset's own state ---------------------------------------------------------------------


class Staged(Squares):
    """Its samples depend on a stage that the program sets."""

    stage = 0

    def __getitem__(self, index: int) -> Any:
        return self.stage, index

    def state_dict(self) -> dict[str, int]:
        return {"stage": self.stage}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.stage = state["stage"]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_dataset_is_asked_for_its_state_and_given_it_back(workers: int, persistent: bool) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(Staged(20), batch_size=4, num_workers=workers, persistent_workers=persistent)

    first = loader()
    first.dataset.stage = 3
    take(first, 2)
    state = through_json(first.state_dict())
    other = loader()
    list(other)
    other.load_state_dict(state)
    assert [batch[0].tolist() for batch in other] == [[3] * 4] * 3
    assert other.dataset.stage == 3
    for each in (first, other):
        each.close()


# -- users of states -----------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, lambda loader: pickle.loads(pickle.dumps(loader))])
def test_a_copy_goes_on_from_what_was_loaded(copied: Any) -> None:
    loader = DataLoader(Squares(40), batch_size=4)
    loader.load_state_dict(saved())
    assert len(list(copied(loader))) == 8
    assert len(list(loader)) == 8
    assert len(list(copied(loader))) == 10


def test_accelerate_may_write_into_a_state() -> None:
    """Its adapter marks the end itself, and takes back what it fetched ahead for other processes."""
    loader = make("shuffled")
    iterator = iter(loader)
    got = [next(iterator) for _ in range(5)]
    state = loader.state_dict()
    state["_iterator_finished"] = False
    state["_num_yielded"] -= 1
    other = make("shuffled")
    other.load_state_dict(state)
    assert equal(next(iter(other)), got[4])
    state["_iterator_finished"] = True
    other = make("shuffled")
    other.load_state_dict(state)
    assert len(list(other)) == len(other)
    assert loader.state_dict()["_num_yielded"] == 5, "what was given is a copy"


def test_a_datapipe_has_no_state() -> None:
    loader = DataLoader(Pipe())
    with pytest.warns(UserWarning, match="state_dict"):
        state = loader.state_dict()
    assert state == {}
    loader.load_state_dict({})
    with pytest.raises(StateError, match="DataPipe"):
        loader.load_state_dict(saved())


class Pipe(torch.utils.data.IterDataPipe[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


def test_samplers_without_a_length_are_no_trouble() -> None:
    loader = DataLoader(Squares(40), batch_size=4, sampler=Restless())
    assert loader.state_dict()["loader"]["sampler"] == "Restless"
