"""The index streams beside torch's own samplers: the same batches, the same draws, from any batch on."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler as TorchDistributedSampler

import penstock
from penstock.indices import IndexStream, Listed, Place
from penstock.indices.dice import global_dice, restore, state_of

GLOBAL = "global"
"""Stands for torch's default generator, given by name."""


class Own(Sampler[int]):
    """Shuffles with a generator that it keeps."""

    def __init__(self, size: int, kind: str) -> None:
        self.size = size
        self.dice = {
            "torch": lambda: torch.Generator().manual_seed(5),
            "random": lambda: random.Random(5),
            "numpy": lambda: np.random.default_rng(5),
            "old": lambda: np.random.RandomState(5),
            "philox": lambda: np.random.Generator(np.random.Philox(5)),
        }[kind]()

    def __iter__(self) -> Iterator[int]:
        for index in range(self.size):
            if isinstance(self.dice, torch.Generator):
                step = int(torch.randint(self.size, (), generator=self.dice))
            elif isinstance(self.dice, random.Random):
                step = self.dice.randrange(self.size)
            elif isinstance(self.dice, np.random.RandomState):
                step = int(self.dice.randint(self.size))
            else:
                step = int(self.dice.integers(self.size))
            yield (index + step) % self.size


class Global(Sampler[int]):
    """Shuffles with the global generators, when it is asked for its iterator and at the first index."""

    def __init__(self, size: int, kind: str) -> None:
        self.size, self.kind = size, kind

    def shuffled(self) -> list[int]:
        order = list(range(self.size))
        if self.kind == "random":
            random.shuffle(order)
        elif self.kind == "numpy":
            np.random.shuffle(order)
        else:
            order = torch.randperm(self.size).tolist()
        return order

    def __iter__(self) -> Iterator[int]:
        early = self.shuffled()
        return (early[place] for place in self._late())

    def _late(self) -> Iterator[int]:
        yield from self.shuffled()


