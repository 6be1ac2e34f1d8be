"""`penstock.upgrade`, and torch's own class where its names stand for ours."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.utils.data
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler, SequentialSampler, TensorDataset

import penstock
from penstock.original import TorchDataLoader

DATA = TensorDataset(torch.arange(10), torch.arange(10.0))


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(7))

    def __len__(self) -> int:
        return 7


def first(samples: list[Any]) -> Any:
    return samples[0]


def no_preparation(_: int) -> None:
    pass


def settings() -> dict[str, dict[str, Any]]:
    """By what is special about it."""
    return {
        "plain": {},
        "sizes": {"batch_size": 3, "drop_last": True},
        "shuffled": {"batch_size": 4, "shuffle": True, "generator": torch.Generator().manual_seed(3)},
        "sampler": {"sampler": RandomSampler(DATA, replacement=True, num_samples=5)},
        "batch sampler": {"batch_sampler": BatchSampler(SequentialSampler(DATA), 4, True)},
        "no batches": {"batch_size": None, "sampler": [[1, 2], [3]]},
        "collate": {"batch_size": 2, "collate_fn": first},
        "workers": {
            "num_workers": 2,
            "prefetch_factor": 3,
            "persistent_workers": True,
            "timeout": 20,
            "worker_init_fn": no_preparation,
            "in_order": False,
        },
        "context": {"num_workers": 1, "multiprocessing_context": "forkserver"},
        "context object": {"num_workers": 1, "multiprocessing_context": multiprocessing.get_context("fork")},
        "iterable": {"dataset": Stream(), "batch_size": 2, "drop_last": True},
        "iterable, no batches": {"dataset": Stream(), "batch_size": None, "num_workers": 1},
    }


def plain(value: Any) -> Any:
    """Of a batch, what can be compared."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.tolist() if torch.is_tensor(value) else value


def batches(loader: torch.utils.data.DataLoader[Any]) -> list[Any]:
    torch.manual_seed(0)
    if loader.generator is not None:
        loader.generator.manual_seed(5)
    return [plain(batch) for batch in loader]


class TestSettings:
    @pytest.mark.parametrize("name", settings())
    def test_all_are_kept(self, name: str) -> None:
        before = TorchDataLoader(**{"dataset": DATA, **settings()[name]})
        after = penstock.upgrade(before)
        assert type(after) is penstock.DataLoader
        assert type(before) is TorchDataLoader
        arguments = {argument for argument in vars(before) if not argument.startswith("_")}
        assert {"dataset", "sampler", "batch_sampler", "collate_fn", "generator"} <= arguments
        for argument in (*arguments, "multiprocessing_context"):
            assert getattr(after, argument) is getattr(before, argument)
        with after:
            assert sorted(batches(after)) == sorted(batches(before))
            assert len(after) == len(before)
            assert after.stats().batches > 0

    def test_what_was_changed_since(self) -> None:
        before = TorchDataLoader(DATA, batch_size=4)
        before.num_workers = 1
        before.prefetch_factor = 2
        before.collate_fn = first
        before.note = "of mine"  # type: ignore[attr-defined]
        after: Any = penstock.upgrade(before)
        assert (after.num_workers, after.collate_fn, after.note) == (1, first, "of mine")
        after.note = "another"
        assert before.note == "of mine"  # type: ignore[attr-defined]
        assert [plain(batch)[0] for batch in after] == [0, 4, 8]

    def test_torchs_rules_hold_for_the_new_one(self) -> None:
        with pytest.raises(ValueError, match="batch_size attribute should not be set after DataLoader"):
            penstock.upgrade(TorchDataLoader(DATA)).batch_size = 3

    def test_persistent_workers_stay_with_the_old_one(self) -> None:
        before = TorchDataLoader(DATA, num_workers=1, persistent_workers=True)
        expected = batches(before)
        with penstock.upgrade(before) as after:
            assert batches(after) == batches(after) == batches(before) == expected
            assert after.stats().batches == 10
        del before

    def test_random_state_is_left_alone(self) -> None:
        torch.manual_seed(1)
        state = torch.get_rng_state()
        penstock.upgrade(TorchDataLoader(DATA, shuffle=True, num_workers=2))
        assert torch.equal(torch.get_rng_state(), state)

    def test_penstocks_own_is_returned(self) -> None:
        loader = penstock.DataLoader(DATA)
        assert penstock.upgrade(loader) is loader
        upgraded = penstock.upgrade(TorchDataLoader(DATA))
        assert penstock.upgrade(upgraded) is upgraded

    @pytest.mark.parametrize("thing", [[1, 2], None, DATA, TorchDataLoader, iter(TorchDataLoader(DATA))])
    def test_anything_else_is_refused(self, thing: Any) -> None:
        with pytest.raises(TypeError, match=r"takes a torch.utils.data.DataLoader, not \S+; upgrade"):
            penstock.upgrade(thing)


