"""Rows and blocks: what comes out equals what torch would have made, and stands in the block."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from penstock.arena import Arena, Bytes
from penstock.collate import (
    BlockWriter,
    Irregular,
    RowWriter,
    Scratch,
    Spec,
    batch_of_rows,
    group_of,
    is_default_collate,
    spec_of,
    stack_into,
    tensors_of,
    unpack,
)
from penstock.collate.scratch import KEPT, LEAST
from penstock.errors import BatchNotSendableError
from tests.datasets import equal


class Point(NamedTuple):
    x: Any
    y: Any


class Labelled(torch.Tensor):
    """A tensor subclass."""


class Box:
    """An object of a class of the user's own."""

    def __init__(self, content: Any) -> None:
        self.content = content


@dataclass
class Pair:
    left: Any
    right: Any


class Slot:
    """One slot of real shared memory, until the end of a test."""

    def __init__(self) -> None:
        self._arenas = [Arena(budget=1 << 20)]

    @property
    def writer(self) -> BlockWriter:
        return BlockWriter(lambda nbytes: self._arenas[0].memory.reserve(0, nbytes))

    def bytes(self, nbytes: int = 1 << 20) -> Bytes:
        return self._arenas[0].memory.slot(0, nbytes)

    def close(self) -> None:
        self._arenas.pop().close()


@pytest.fixture
def slot() -> Iterator[Slot]:
    slot = Slot()
    yield slot
    slot.close()


# -- rows ----------------------------------------------------------------------------------------------


Fill = Callable[[list[Any], Spec, list[torch.Tensor], int], None]


def fill(samples: list[Any], spec: Spec, tensors: list[torch.Tensor], first: int) -> None:
    writer = RowWriter(spec, tensors)
    for start in range(0, len(samples), writer.group):
        writer.write(samples[start : start + writer.group], first + start)


def fill_one_by_one(samples: list[Any], spec: Spec, tensors: list[torch.Tensor], first: int) -> None:
    writer = RowWriter(spec, tensors)
    for row, sample in enumerate(samples, first):
        writer.write_one(sample, row)


def in_rows(samples: list[Any], cuts: tuple[int, ...] = (), fill: Fill = fill) -> Any:
    """The batch of `samples`, placed by one writer for each run of samples between the cuts."""
    spec = spec_of(samples[0])
    block = np.full(spec.layout(len(samples))[1], 0xAB, np.uint8)
    for start, end in itertools.pairwise([0, *cuts, len(samples)]):
        fill(samples[start:end], spec, tensors_of(block, spec, len(samples)), start)
    return batch_of_rows(block, spec, len(samples))


FILLS = pytest.mark.parametrize("fill", [fill, fill_one_by_one])


REGULAR: dict[str, Callable[[int], Any]] = {
    "float": float,
    "int": lambda i: i - 1,
    "bool": lambda i: i % 2 == 0,
    "float32 tensor": lambda i: torch.full((3, 2), float(i)),
    "uint8 tensor": lambda i: torch.full((5,), i, dtype=torch.uint8),
    "bool tensor": lambda i: torch.tensor([i > 1, True]),
    "bfloat16 tensor": lambda i: torch.full((3,), float(i), dtype=torch.bfloat16),
    "complex64 tensor": lambda i: torch.full((3,), complex(i, -i)),
    "conjugate tensor": lambda i: torch.full((3,), complex(i, -i)).conj(),
    "negated tensor": lambda i: torch.full((3,), complex(i, -i)).conj().imag,
    "negated contiguous tensor": lambda i: torch.full((1,), complex(i, -i)).conj().imag,
    "negated whole numbers": lambda i: torch._neg_view(torch.full((3,), i)),
    "0-d tensor": lambda i: torch.tensor(i),
    "empty tensor": lambda _: torch.empty(0, 3),
    "transposed tensor": lambda i: torch.arange(6).reshape(2, 3).t() + i,
    "expanded tensor": lambda i: torch.tensor([[float(i)]]).expand(4, 5),
    "large tensor": lambda i: torch.full((200, 200), float(i)),
    "int16 array": lambda i: np.full((2, 3), i, np.int16),
    "float16 array": lambda i: np.full((2, 3), i, np.float16),
    "Fortran array": lambda i: np.asfortranarray(np.arange(6.0).reshape(2, 3)) + i,
    "strided array": lambda i: np.arange(10)[::3] + i,
    "0-d array": lambda i: np.array(i),
    "empty array": lambda _: np.empty((2, 0)),
    "float32 scalar": np.float32,
    "float64 scalar": np.float64,
    "int8 scalar": np.int8,
    "bool scalar": lambda i: np.bool_(i % 2),
    "complex64 scalar": np.complex64,
    "list": lambda i: [i, float(i)],
    "tuple": lambda i: (i, torch.tensor([i])),
    "namedtuple": lambda i: Point(i, (i, float(i))),
    "dict": lambda i: {"b": i, "a": {1: torch.tensor([i])}},
    "empty containers": lambda i: (i, [], (), {}),
    "no leaves": lambda _: ([], {"a": ()}),
}


