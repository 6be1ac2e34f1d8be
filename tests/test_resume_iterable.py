"""Saving a loader and going on, with iterable datasets: each worker's iterator goes on where it was."""

from __future__ import annotations

import json
import random
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset, get_worker_info

from penstock import DataLoader, StateError
from tests.datasets import equal
from tests.differential.effort import many

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:neither the dataset nor its iterator has state_dict"),
]


class Plain(IterableDataset[Any]):
    """Shares `size` numbers between the workers, unequally; has no state, but draws."""

    def __init__(self, size: int) -> None:
        self.size = size

    def share(self) -> range:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        edges = [self.size * w * w // (workers * workers) for w in range(workers + 1)]
        return range(edges[worker], edges[worker + 1])

    def __iter__(self) -> Iterator[Any]:
        for value in self.share():
            yield value, random.random()


class WithState(Plain):
    """A generator function that begins where the state says."""

    begin = at = 0

    def __iter__(self) -> Iterator[Any]:
        share, begin, self.begin = self.share(), self.begin, 0
        for self.at in range(begin, len(share)):
            value = share[self.at]
            self.at += 1
            yield value, -value

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.begin = state["at"]


class Own(Plain):
    """Is its own iterator, which `iter` sets back to the beginning."""

    at = 0

    def __iter__(self) -> Iterator[Any]:
        self.at = 0
        return self

    def __next__(self) -> Any:
        share = self.share()
        if self.at >= len(share):
            raise StopIteration
        self.at += 1
        return share[self.at - 1], self.at

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class OneWay(Own):
    """Is its own iterator, which never goes back by itself."""

    def __iter__(self) -> Iterator[Any]:
        return self


class Steps:
    """An iterator with a state, of a dataset without one."""

    def __init__(self, share: range) -> None:
        self.share, self.at = share, 0

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> Any:
        if self.at >= len(self.share):
            raise StopIteration
        self.at += 1
        return self.share[self.at - 1], self.at

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class Iterated(Plain):
    def __iter__(self) -> Iterator[Any]:
        return Steps(self.share())


KINDS = [Plain, WithState, Own, Iterated]


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state))  # type: ignore[no-any-return]


def make(kind: Any, size: int, workers: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(kind(size), num_workers=workers, **options)


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.integers(0, 40),
    st.sampled_from([0, 0, 1, 2, 3]),
    st.sampled_from([None, 1, 3, 4]),
    st.booleans(),
    st.data(),
)
@many(6)
def test_before_and_after_are_the_whole_run(
    kind: Any, size: int, workers: int, batch_size: int | None, drop_last: bool, data: st.DataObject
) -> None:
    """Saved twice in an epoch; the next epoch is a whole one."""
    options = {"batch_size": batch_size, "drop_last": drop_last and batch_size is not None, "seed": 3}
    loader = make(kind, size, workers, **options)
    whole, following = list(loader), list(loader)
    loader, got = make(kind, size, workers, **options), list[Any]()
    random.seed(1)
    for _ in range(2):
        count = data.draw(st.integers(0, len(whole) - len(got)))
        iterator = iter(loader)
        got += [next(iterator) for _ in range(count)]
        state = through_json(loader.state_dict())
        loader = make(kind, size, workers, **options)
        loader.load_state_dict(state)
        assert loader.state_dict() == state
    got += loader
    if kind is Plain and workers == 0:  # what it draws in this process is the program's business
        got, whole = ([values(batch) for batch in run] for run in (got, whole))
        following = []
    assert equal(got, whole)
    assert not following or equal(list(loader), following)


def values(batch: Any) -> Any:
    return batch[0].tolist() if isinstance(batch[0], torch.Tensor) else batch[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_after_the_end_comes_a_full_epoch(kind: Any, workers: int, persistent: bool) -> None:
    loader = make(kind, 24, workers, batch_size=3, persistent_workers=persistent)
    whole = [values(batch) for batch in loader]
    state = through_json(loader.state_dict())
    assert state["_iterator_finished"]
    other = make(kind, 24, workers, batch_size=3, persistent_workers=persistent)
    other.load_state_dict(state)
    assert [[values(batch) for batch in other] for _ in range(2)] == [whole, whole]
    for each in (loader, other):
        each.close()


@pytest.mark.parametrize("kind", [WithState, Own, Iterated])
@pytest.mark.parametrize("size", [24, 25])
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (2, True)])
def test_at_the_last_batch_nothing_is_left_and_then_a_full_epoch(
    kind: Any, size: int, workers: int, persistent: bool
) -> None:
    loader = make(kind, size, workers, batch_size=3, persistent_workers=persistent)
    whole = []
    for batch in loader:
        whole.append(values(batch))
        state = through_json(loader.state_dict())
    other = make(kind, size, workers, batch_size=3, persistent_workers=persistent)
    other.load_state_dict(state)
    assert [[values(batch) for batch in other] for _ in range(2)] == [[], whole]
    for each in (loader, other):
        each.close()