class Tagged(TorchDataLoader[Any]):
    """What programs make of torch's class."""

    def __init__(self, tag: str, **arguments: Any) -> None:
        self.tag = tag
        super().__init__(DATA, batch_size=5, **arguments)

    def __iter__(self) -> Any:
        return ((self.tag, plain(batch[0])) for batch in super().__iter__())

    def __len__(self) -> int:
        return super().__len__() + 1


@dataclass
class Meta:
    """Of another class beside torch's."""

    def extra(self) -> str:
        return "extra"


class Mixed(Meta, Tagged):
    def __init__(self) -> None:
        Tagged.__init__(self, "mixed")


EXPECTED = [("t", [0, 1, 2, 3, 4]), ("t", [5, 6, 7, 8, 9])]


class TestSubclasses:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_keep_their_methods_and_reach_penstocks_by_super(self, workers: int) -> None:
        loader: Any = penstock.upgrade(Tagged("t", num_workers=workers))
        assert isinstance(loader, Tagged)
        assert isinstance(loader, penstock.DataLoader)
        assert type(loader).__name__ == "Tagged"
        assert list(loader) == EXPECTED
        assert loader.stats().batches == 2
        assert len(loader) == 3
        assert penstock.upgrade(loader) is loader

    def test_of_several_classes(self) -> None:
        loader: Any = penstock.upgrade(Mixed())
        assert loader.extra() == "extra"
        assert [tag for tag, _ in loader] == ["mixed"] * 2
        assert loader.stats().batches == 2

    def test_one_class_for_all_objects_of_one(self) -> None:
        assert type(penstock.upgrade(Tagged("a"))) is type(penstock.upgrade(Tagged("b")))

    def test_can_be_pickled(self) -> None:
        loader: Any = penstock.upgrade(Tagged("t"))
        assert list(loader) == EXPECTED
        again = pickle.loads(pickle.dumps(loader))
        assert type(again) is type(loader)
        assert list(again) == EXPECTED


REPLACED = {
    "before the import": ("torch.utils.data.DataLoader = torch.utils.data.dataloader.DataLoader = None", ""),
    "after the import": (
        "",
        "torch.utils.data.DataLoader = torch.utils.data.dataloader.DataLoader = penstock.DataLoader",
    ),
    "before and again": (
        "import penstock; torch.utils.data.DataLoader = penstock.DataLoader\n"
        "torch.utils.data.dataloader.DataLoader = penstock.DataLoader\n"
        "for name in list(sys.modules):\n    if name.split('.')[0] == 'penstock': del sys.modules[name]",
        "",
    ),
}


@pytest.mark.parametrize(
    "when",
    [
        pytest.param("before the import", marks=pytest.mark.slow),
        pytest.param("after the import", marks=pytest.mark.slow),
        "before and again",
    ],
)
def test_torchs_own_class_is_found_where_its_names_are_taken(when: str) -> None:
    before, after = REPLACED[when]
    code = f"""
import sys
import torch.utils.data
own = torch.utils.data.DataLoader
{before}
import penstock
from penstock.original import TorchDataLoader
loader = penstock.DataLoader(range(5), batch_size=2, num_workers=1)
{after}
assert TorchDataLoader is own
assert penstock.DataLoader.__mro__[1] is own
assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
class Stream(torch.utils.data.IterableDataset):
    def __iter__(self): return iter(range(3))
assert len(list(penstock.DataLoader(Stream()))) == 3
assert isinstance(penstock.upgrade(own(range(3))), penstock.DataLoader)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_penstock_does_not_import_torch() -> None:
    """`penstock run` goes first, and has to be quick."""
    code = "import sys, penstock.cli; assert 'torch' not in sys.modules; assert 'DataLoader' in dir(penstock)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "from penstock import *; assert DataLoader.__name__ == 'DataLoader'; assert upgrade"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'penstock' has no attribute 'nothing'"):
        _ = penstock.nothing