@FILLS
@pytest.mark.parametrize("make", REGULAR.values(), ids=REGULAR)
def test_rows_equal_torchs_batch(make: Callable[[int], Any], fill: Fill) -> None:
    samples = [make(i) for i in range(4)]
    assert equal(in_rows(samples, fill=fill), default_collate(samples))


@pytest.mark.parametrize("make", REGULAR.values(), ids=REGULAR)
def test_rows_of_several_writers_equal_torchs_batch(make: Callable[[int], Any]) -> None:
    samples = [make(i) for i in range(4)]
    assert equal(in_rows(samples, cuts=(1, 3)), default_collate(samples))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.data())
def test_any_split_makes_the_same_batch(numbers: list[int], data: Any) -> None:
    samples = [(n, np.array([n]), {"a": torch.tensor(n)}) for n in numbers]
    cuts = data.draw(st.lists(st.integers(0, len(numbers)), max_size=4).map(sorted).map(tuple))
    assert equal(in_rows(samples, cuts), default_collate(samples))


def test_more_samples_than_are_placed_at_once_stay_in_order() -> None:
    samples = [torch.full((13_000,), float(i)) for i in range(17)]
    assert group_of(spec_of(samples[0])) == 5
    assert equal(in_rows(samples), default_collate(samples))


def test_a_writer_leaves_the_rows_of_others_alone() -> None:
    spec = spec_of((0, torch.zeros(2)))
    block = np.full(spec.layout(4)[1], 7, np.uint8)
    before = batch_of_rows(block.copy(), spec, 4)
    fill([(1, torch.ones(2)), (2, torch.ones(2))], spec, tensors_of(block, spec, 4), 1)
    after = batch_of_rows(block, spec, 4)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[0], new[0])
        assert torch.equal(old[3], new[3])
        assert not torch.equal(old[1:3], new[1:3])


def test_the_batch_stands_in_the_block() -> None:
    spec = spec_of(torch.zeros(2))
    block = np.zeros(spec.layout(3)[1], np.uint8)
    batch = batch_of_rows(block, spec, 3)
    block[:] = 255
    assert batch.isnan().all()


def test_columns_start_at_cache_lines_and_do_not_overlap() -> None:
    spec = spec_of((True, torch.zeros(5), np.int16(1)))
    starts, nbytes = spec.layout(7)
    ends = [start + 7 * column.nbytes for start, column in zip(starts, spec.columns, strict=True)]
    assert all(start % 64 == 0 for start in starts)
    assert all(end <= start for end, start in zip(ends, [*starts[1:], nbytes], strict=True))


