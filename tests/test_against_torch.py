"""The same batches as torch's DataLoader: types, dtypes, structure, values, order, exceptions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils.data as torch_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, Subset, WeightedRandomSampler

import penstock
from tests.datasets import Mixed, Named, Ragged, Squares, equal

Loader = type[Any]


def batches(loader: Loader, seed: int, dataset: Any, **arguments: Any) -> list[Any]:
    torch.manual_seed(seed)
    return list(loader(dataset, **arguments))


def assert_same(dataset: Any, seed: int = 0, **arguments: Any) -> None:
    theirs = batches(torch_data.DataLoader, seed, dataset, **arguments)
    after_theirs = torch.rand(1)
    ours = batches(penstock.DataLoader, seed, dataset, **arguments)
    after_ours = torch.rand(1)
    assert equal(ours, theirs)
    assert torch.equal(after_ours, after_theirs), "the caller's generator is left in another state"


class Generated(torch_data.Dataset[Any]):
    """Samples of one generated template; numbers in them grow with the index."""

    def __init__(self, template: Any, size: int) -> None:
        self.template, self.size = template, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return fill(self.template, index)


def fill(template: Any, index: int) -> Any:
    if isinstance(template, dict):
        return {key: fill(value, index) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return type(template)(fill(value, index) for value in template)
    if isinstance(template, torch.Tensor):
        return (template + index).to(template.dtype)
    if isinstance(template, str):
        return f"{template}{index}"
    if isinstance(template, bool):
        return template ^ bool(index % 2)
    return template + index


dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
tensors = st.builds(lambda shape, dtype: torch.ones(shape).to(dtype), shapes, dtypes)
arrays = tensors.filter(lambda t: t.dtype != torch.bfloat16 and t.dtype != torch.bool).map(
    lambda t: t.numpy()
)
leaves = st.one_of(tensors, arrays, st.integers(-3, 3), st.floats(-1, 1), st.booleans(), st.just("s"))
samples = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@given(
    template=samples,
    size=st.integers(0, 12),
    batch_size=st.integers(1, 5),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    seed=st.integers(0, 10),
)
@settings(max_examples=150, deadline=None)
def test_generated_datasets_inline(
    template: Any, size: int, batch_size: int, drop_last: bool, shuffle: bool, seed: int
) -> None:
    if size == 0 and shuffle:
        size = 1  # torch's RandomSampler refuses an empty dataset in some versions
    dataset = Generated(template, size)
    assert_same(dataset, seed, batch_size=batch_size, drop_last=drop_last, shuffle=shuffle)


@given(
    template=samples,
    size=st.integers(1, 12),
    batch_size=st.integers(1, 5),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    workers=st.integers(1, 3),
    prefetch=st.integers(1, 3),
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_generated_datasets_with_workers(
    template: Any, size: int, batch_size: int, drop_last: bool, shuffle: bool, workers: int, prefetch: int
) -> None:
    """Against torch's inline loader, whose batches are those of its workers, and which is quick."""
    dataset = Generated(template, size)
    torch.manual_seed(3)
    order = {"batch_size": batch_size, "drop_last": drop_last, "shuffle": shuffle}
    theirs = list(torch_data.DataLoader(dataset, **order))
    torch.manual_seed(3)
    ours = list(penstock.DataLoader(dataset, num_workers=workers, prefetch_factor=prefetch, **order))
    assert equal(ours, theirs)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dataset", [Squares(50), Mixed(20), Named(20)], ids=lambda d: type(d).__name__)