class Nested(Sampler[list[int]]):
    """Batches of growing length over another sampler, as those that group by length are."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        wanted = 1
        for index in self.sampler:
            batch.append(index)
            if len(batch) == wanted:
                yield batch
                batch, wanted = [], wanted % 3 + 1
        if batch:
            yield batch


class Stateful(Sampler[int]):
    """Endless but for `size`; goes on from its state, to which it alone knows the way."""

    def __init__(self, size: int) -> None:
        self.size, self.at, self.rounds = size, 0, 0

    def __iter__(self) -> Iterator[int]:
        while self.at < self.size:
            self.at += 1
            yield (self.at * 7 + self.rounds) % self.size
        self.at, self.rounds = 0, self.rounds + 1

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at, "rounds": self.rounds}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at, self.rounds = state["at"], state["rounds"]


class StatefulIterator:
    """The iterator of a sampler that has no state itself."""

    def __init__(self, size: int) -> None:
        self.size, self.at = size, 0

    def __iter__(self) -> StatefulIterator:
        return self

    def __next__(self) -> int:
        if self.at == self.size:
            raise StopIteration
        self.at += 1
        return self.size - self.at

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class ByIterator(Sampler[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return StatefulIterator(self.size)


class Subclass(RandomSampler):
    """Overrides what the order is made of."""

    def __iter__(self) -> Iterator[int]:
        return (index + 1000 for index in super().__iter__())


def generator_of(name: str | None) -> torch.Generator | None:
    if name == GLOBAL:
        return torch.default_generator
    return None if name is None else torch.Generator().manual_seed(int(name))


Make = Callable[[], Any]
sizes = st.integers(1, 80)
generators = st.sampled_from([None, GLOBAL, "3"])
randoms = st.builds(
    lambda size, name, replacement, count: (
        lambda: RandomSampler(range(size), replacement, count, generator_of(name))
    ),
    sizes,
    generators,
    st.booleans(),
    st.none() | st.integers(1, 200),
)
subsets = st.builds(
    lambda size, name: lambda: SubsetRandomSampler([3 * i for i in range(size)], generator_of(name)),
    sizes,
    generators,
)
weighted = st.builds(
    lambda size, name, count: lambda: WeightedRandomSampler([1.0] * size, count, True, generator_of(name)),
    sizes,
    generators,
    st.integers(1, 100),
)


@st.composite
def distributed(draw: st.DrawFn, kind: Any) -> Make:
    size, world, epoch = draw(st.integers(0, 80)), draw(st.integers(1, 6)), draw(st.integers(0, 3))
    rank, shuffle, drop_last = draw(st.integers(0, world - 1)), draw(st.booleans()), draw(st.booleans())

    def make() -> Any:
        sampler = kind(range(size), world, rank, shuffle, 3, drop_last)
        sampler.set_epoch(epoch)
        return sampler

    return make


listed = st.builds(lambda few, size: lambda: Listed(list(range(few)), size), st.integers(1, 9), sizes)
known = st.one_of(
    listed,
    st.builds(lambda size: lambda: SequentialSampler(range(size)), st.integers(0, 80)),
    randoms,
    subsets,
    weighted,
    distributed(TorchDistributedSampler),
    distributed(penstock.DistributedSampler),
)
others = st.one_of(
    st.builds(lambda size: lambda: list(range(size, 0, -1)), sizes),
    st.builds(lambda size: lambda: Subclass(range(size)), sizes),
    st.builds(
        lambda size, kind: lambda: Own(size, kind),
        sizes,
        st.sampled_from(["torch", "random", "numpy", "old", "philox"]),
    ),
    st.builds(
        lambda size, kind: lambda: Global(size, kind), sizes, st.sampled_from(["torch", "random", "numpy"])
    ),
    st.builds(lambda size: lambda: Stateful(size), sizes),
    st.builds(lambda size: lambda: ByIterator(size), sizes),
)


@st.composite
def samplers(draw: st.DrawFn, inner: Any) -> tuple[Make, bool]:
    """(what makes a sampler, whether it gives batches)."""
    make = draw(inner)
    how = draw(st.sampled_from(["single", "torch", "nested"]))
    if how == "single":
        return make, False
    if how == "nested":
        return lambda: Nested(make()), True
    size, drop_last = draw(st.integers(1, 12)), draw(st.booleans())
    return lambda: BatchSampler(make(), size, drop_last), True


def seed_all(seed: int = 11) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def drawn_next() -> list[Any]:
    """What the global generators give next; tells their states apart."""
    return [torch.rand(1).item(), random.random(), float(np.random.rand())]


def global_states() -> dict[str, Any]:
    return {name: state_of(dice) for name, dice in global_dice().items()}


def batches_of(sampler: Any, batched: bool) -> list[tuple[Any, ...]]:
    """What torch's loader gets."""
    return [tuple(batch) if batched else (batch,) for batch in sampler]


@given(samplers(st.one_of(known, others)))
@settings(max_examples=300, deadline=None)
def test_two_epochs_are_torchs_and_leave_the_generators_as_torch_does(drawn: tuple[Make, bool]) -> None:
    make, batched = drawn
    seed_all()
    sampler = make()
    theirs = [batches_of(sampler, batched) for _ in range(2)], drawn_next()
    seed_all()
    sampler = make()
    streams = [list(IndexStream(sampler, batched)) for _ in range(2)]
    ours = [[batch for _, batch in stream] for stream in streams], drawn_next()
    assert ours == theirs
    assert all([number for number, _ in stream] == list(range(len(stream))) for stream in streams)
    assert [type(index) for _, batch in streams[0] for index in batch] == [
        type(index) for batch in theirs[0][0] for index in batch
    ]


def taken(stream: IndexStream, count: int) -> list[tuple[int, tuple[Any, ...]]]:
    """The next batches, handed over."""
    got = []
    for _ in range(count):
        got.append(next(stream))
        stream.handed_over(got[-1][0])
    return got