@pytest.mark.parametrize(
    "leaf",
    [
        "text",
        b"bytes",
        None,
        object(),
        {1, 2},
        OrderedDict(a=1),
        1 + 2j,
        range(3),
        torch.zeros(2, requires_grad=True),
        torch.zeros(2).to_sparse(),
        torch.zeros(2).as_subclass(Labelled),
        torch.nn.Parameter(torch.zeros(2)),
        torch.zeros(2, device="meta"),
        np.array(["text"]),
        np.array([None]),
        np.zeros(2, [("a", "i4")]),
        np.zeros(2, ">i4"),
        np.zeros(2).view(np.ma.MaskedArray),
        np.datetime64("2020-01-01"),
        np.timedelta64(1, "s"),
        np.longdouble(1),
        np.str_("text"),
    ],
    ids=lambda leaf: f"{type(leaf).__name__} {getattr(leaf, 'dtype', '')}",
)
def test_what_has_no_fixed_bytes_is_irregular(leaf: Any) -> None:
    with pytest.raises(Irregular):
        spec_of((1, leaf))


MISMATCHES: dict[str, tuple[Any, Any]] = {
    "dtype": (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    "shape": (torch.zeros(2), torch.zeros(3)),
    "shape that broadcasts": (torch.zeros(2), torch.zeros(1)),
    "dimensions": (torch.zeros(2), torch.zeros(1, 2)),
    "requires_grad": (torch.zeros(2), torch.zeros(2, requires_grad=True)),
    "sparse": (torch.zeros(2), torch.zeros(2).to_sparse()),
    "subclass": (torch.zeros(2), torch.zeros(2).as_subclass(Labelled)),
    "array for a tensor": (torch.zeros(2), np.zeros(2, np.float32)),
    "dtype of an array": (np.zeros(2), np.zeros(2, np.float32)),
    "byte order of an array": (np.zeros(2, "<i4"), np.zeros(2, ">i4")),
    "shape of an array": (np.zeros((2, 2)), np.zeros(2)),
    "shape of a 0-d array": (np.array(1), np.array([1])),
    "subclass of an array": (np.zeros(2), np.zeros(2).view(np.ma.MaskedArray)),
    "int for a float": (1.0, 1),
    "float for an int": (1, 1.0),
    "bool for an int": (1, True),
    "numpy scalar for an int": (1, np.int64(1)),
    "too large for int64": (1, 2**63),
    "too small for int64": (1, -(2**63) - 1),
    "str": (1, "one"),
    "None": (1, None),
    "list for a number": (1, [1]),
    "number for a list": ([1], 1),
    "length of a list": ([1], [1, 2]),
    "tuple for a list": ([1], (1,)),
    "extra key": ({"a": 1}, {"a": 1, "b": 2}),
    "missing key": ({"a": 1, "b": 2}, {"a": 1}),
    "other key": ({"a": 1}, {"b": 1}),
}


LATE = ("requires_grad", "sparse", "too large for int64", "too small for int64")
"""Told apart only when the sample is placed."""


@pytest.mark.parametrize(("first", "odd"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_sample_unlike_the_first_is_irregular(first: Any, odd: Any) -> None:
    spec = spec_of(first)
    tensors = tensors_of(np.zeros(spec.layout(3)[1], np.uint8), spec, 3)
    with pytest.raises(Irregular):
        fill([first, odd, first], spec, tensors, 0)


@FILLS
@pytest.mark.parametrize(("first", "odd"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_lone_sample_unlike_the_first_is_irregular(first: Any, odd: Any, fill: Fill) -> None:
    spec = spec_of(first)
    tensors = tensors_of(np.zeros(spec.layout(3)[1], np.uint8), spec, 3)
    with pytest.raises(Irregular):
        fill([odd], spec, tensors, 1)


def test_the_guess_is_returned_itself_where_it_fits() -> None:
    sample = {"a": (torch.zeros(2), 1), "b": np.zeros(3)}
    guess = spec_of(sample)
    assert spec_of(sample, guess) is guess


@pytest.mark.parametrize("name", [name for name in MISMATCHES if name not in LATE])
def test_a_guess_that_does_not_fit_is_not_returned(name: str) -> None:
    first, odd = MISMATCHES[name]
    guess = spec_of(first)
    try:
        spec = spec_of(odd, guess)
    except Irregular:
        return
    assert spec is not guess
    assert spec == spec_of(odd)


def test_what_came_before_does_not_decide_the_order_of_the_keys() -> None:
    before = spec_of({"a": 1, "b": 2})
    sample = {"b": 2, "a": 1}
    assert spec_of(sample, before) == spec_of(sample)


def test_torchs_default_collate_is_known() -> None:
    assert is_default_collate(default_collate)
    assert not is_default_collate(lambda samples: default_collate(samples))


def test_a_rule_of_the_users_own_is_not_torchs_default(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = torch.utils.data._utils.collate.default_collate_fn_map
    monkeypatch.setitem(rules, Box, lambda batch, **_: batch)
    assert not is_default_collate(default_collate)


# -- block ---------------------------------------------------------------------------------------------


def writer_over(block: Bytes) -> BlockWriter:
    return BlockWriter(lambda nbytes: block[:nbytes])


def through_block(batch: Any, slot: Slot) -> Any:
    start, nbytes = slot.writer.pack(batch)
    return unpack(slot.bytes(nbytes), start)


TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "float32": lambda: torch.arange(6.0).reshape(2, 3),
    "bool": lambda: torch.tensor([True, False, True]),
    "uint8": lambda: torch.arange(5, dtype=torch.uint8),
    "bfloat16": lambda: torch.arange(5, dtype=torch.bfloat16),
    "float8": lambda: torch.arange(4.0).to(torch.float8_e4m3fn),
    "complex64": lambda: torch.tensor([1 + 2j, -3j]),
    "conjugate": lambda: torch.tensor([1 + 2j, -3j]).conj(),
    "negative": lambda: torch.tensor([1 + 2j, -3j]).conj().imag,
    "0-d": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0, 3, dtype=torch.int16),
    "expanded": lambda: torch.tensor([[1.0], [2.0]]).expand(2, 4),
    "expanded from 0-d": lambda: torch.tensor(1.5).expand(3, 4),
    "expanded to one": lambda: torch.tensor(1.5).expand(1),
    "sliced": lambda: torch.arange(20).reshape(4, 5)[1:3, ::2],
    "overlapping": lambda: torch.arange(6).unfold(0, 3, 1),
    "requires_grad": lambda: torch.ones(3, requires_grad=True),
}


@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)
def test_tensors_come_out_as_they_went_in(make: Callable[[], torch.Tensor], slot: Slot) -> None:
    tensor = make()
    got = through_block([tensor, "beside"], slot)[0]
    assert (got.dtype, got.shape, got.requires_grad) == (tensor.dtype, tensor.shape, tensor.requires_grad)
    assert torch.equal(got.to(torch.complex64), tensor.to(torch.complex64))


def test_a_sparse_tensor_comes_out_as_it_went_in_and_lets_go_of_the_block() -> None:
    tensor = torch.eye(3).to_sparse()
    block = np.empty(1 << 16, np.uint8)
    start, nbytes = writer_over(block).pack([tensor])
    (got,) = unpack(block[:nbytes], start)
    assert torch.equal(got.to_dense(), torch.eye(3))
    alive = weakref.ref(block)
    del block, got
    assert alive() is None


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(3, 4).t(),
        torch.rand(2, 3, 4).permute(2, 0, 1),
    ],
    ids=["channels_last", "transposed", "permuted"],
)
def test_strides_are_kept(tensor: torch.Tensor, slot: Slot) -> None:
    got = through_block(tensor, slot)
    assert got.stride() == tensor.stride()
    assert torch.equal(got, tensor)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10)[::-3],
        np.array(5),
        np.empty((0, 3), np.int8),
        np.array(["a", "bc"]),
        np.array([{"a": 1}, None]),
        np.zeros(3, [("a", "i4"), ("b", "f8")]),
        np.arange(3, dtype=">i4"),
        np.array(["2020-01-01"], "datetime64[D]"),
    ],
    ids=lambda a: f"{a.dtype} {a.shape} {a.strides}",
)
def test_arrays_come_out_as_they_went_in(array: Any, slot: Slot) -> None:
    got = through_block({"array": array}, slot)["array"]
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert np.array_equal(got, array)