def test_kinds_of_samples(dataset: Any, workers: int) -> None:
    assert_same(dataset, batch_size=8, shuffle=True, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_samplers(workers: int) -> None:
    dataset = Squares(30)
    weights = torch.arange(30, dtype=torch.double)
    for sampler in (
        RandomSampler(dataset, replacement=True, num_samples=45),
        SequentialSampler(dataset),
        WeightedRandomSampler(weights.tolist(), 20),
        [3, 1, 2],
    ):
        assert_same(dataset, batch_size=4, sampler=sampler, num_workers=workers)
    assert_same(dataset, batch_sampler=BatchSampler(RandomSampler(dataset), 7, True), num_workers=workers)
    assert_same(dataset, batch_sampler=[[1], [2, 3, 4], [5, 6]], num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_own_generator_decides_the_order(workers: int) -> None:
    def run(loader: Loader) -> list[Any]:
        generator = torch.Generator().manual_seed(7)
        both = loader(Squares(30), batch_size=4, shuffle=True, generator=generator, num_workers=workers)
        return [list(both), list(both)]

    assert equal(run(penstock.DataLoader), run(torch_data.DataLoader))


@pytest.mark.parametrize("workers", [0, 2])
def test_without_automatic_batching(workers: int) -> None:
    assert_same(Mixed(9), batch_size=None, num_workers=workers)
    assert_same(Squares(9), batch_size=None, shuffle=True, num_workers=workers)


def first_lengths(samples: list[Any]) -> Any:
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True), [len(s) for s in samples]


@pytest.mark.parametrize("workers", [0, 2])
def test_custom_collate(workers: int) -> None:
    assert_same(Ragged(30), batch_size=4, collate_fn=first_lengths, num_workers=workers)


class Bulk(Squares):
    """Is asked for whole batches, and remembers how long the lists were."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [(*self[i], len(indices)) for i in indices]


@pytest.mark.parametrize("workers", [0, 2])
def test_getitems_is_given_whole_batches(workers: int) -> None:
    assert_same(Bulk(20), batch_size=8, num_workers=workers)
    assert_same(Subset(Bulk(20), range(3, 19)), batch_size=8, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_subset_and_concat(workers: int) -> None:
    pieces = torch_data.ConcatDataset([Squares(5), Subset(Squares(40), list(range(30, 40)))])
    assert_same(pieces, batch_size=4, shuffle=True, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_tensor_dataset(workers: int) -> None:
    data = torch_data.TensorDataset(torch.randn(20, 3), torch.arange(20))
    assert_same(data, batch_size=6, shuffle=True, num_workers=workers)


class Promoting(Squares):
    """float32 for even indices, float64 for odd: torch's collate makes float64 of a mixture."""

    def __getitem__(self, index: int) -> Any:
        dtype = torch.float64 if index % 2 else torch.float32
        return torch.full((3,), float(index), dtype=dtype), 0.5 if index % 3 else 1


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_whose_dtypes_are_promoted(workers: int) -> None:
    theirs = batches(torch_data.DataLoader, 0, Promoting(24), batch_size=4, num_workers=0)
    ours = batches(penstock.DataLoader, 0, Promoting(24), batch_size=4, num_workers=workers)
    assert equal(ours, theirs)


class Bucketed(Squares):
    """Batches of another shape each time, every one regular in itself."""

    def __getitem__(self, index: int) -> Any:
        return torch.full((index // 8 + 1,), float(index))


@pytest.mark.parametrize("workers", [0, 2])
def test_shape_may_change_from_batch_to_batch(workers: int) -> None:
    assert_same(Bucketed(64), batch_size=8, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_ragged_samples_raise_as_in_torch(workers: int) -> None:
    with pytest.raises(RuntimeError, match="equal size"):
        list(torch_data.DataLoader(Ragged(20), batch_size=4, num_workers=0))
    with pytest.raises(RuntimeError, match="equal size"):
        list(penstock.DataLoader(Ragged(20), batch_size=4, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_empty_batch_raises_as_in_torch(workers: int) -> None:
    with pytest.raises(IndexError):
        list(penstock.DataLoader(Squares(5), batch_sampler=[[]], num_workers=workers))


def test_misuse_is_refused_as_in_torch() -> None:
    for wrong in ({"num_workers": -1}, {"batch_size": 0}, {"timeout": -1}, {"persistent_workers": True}):
        with pytest.raises(ValueError, match=r".") as theirs:
            torch_data.DataLoader(Squares(), **wrong)
        with pytest.raises(ValueError, match=r".") as ours:
            penstock.DataLoader(Squares(), **wrong)
        assert str(ours.value) == str(theirs.value)


def test_iterable_datasets_still_work() -> None:
    class Stream(torch_data.IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(10))

    assert equal(
        list(penstock.DataLoader(Stream(), batch_size=3)), list(torch_data.DataLoader(Stream(), batch_size=3))
    )