@given(samplers(known), st.lists(st.integers(0, 5)))
@settings(max_examples=200, deadline=None)
def test_batches_taken_several_at_once_are_the_same(drawn: tuple[Make, bool], takes: list[int]) -> None:
    """Some by `take`, some one by one, as they come; what remains one by one."""
    make, batched = drawn
    seed_all()
    whole = list(IndexStream(make(), batched)), drawn_next()
    seed_all()
    stream, got = IndexStream(make(), batched), []
    for most in takes:
        block = stream.take(most) if most else None
        if block is not None:
            assert len(block.sizes) <= most
            assert sum(block.sizes) == len(block.indices)
            got += block.batches()
        elif (one := next(stream, None)) is not None:
            got.append(one)
    got += stream
    assert (got, drawn_next()) == whole
    end = stream.take(3)
    assert end is None or not end.sizes


def test_the_default_device_does_not_matter_where_torch_asks_it_for_nothing() -> None:
    with torch.device("meta"):
        stream = IndexStream(BatchSampler(SequentialSampler(range(5)), 2, False), True)
        assert list(stream) == [(0, (0, 1)), (1, (2, 3)), (2, (4,))]


def test_a_length_is_asked_for_as_late_as_torch_does() -> None:
    without: Any = iter(())
    stream = IndexStream(BatchSampler(SequentialSampler(without), 2, False), True)
    with pytest.raises(TypeError, match=r"has no len\(\)"):
        next(stream)


@pytest.mark.parametrize("sampler", [SequentialSampler(range(9)), RandomSampler(range(9))])
def test_what_is_missing_of_an_epoch_comes_one_by_one(sampler: Sampler[int]) -> None:
    """As the numbers aren't in sequence."""
    stream = IndexStream(BatchSampler(sampler, 2, False), True)
    for number in (3, 0):
        stream.handed_over(number)
    following = IndexStream(BatchSampler(sampler, 2, False), True, stream.place())
    assert following.take(4) is None
    assert [number for number, _ in following] == [1, 2, 4]


def through_json(place: Place) -> Place:
    return Place(**json.loads(json.dumps({name: getattr(place, name) for name in Place.__slots__})))


@given(samplers(st.one_of(known, others)), st.data())
@settings(max_examples=300, deadline=None)
def test_it_goes_on_from_any_place_in_a_new_process(drawn: tuple[Make, bool], data: st.DataObject) -> None:
    """Twice, with batches made ahead, and with other states of the global generators meanwhile."""
    make, batched = drawn
    seed_all()
    sampler = make()
    inner = getattr(sampler, "sampler", sampler)
    by_default = getattr(inner, "generator", None) is torch.default_generator
    assume(not (by_default and type(sampler) is Nested))  # draws from it now and then, as others do
    whole = list(IndexStream(sampler, batched))
    between = global_states()
    second_epoch = list(IndexStream(sampler, batched))

    seed_all()
    sampler = make()
    stream, got = IndexStream(sampler, batched), []
    for _ in range(2):
        count = data.draw(st.integers(0, len(whole) - len(got)))
        got += taken(stream, count)
        ahead = data.draw(st.integers(0, 5))
        made = len([next(stream, None) for _ in range(ahead)])
        place = through_json(stream.place())
        if count or made:
            seed_all(99)
        sampler = make()
        stream = IndexStream(sampler, batched, place)
        assert stream.place() == place
    before = global_states()
    got += stream
    assert got == whole, (type(sampler), vars(sampler), type(inner), vars(inner))
    if place.count and not by_default:
        assert global_states() == before, "the draws were made in the run that was saved"
    for name, dice in global_dice().items():
        restore(dice, between[name])
    assert list(IndexStream(sampler, batched)) == second_epoch


def test_after_a_short_last_batch_the_samplers_own_generator_goes_on() -> None:
    """Found by the test above: the second epoch was the first one again."""
    whole = IndexStream(BatchSampler(sampler := Own(5, "torch"), 3, False), True)
    epochs = [list(whole), list(IndexStream(BatchSampler(sampler, 3, False), True))]

    stream = IndexStream(BatchSampler(Own(5, "torch"), 3, False), True)
    taken(stream, 2)
    resumed = Own(5, "torch")
    assert list(IndexStream(BatchSampler(resumed, 3, False), True, through_json(stream.place()))) == []
    assert [list(IndexStream(BatchSampler(resumed, 3, False), True))] == epochs[1:]