def test_tensors_and_arrays_stand_in_the_block(slot: Slot) -> None:
    tensor, array = through_block((torch.zeros(50), np.zeros(50)), slot)
    slot.bytes(1000)[:] = 255
    assert tensor.isnan().all()
    assert np.isnan(array).all()


def test_tensors_and_arrays_from_a_block_can_be_written(slot: Slot) -> None:
    tensor, array = through_block((torch.zeros(5), np.zeros(5)), slot)
    tensor += 1
    array += 1
    assert tensor.sum() == array.sum() == 5


def test_objects_of_any_class_come_out_as_they_went_in(slot: Slot) -> None:
    batch = Pair(Box([torch.arange(3), {"a": Box("text")}]), Point(np.arange(3), {1, 2}))
    got = through_block(batch, slot)
    assert (type(got), type(got.left), type(got.right)) == (Pair, Box, Point)
    assert torch.equal(got.left.content[0], torch.arange(3))
    assert got.left.content[1]["a"].content == "text"
    assert np.array_equal(got.right.x, np.arange(3))
    assert got.right.y == {1, 2}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_storages_come_out_as_they_went_in(slot: Slot) -> None:
    batch = [torch.arange(5.0).untyped_storage(), torch.UntypedStorage(0), torch.arange(3).storage()]
    first, empty, typed = through_block(batch, slot)
    assert type(first) is type(empty) is torch.UntypedStorage
    assert torch.empty(0).set_(first).tolist() == [0, 1, 2, 3, 4]
    assert empty.nbytes() == 0
    assert typed.tolist() == [0, 1, 2]


