"""`DistributedSampler`: torch's own order, and epochs that go on with another number of ranks."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data.distributed import DistributedSampler as TorchDistributedSampler

from penstock import DataLoader, DistributedSampler, StateError
from tests.datasets import Squares

sizes, worlds, epochs = st.integers(0, 60), st.integers(1, 7), st.integers(0, 3)


@given(sizes, worlds, epochs, st.booleans(), st.booleans())
@settings(deadline=None)
def test_it_is_torchs_sampler(size: int, world: int, epoch: int, shuffle: bool, drop_last: bool) -> None:
    for rank in range(world):
        ours, theirs = (
            kind(range(size), world, rank, shuffle, 5, drop_last)
            for kind in (DistributedSampler, TorchDistributedSampler)
        )
        assert isinstance(ours, TorchDistributedSampler)
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert list(ours) == list(theirs)
        assert all(type(index) is int for index in ours)
        names = ("num_samples", "total_size", "num_replicas", "rank", "epoch", "seed", "shuffle", "drop_last")
        assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
        assert len(ours) == len(theirs) == len(list(ours))


@given(sizes, st.lists(worlds, min_size=1, max_size=4), st.booleans(), st.data())
@settings(deadline=None)
def test_over_an_epoch_every_sample_comes_once_whatever_the_worlds(
    size: int, stages: list[int], drop_last: bool, data: st.DataObject
) -> None:
    """Each world takes some steps, in which every rank takes as many samples; the last goes to the end."""
    seen: list[int] = []
    for stage, world in enumerate(stages):
        ranks = []
        for rank in range(world):
            sampler = DistributedSampler(range(size), world, rank, seed=2, drop_last=drop_last)
            sampler.set_epoch(1, consumed=len(seen))
            ranks.append(list(sampler))
        steps = len(ranks[0])
        assert all(len(rank) == steps for rank in ranks), "no rank waits for another"
        if stage < len(stages) - 1:
            steps = data.draw(st.integers(0, max(0, size - len(seen)) // world))
        seen += [rank[step] for step in range(steps) for rank in ranks]
    spare = len(seen) - size
    counts = Counter(seen)
    if drop_last:
        assert -stages[-1] < spare <= 0
        assert max(counts.values(), default=1) == 1
    else:
        assert 0 <= spare < stages[-1] or not size
        assert set(seen) == set(range(size))
    whole = DistributedSampler(range(size), 1, 0, seed=2)
    whole.set_epoch(1)
    order = list(whole)
    assert seen == (order * 8)[: len(seen)] or not size


def test_consumed_holds_until_the_next_epoch_is_set() -> None:
    sampler = DistributedSampler(range(20), 2, 1, shuffle=False)
    sampler.set_epoch(0, consumed=12)
    assert list(sampler) == list(sampler) == [13, 15, 17, 19]
    assert len(sampler) == 4
    sampler.set_epoch(1)
    assert len(sampler) == len(list(sampler)) == 10
    with pytest.raises(ValueError, match="consumed should be 0 or more, but got -1"):
        sampler.set_epoch(1, consumed=-1)


# -- through the loader --------------------------------------------------------------------------


class Run:
    """A world of ranks in step, each with its loader; all go on from rank 0's state, as it is usual."""

    def __init__(self, size: int, world: int, batch: int, drop_last: bool, **options: Any) -> None:
        self.loaders: list[DataLoader[Any]] = []
        for rank in range(world):
            sampler = DistributedSampler(range(size), world, rank, seed=2, drop_last=drop_last)
            sampler.set_epoch(1)
            self.loaders.append(DataLoader(Squares(size), batch, sampler=sampler, **options))

    def load(self, state: dict[str, Any]) -> None:
        for loader in self.loaders:
            loader.load_state_dict(json.loads(json.dumps(state)))

    def steps(self, count: int | None) -> list[list[list[int]]]:
        """What the ranks got in each step."""
        iterators = [iter(loader) for loader in self.loaders]
        got = []
        while count is None or len(got) < count:
            batches = [next(iterator, None) for iterator in iterators]
            if None in batches:
                assert all(batch is None for batch in batches), "all ranks end together"
                break
            got.append([batch[1].tolist() for batch in batches if batch is not None])
        return got


def samples(steps: list[list[list[int]]]) -> list[int]:
    """In the order in which the world consumed them."""
    return [index for step in steps for turn in zip(*step, strict=True) for index in turn]


@given(sizes, st.lists(worlds, min_size=2, max_size=3), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_an_epoch_goes_on_with_another_number_of_ranks(
    size: int, stages: list[int], drop_last: bool, data: st.DataObject
) -> None:
    """With another number of ranks the batches may be of another size too."""
    whole = DistributedSampler(range(size), 1, 0, seed=2)
    whole.set_epoch(1)
    order, seen, state = list(whole), list[int](), None
    sizes = {world: data.draw(st.integers(1, 5)) for world in stages}
    for stage, world in enumerate(stages):
        batch = sizes[world]
        run = Run(size, world, batch, drop_last)
        if state is not None:
            run.load(state)
        left = max(0, size - len(seen)) // (world * batch)
        steps = run.steps(None if stage == len(stages) - 1 else data.draw(st.integers(0, left)))
        seen += samples(steps)
        states = [loader.state_dict() for loader in run.loaders]
        state = states[0]
        assert [each["_num_yielded"] for each in states] == [state["_num_yielded"]] * world
        assert [each.get("order") for each in states] == [state.get("order")] * world, "any rank's will do"
    assert seen == (order * 8)[: len(seen)]
    assert not size or abs(len(seen) - size) < world
    assert len(seen) <= size if drop_last else len(seen) >= size


def test_the_same_world_goes_on_as_if_nothing_had_been() -> None:
    whole = Run(50, 3, 4, False).steps(None)
    first = Run(50, 3, 4, False)
    before = first.steps(2)
    second = Run(50, 3, 4, False, num_workers=1)
    second.load(first.loaders[0].state_dict())
    assert before + second.steps(None) == whole


def test_the_same_world_is_held_to_its_batch_size() -> None:
    first = Run(50, 2, 4, False)
    first.steps(2)
    with pytest.raises(StateError, match="batch_size: 4 then, 8 now"):
        Run(50, 2, 8, False).load(first.loaders[0].state_dict())


def test_out_of_order_only_the_same_world_goes_on() -> None:
    state = Run(50, 2, 4, False).loaders[0].state_dict() | {"missing": [3]}
    with pytest.raises(StateError, match="in_order=False"):
        Run(50, 3, 4, False).load(state)
