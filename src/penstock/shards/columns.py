"""One leaf of every sample, as a column of a record batch, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from penstock.shards.packing import check_tensor, pack, unpack

Array = np.ndarray[Any, np.dtype[Any]]
Getter = Callable[[int], Any]
Viewer = Callable[[pa.Buffer | None], Array]
"""Gives the bytes of a buffer as an array, without a copy."""

GRIDS = "tensor", "array", "scalar"
_STORED = {"bool": "uint8", "bfloat16": "uint16"}
"""What has no type of Arrow's, or none of whole bytes, and the type that its bytes are stored as."""
_DTYPES = (
    *("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", *_STORED),
)
_PLAIN: dict[str, pa.DataType] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.large_string(),
    "bytes": pa.large_binary(),
    "packed": pa.large_binary(),
}
_BY_TYPE = {type(None): "null", bool: "bool", float: "float", bytes: "bytes"}


@dataclass(frozen=True, slots=True)
class Column:
    """What the leaves of a column are.

    Attributes:
        kind: "null", "bool", "int", "float", "str", "bytes"; "tensor", "array", or "scalar" (of NumPy); or
            "packed": anything plain.
        dtype: of a tensor, an array or a scalar.
        ndim: of a tensor or an array.
        shape: of all of them; None if it differs.
    """

    kind: str
    dtype: str = ""
    ndim: int = 0
    shape: tuple[int, ...] | None = None

    def join(self, other: Column) -> Column:
        """The column that holds the leaves of both."""
        if self == other:
            return self
        if "null" in (self.kind, other.kind):
            rest = other if self.kind == "null" else self
            return rest if rest.kind in _PLAIN else PACKED
        if self.kind in GRIDS and (self.kind, self.dtype, self.ndim) == (other.kind, other.dtype, other.ndim):
            return Column(self.kind, self.dtype, self.ndim)
        return PACKED

    def arrays(self, name: str, leaves: Sequence[Any]) -> dict[str, pa.Array]:
        """The column; of tensors whose shapes differ, it has a second one of the shapes."""
        if self.kind == "packed":
            return {name: _joined([pack(leaf) for leaf in leaves])}
        if self.kind == "bytes" and None not in leaves:
            return {name: _joined(leaves)}
        if self.kind in _PLAIN:
            return {name: pa.array(leaves, _PLAIN[self.kind])}
        grids = [_numpy(leaf) for leaf in leaves]
        if self.shape is not None:
            return {name: _fixed(np.stack(grids), self.shape)}
        ends = np.cumsum([0, *(grid.size for grid in grids)], dtype=np.int64)
        flat = np.concatenate([grid.reshape(-1) for grid in grids])
        shapes = np.array([grid.shape for grid in grids], dtype=np.int64)
        return {
            name: pa.LargeListArray.from_arrays(pa.array(ends), pa.array(flat)),
            shapes_of(name): _fixed(shapes, (self.ndim,)),
        }

    def getter(
        self,
        name: str,
        batch: pa.RecordBatch,
        view: Viewer,
        unpack: Callable[[bytes], Any] = unpack,
        axes: tuple[int, ...] | None = None,
    ) -> Getter:
        """A function that gives the leaf of a row; `axes`, of tensors alone, is the order of its dimensions
        where that isn't as stored."""
        column = batch.column(name)
        if self.kind == "packed":
            values = _slices(column, view)
            if axes is not None:
                return lambda row: unpack(values(row)).permute(axes)
            return lambda row: unpack(values(row))
        if self.kind == "bytes":
            return _or_none(column, _slices(column, view))
        if self.kind == "str":
            texts = _slices(column, view)
            return _or_none(column, lambda row: str(texts(row), "utf-8"))
        if self.kind in _PLAIN:
            return lambda row: column[row].as_py()
        return self._grid_getter(name, batch, view, axes or tuple(range(self.ndim)))

    def _grid_getter(self, name: str, batch: pa.RecordBatch, view: Viewer, axes: tuple[int, ...]) -> Getter:
        rebuild, stored = _rebuilding(self.kind, self.dtype), np.dtype(_STORED.get(self.dtype, self.dtype))
        if self.shape is not None:
            grids = view(_values(batch.column(name))).view(stored).reshape(len(batch), *self.shape)
            grids = grids.transpose(0, *(axis + 1 for axis in axes))  # a tensor's `permute` takes 1 us more
            return lambda row: rebuild(grids[row, ...])
        column = batch.column(name)
        ends = view(column.buffers()[1]).view(np.int64)
        flat = view(_values(column)).view(stored)
        shapes = view(_values(batch.column(shapes_of(name)))).view(np.int64).reshape(-1, self.ndim)
        return lambda row: rebuild(flat[ends[row] : ends[row + 1]].reshape(shapes[row]).transpose(axes))