def test_a_tensor_that_appears_twice_is_one_tensor_afterwards(slot: Slot) -> None:
    tensor = torch.arange(3)
    got = through_block({"a": tensor, "b": [tensor]}, slot)
    assert got["a"] is got["b"][0]


def test_a_block_grows_beyond_its_first_page(slot: Slot) -> None:
    tensors = [torch.full((5000,), float(i)) for i in range(5)]
    for got, tensor in zip(through_block(tensors, slot), tensors, strict=True):
        assert torch.equal(got, tensor)


def test_what_only_cloudpickle_can_send_is_sent(slot: Slot) -> None:
    class Local:
        def __init__(self) -> None:
            self.tensor, self.call = torch.arange(3), lambda x: x + 1

    got = through_block([Local(), torch.arange(2)], slot)
    assert torch.equal(got[0].tensor, torch.arange(3))
    assert got[0].call(1) == 2
    assert torch.equal(got[1], torch.arange(2))


def test_what_cannot_be_pickled_is_told_with_its_type_and_the_reason(slot: Slot) -> None:
    with pytest.raises(BatchNotSendableError, match=r"type Box .*lock"):
        through_block(Box(threading.Lock()), slot)


# -- stacking into memory that is used again ------------------------------------------------------------


def collated_in_block(samples: list[Any], slot: Slot) -> tuple[Any, Any, int]:
    """(the batch as collated, the batch unpacked, bytes of the block)."""
    with stack_into(Scratch()):
        batch = default_collate(samples)
    start, nbytes = slot.writer.pack(batch)
    return batch, unpack(slot.bytes(nbytes), start), nbytes