# -- what it costs, and what can go wrong --------------------------------------------------------

MEASURE = """
import resource, tracemalloc
from torch.utils.data import *
from torch.utils.data.distributed import DistributedSampler as Torchs
import penstock
from penstock.indices import IndexStream

SIZE = 10**7
sampler = eval({sampler!r}, globals())
stream = IndexStream(BatchSampler(sampler, 256, False), True)
next(IndexStream(BatchSampler(RandomSampler(range(1000)), 256, False), True))  # what is imported late
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tracemalloc.start()
for _ in range(100):
    next(stream)
print(tracemalloc.get_traced_memory()[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("sampler", "bytes_each"),
    [
        ("SequentialSampler(range(SIZE))", 0),
        ("RandomSampler(range(SIZE))", 10),
        ("RandomSampler(range(SIZE), replacement=True)", 0),
        ("SubsetRandomSampler(range(SIZE))", 10),
        ("Torchs(range(SIZE), 2, 1)", 10),
        ("penstock.DistributedSampler(range(SIZE), 2, 1)", 10),
    ],
)
@pytest.mark.slow
def test_ten_bytes_a_sample_at_most(sampler: str, bytes_each: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(sampler=sampler)], capture_output=True, text=True, check=True
    )
    python_bytes, kilobytes = map(int, done.stdout.split())
    assert python_bytes < 1 << 20, "a list of all indices takes 8 bytes for each, and the integers 28"
    assert kilobytes * 1024 < bytes_each * 10**7 + (8 << 20)


@pytest.mark.slow
def test_a_second_shuffle_takes_the_place_of_the_first() -> None:
    program = MEASURE.replace("range(100)", "range(4 * 10**6 // 256 * 3)").replace("10**7", "4 * 10**6")
    done = subprocess.run(
        [sys.executable, "-c", program.format(sampler="RandomSampler(range(SIZE), num_samples=4 * SIZE)")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split()[1]) * 1024 < 10 * 4 * 10**6 + (8 << 20)


class Breaks(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        yield from range(5)
        raise KeyError("broken")


class StartsOver:
    """An iterator that ``iter`` sets back to its beginning, as Lightning's around a batch sampler."""

    def __iter__(self) -> StartsOver:
        self.left = iter([[0, 1], [2, 3], [4]])
        return self

    def __next__(self) -> list[int]:
        return next(self.left)


def test_a_sampler_is_asked_for_its_iterator_once() -> None:
    stream = IndexStream(StartsOver(), batched=True)
    assert [indices for _, indices in stream] == [(0, 1), (2, 3), (4,)]
    stream = IndexStream(StartsOver(), batched=True)
    stream.handed_over(next(stream)[0])
    following = IndexStream(StartsOver(), batched=True, place=stream.place())
    assert [indices for _, indices in following] == [(2, 3), (4,)]


def test_what_a_sampler_raises_comes_out_after_what_it_gave() -> None:
    stream = IndexStream(BatchSampler(Breaks(), 2, False), True)
    assert [next(stream) for _ in range(2)] == [(0, (0, 1)), (1, (2, 3))]
    with pytest.raises(KeyError, match="broken"):
        next(stream)


def test_a_distributed_sampler_whose_dataset_has_changed_fails_as_torchs_does() -> None:
    dataset = [0] * 10
    sampler = TorchDistributedSampler(dataset, 2, 0)
    dataset += [0] * 4
    with pytest.raises(AssertionError) as theirs:
        list(sampler)
    with pytest.raises(AssertionError) as ours:
        list(IndexStream(sampler, False))
    assert str(ours.value) == str(theirs.value)


def test_batches_handed_over_out_of_order() -> None:
    stream = IndexStream(SequentialSampler(range(10)), False)
    for number in (4, 0, 2):
        stream.handed_over(number)
    place = stream.place()
    assert (place.count, place.missing) == (3, [1, 3])
    assert [number for number, _ in IndexStream(SequentialSampler(range(10)), False, place)] == [
        1,
        3,
        *range(5, 10),
    ]
