"""`DistributedIterableDataset`: every sample to one rank and one worker, and all ranks end together."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from penstock import DataLoader, DistributedIterableDataset
from penstock.distributed.stream import rounds_of


class Shards(IterableDataset[int]):
    """Of unequal lengths, one after the other."""

    def __init__(self, *lengths: int) -> None:
        self.lengths, self.epoch = lengths, 0

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(range(100 * k, 100 * k + n) for k, n in enumerate(self.lengths))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


@given(st.integers(0, 50), st.integers(1, 9), st.booleans())
@settings(deadline=None)
def test_every_sample_comes_once_and_the_last_round_is_even(size: int, world: int, drop_last: bool) -> None:
    rounds = list(rounds_of(range(size), world, drop_last))
    assert len(rounds) == (size // world if drop_last else math.ceil(size / world))
    assert all(len(each) == world for each in rounds)
    flat = list(itertools.chain.from_iterable(rounds))
    assert flat[:size] == list(range(size))[: len(flat)]
    assert flat[size:] == [place % size for place in range(len(flat) - size)] if size else flat == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_and_workers(workers: int, drop_last: bool) -> None:
    shards, world = Shards(7, 0, 13, 2), 3
    samples = list(shards)
    ranks = []
    for rank in range(world):
        dataset = DistributedIterableDataset(shards, world, rank, drop_last, transform=torch.tensor)
        with DataLoader(dataset, batch_size=2, num_workers=workers) as loader:
            ranks.append([batch.tolist() for batch in loader])
    assert len({len(rank) for rank in ranks}) == 1, "no rank waits for another"
    seen = Counter(itertools.chain.from_iterable(itertools.chain.from_iterable(ranks)))
    spare = seen - Counter(samples)
    missing = Counter(samples) - seen
    assert (spare.total(), missing.total()) == ((0, 1) if drop_last else (2, 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_from_a_state_without_transforming_again(workers: int) -> None:
    def half(sample: int) -> Any:
        return torch.tensor([sample, asked.add(1)])

    def make() -> DataLoader[Any]:
        dataset = DistributedIterableDataset(Shards(20, 9), 2, 1, transform=half)
        return DataLoader(dataset, batch_size=3, num_workers=workers)

    asked = Asked()
    whole = [batch[:, 0].tolist() for batch in make()]
    loader, asked = make(), Asked()
    batches = iter(loader)
    before = [next(batches)[:, 0].tolist() for _ in range(3)]
    state = json.loads(json.dumps(loader.state_dict()))
    loader.close()
    loader, asked = make(), Asked()
    loader.load_state_dict(state)
    after = list(loader)
    assert before + [batch[:, 0].tolist() for batch in after] == whole
    if workers == 0:
        assert asked.count == sum(map(len, after))


class Asked:
    def __init__(self) -> None:
        self.count = 0

    def add(self, more: int) -> int:
        self.count += more
        return self.count


def test_the_epoch_reaches_the_dataset() -> None:
    shards = Shards(4)
    loader = DataLoader(DistributedIterableDataset(shards, 1, 0))
    loader.set_epoch(3)
    assert shards.epoch == 3
    DistributedIterableDataset([1, 2], 1, 0).set_epoch(1)  # which has no such thing


def test_wrong_ranks() -> None:
    with pytest.raises(ValueError, match=r"rank should be in \[0, 1\], but got 2"):
        DistributedIterableDataset([], 2, 2)
    with pytest.raises(RuntimeError, match="num_replicas can't be taken from there"):
        DistributedIterableDataset([])
    with pytest.raises(RuntimeError, match="so rank can't be taken from there"):
        DistributedIterableDataset([], 2)


PROGRAM = """
import torch, torch.distributed as dist
from penstock import DataLoader, DistributedIterableDataset
dist.init_process_group("gloo")
loader = DataLoader(DistributedIterableDataset(range(11)), batch_size=2, num_workers=2)
total = torch.zeros((), dtype=torch.int64)
for batch in loader:
    step = batch.sum()
    dist.all_reduce(step)  # hangs, if a rank has no batch for it
    total += step
if dist.get_rank() == 0:
    print("total", int(total))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_under_torchrun(tmp_path: Any) -> None:
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "total 55" in done.stdout, "sum(range(11)) and the first sample, 0, once more"