def stacked(scratch: Scratch, value: float) -> torch.Tensor:
    samples = [torch.full((LEAST // 8,), value) for _ in range(4)]
    with stack_into(scratch):
        batch: torch.Tensor = default_collate(samples)
    assert equal(batch, default_collate(samples))
    return batch


def test_memory_is_stacked_into_again_once_nothing_views_it() -> None:
    scratch = Scratch()
    first = stacked(scratch, 1.0)
    address = first.data_ptr()
    del first
    assert stacked(scratch, 2.0).data_ptr() == address


def test_memory_that_a_view_holds_is_left_alone() -> None:
    scratch = Scratch()
    first = stacked(scratch, 1.0)
    piece = first[2:3].view(-1)[5:9]
    del first
    for value in (2.0, 3.0):
        stacked(scratch, value)
    assert piece.tolist() == [1.0] * 4


def test_of_memory_that_comes_back_all_at_once_little_is_kept() -> None:
    scratch = Scratch()
    pieces = [scratch.block(1000) for _ in range(3 * KEPT)]
    addresses = {piece.ctypes.data for piece in pieces}
    del pieces
    assert len(scratch._idle) == KEPT
    assert scratch.block(1000).ctypes.data in addresses


def test_a_piece_is_hardly_larger_than_what_was_asked_for() -> None:
    scratch = Scratch()
    del (large := [scratch.block(1000)])[:]
    assert not large
    assert scratch.block(400).nbytes < 1000
    assert scratch.block(600).nbytes == 1000


@FILLS
def test_a_tensor_that_was_placed_can_be_resized_afterwards(fill: Fill) -> None:
    samples = [torch.full((3, 2), float(i)) for i in range(3)]
    in_rows(samples, fill=fill)
    assert samples[1].resize_(100).numel() == 100


@pytest.mark.parametrize(
    "samples",
    [
        [torch.zeros(2), torch.zeros(2, dtype=torch.float64)],
        [torch.empty(0, 2), torch.empty(0, 2)],
        [torch.zeros(2).as_subclass(Labelled), torch.zeros(2).as_subclass(Labelled)],
    ],
    ids=["dtypes", "empty", "subclass"],
)
def test_what_has_no_place_in_the_block_is_stacked_as_torch_does(samples: list[Any], slot: Slot) -> None:
    made, _, _ = collated_in_block(samples, slot)
    expected = default_collate(samples)
    assert (type(made), made.dtype) == (type(expected), expected.dtype)
    assert torch.equal(made, expected)


def test_what_autograd_made_is_refused_as_in_torch(slot: Slot) -> None:
    with pytest.raises(BatchNotSendableError, match="autograd's record"):
        collated_in_block([torch.zeros(2, requires_grad=True), torch.zeros(2)], slot)


@pytest.mark.parametrize(
    "samples",
    [
        [torch.zeros(2), torch.zeros(3)],
        [torch.eye(2).to_sparse(), torch.eye(2).to_sparse()],
        [[1, 2], [1]],
        [torch.zeros(2), 1],
        [{"a": 1}, {"b": 1}],
        [object(), object()],
        [None, None],
    ],
    ids=["shapes", "sparse", "lengths", "kinds", "keys", "objects", "None"],
)
def test_errors_are_torchs(samples: list[Any], slot: Slot) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011  whatever torch raises
        default_collate(samples)
    with pytest.raises(theirs.type) as ours:
        collated_in_block(samples, slot)
    assert ours.type is theirs.type
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("fails", [False, True])
def test_torchs_rule_is_back_afterwards(fails: bool) -> None:
    rules = torch.utils.data._utils.collate.default_collate_fn_map
    before = dict(rules)
    try:
        with stack_into(Scratch()):
            assert rules != before
            default_collate([torch.zeros(2), torch.zeros(3 if fails else 2)])
    except RuntimeError:
        assert fails
    assert rules == before


def test_a_rule_of_the_users_own_is_left_alone(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = torch.utils.data._utils.collate.default_collate_fn_map
    monkeypatch.setitem(rules, torch.Tensor, lambda *_, **__: "mine")
    assert collated_in_block([torch.zeros(2)], slot)[1] == "mine"