class Counting(Plain):
    """Counts its epochs, as one that shuffles by their number would."""

    epoch = at = 0

    def __iter__(self) -> Iterator[Any]:
        begin, self.at = self.at, 0
        for at, value in enumerate(self.share()[begin:], begin + 1):
            self.at = at
            yield value, self.epoch
        self.epoch, self.at = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.at = state["epoch"], state["at"]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (3, True)])
@pytest.mark.parametrize("given", [0, 3, 11, 15, 16, 17, 20])
def test_what_a_dataset_counts_from_epoch_to_epoch_goes_on(
    workers: int, persistent: bool, given: int
) -> None:
    """Saved somewhere in the second epoch, at its end or in the third."""
    options: dict[str, Any] = {"batch_size": None, "persistent_workers": persistent}
    with make(Counting, 16, workers, **options) as loader:
        whole = [[list(sample) for sample in loader] for _ in range(4)]
    assert [epoch[0][1] for epoch in whole] == [0, 1, 2, 3]
    with make(Counting, 16, workers, **options) as loader:
        list(loader)
        iterator, got = iter(loader), list[Any]()
        for _ in range(given):
            sample = next(iterator, None)
            if sample is None:
                iterator = iter(loader)
                sample = next(iterator)
            got.append(list(sample))
        state = through_json(loader.state_dict())
    with make(Counting, 16, workers, **options) as other:
        other.load_state_dict(state)
        while len(got) < 48:
            got += [list(sample) for sample in other]
    assert got == [sample for epoch in whole[1:] for sample in epoch]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_from_before_the_first_batch_is_that_of_the_beginning(workers: int) -> None:
    """Also where dataset and iterator are one object, which the loaders of this process share."""
    dataset = OneWay(24)
    loader = DataLoader(dataset, num_workers=workers, batch_size=3)
    iterator = iter(loader)
    state = through_json(loader.state_dict())
    whole = [values(batch) for batch in iterator]
    other = DataLoader(dataset, num_workers=workers, batch_size=3)
    other.load_state_dict(state)
    assert [values(batch) for batch in other] == whole != []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_in_use_goes_on_from_the_state(workers: int) -> None:
    loader = make(WithState, 24, workers, batch_size=3)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    rest = [values(batch) for batch in iterator]
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(state)
    assert [values(batch) for batch in iterator] == rest


def test_a_walk_is_warned_of_with_what_it_costs() -> None:
    loader = make(Plain, 40, 2, batch_size=4)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    other = make(Plain, 40, 2, batch_size=4)
    other.load_state_dict(loader.state_dict())
    with pytest.warns(UserWarning, match=r"has state_dict\(\) .*: 12 samples .* thrown away"):
        iter(other)


@pytest.mark.parametrize("kind", [WithState, Own, Iterated])
def test_what_has_a_state_is_not_walked(kind: Any) -> None:
    class Watched(kind):  # type: ignore[misc]
        allowed = 40

        def share(self) -> Any:
            return Watching(super().share(), self.allowed)

    loader = make(Watched, 40, 0, batch_size=4)
    iterator = iter(loader)
    for _ in range(8):
        next(iterator)
    other = make(Watched, 40, 0, batch_size=4)
    other.load_state_dict(loader.state_dict())
    Watched.allowed = 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [batch[0].tolist() for batch in other] == [[32, 33, 34, 35], [36, 37, 38, 39]]


class Watching:
    """A range of which only the last few may be looked at."""

    def __init__(self, values: range, allowed: int) -> None:
        self.values, self.allowed = values, allowed

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: int) -> int:
        assert place >= len(self.values) - self.allowed, "it was walked again"
        return self.values[place]


def test_another_number_of_workers_is_refused() -> None:
    loader = make(WithState, 24, 2, batch_size=3)
    state = loader.state_dict()
    with pytest.raises(StateError, match="num_workers: 2 then, 3 now"):
        make(WithState, 24, 3, batch_size=3).load_state_dict(state)
    with pytest.raises(StateError, match="dataset: 'iterable' then, 'map-style' now"):
        DataLoader(list(range(24)), batch_size=3).load_state_dict(state)  # type: ignore[arg-type]


class Kills(WithState):
    """Its worker is killed once, when it comes to a value for the first time."""

    def __init__(self, size: int, flag: Any) -> None:
        super().__init__(size)
        self.flag = flag

    def __iter__(self) -> Iterator[Any]:
        for sample in super().__iter__():
            if sample[0] == 17 and not self.flag.exists():
                self.flag.touch()
                signal.raise_signal(signal.SIGKILL)
            yield sample


def test_a_worker_that_is_replaced_after_going_on_loses_nothing(tmp_path: Any) -> None:
    loader = make(WithState, 24, 1, batch_size=3)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    other = DataLoader(Kills(24, tmp_path / "flag"), num_workers=1, batch_size=3)
    other.load_state_dict(loader.state_dict())
    assert [batch[0].tolist() for batch in other] == [[*range(b, b + 3)] for b in range(9, 24, 3)]
    assert (tmp_path / "flag").exists()