PACKED = Column("packed")


def column_of(leaf: Any) -> Column:
    """The narrowest column for a leaf.

    Raises:
        NotStorableError: if it is a tensor that is more than its numbers.
    """
    kind = type(leaf)
    if kind in _BY_TYPE:
        return Column(_BY_TYPE[kind])
    if kind is int:
        return Column("int") if -(2**63) <= leaf < 2**63 else PACKED
    if kind is str:
        return Column("str") if _is_unicode(leaf) else PACKED
    if isinstance(leaf, torch.Tensor):
        check_tensor(leaf)
        return _grid("tensor", str(leaf.dtype).removeprefix("torch."), tuple(leaf.shape))
    if kind is np.ndarray or isinstance(leaf, np.generic):
        native = leaf.dtype.isnative and leaf.dtype.kind in "biuf"
        family = "array" if kind is np.ndarray else "scalar"
        return _grid(family, leaf.dtype.name, leaf.shape) if native else PACKED
    return PACKED


def shapes_of(name: str) -> str:
    """The name of the column of shapes that goes with a column."""
    return f"{name}.shape"


def _grid(family: str, dtype: str, shape: tuple[int, ...]) -> Column:
    if dtype not in _DTYPES:
        return PACKED
    return Column(family, dtype, len(shape), shape if 0 not in shape else None)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _numpy(leaf: Any) -> Array:
    """A tensor's or an array's numbers, in the type that they are stored as."""
    if isinstance(leaf, torch.Tensor):
        plain = leaf.resolve_neg()
        if leaf.dtype is torch.bfloat16:
            plain = plain.contiguous().view(torch.uint16)
        leaf = plain.numpy()
    array: Array = np.asarray(leaf)
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


def _joined(leaves: Sequence[bytes]) -> pa.Array:
    """What ``pa.array(leaves, pa.large_binary())`` gives; that moves all whenever it grows, and keeps the
    interpreter lock meanwhile."""
    ends = np.cumsum([0, *map(len, leaves)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(leaves))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(leaves), buffers)


def _fixed(rows: Array, shape: tuple[int, ...]) -> pa.Array:
    """Rows of one shape as nested lists of fixed sizes: in memory, the same numbers in the same order."""
    array = pa.array(np.ascontiguousarray(rows).reshape(-1))
    for size in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _values(column: pa.Array) -> pa.Buffer | None:
    """The buffer of the numbers at the bottom of nested lists."""
    return column.buffers()[-1]


def _slices(column: pa.Array, view: Viewer) -> Callable[[int], bytes]:
    buffers = column.buffers()
    ends, data = view(buffers[1]).view(np.int64), view(buffers[2]).data
    return lambda row: bytes(data[ends[row] : ends[row + 1]])


def _or_none(column: pa.Array, get: Getter) -> Getter:
    """The same, where rows may be null."""
    if not column.null_count:
        return get
    there = column.is_valid().to_numpy(zero_copy_only=False)
    return lambda row: get(row) if there[row] else None


def _rebuilding(kind: str, dtype: str) -> Callable[[Array], Any]:
    """What makes a leaf of its numbers, as they are stored."""
    if kind == "tensor":
        return _as_tensor(dtype)
    if kind == "scalar":
        return lambda grid: _array(grid, dtype)[()]
    return lambda grid: _array(grid, dtype)


def _as_tensor(dtype: str) -> Callable[[Array], torch.Tensor]:
    if dtype not in _STORED:
        return torch.from_numpy
    meant = getattr(torch, dtype)
    return lambda grid: torch.from_numpy(grid).view(meant)


def _array(grid: Array, dtype: str) -> Array:
    return grid.view(np.bool_) if dtype == "bool" else grid


assert sys.byteorder == "little"
