"""Regular samples, placed each into its row of a block.

What comes out equals ``default_collate``'s. As a row's place follows from the spec and the size of the batch
alone, several processes can fill one block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from ctypes import memmove
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

from penstock.arena import Bytes, aligned
from penstock.collate.dense import is_plain, tensor_in
from penstock.tree import (
    LEAF,
    Structure,
    StructureMismatch,
    columns_of,
    flatten,
    map_kinds,
    structure_of,
    unflatten,
)

FLUSH_BYTES = 1 << 18
"""Samples are placed in groups of about this many bytes: together while they are small, as a copy has
a fixed cost; one by one when large, while they are still in the processor's cache (the second level)."""


class Irregular(Exception):
    """A sample can't be placed as a row; the batch has to be collated as a whole."""


@dataclass(frozen=True)
class Column:
    """One leaf of a regular sample.

    Attributes:
        kind: the leaf's exact Python type.
        dtype: of the collated tensor.
        shape: of one sample's leaf; () for a number.
    """

    kind: type
    dtype: torch.dtype
    shape: tuple[int, ...]

    @cached_property
    def numel(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Spec:
    """What a regular sample looks like: its structure, and the type and shape of each leaf."""

    structure: Structure
    columns: tuple[Column, ...]

    def __reduce__(self) -> tuple[object, ...]:
        return Spec, (self.structure, self.columns)

    @cached_property
    def batch_structure(self) -> Structure:
        """Of what ``default_collate`` makes of such samples."""
        return map_kinds(self.structure, lambda kind: list if kind is tuple else kind)

    @cached_property
    def _layouts(self) -> dict[int, tuple[list[int], int]]:
        return {}

    @cached_property
    def sample_bytes(self) -> int:
        return sum(column.nbytes for column in self.columns)

    def layout(self, rows: int) -> tuple[list[int], int]:
        """Where each column of `rows` rows starts in a block, and the bytes of them all."""
        if rows not in self._layouts:
            starts, end = [], 0
            for column in self.columns:
                starts.append(end)
                end = aligned(end + rows * column.nbytes)
            self._layouts.clear()  # batches have one size, but for the last
            self._layouts[rows] = starts, end
        return self._layouts[rows]


def spec_of(sample: Any, guess: Spec | None = None) -> Spec:
    """The spec of a sample; `guess` itself if that fits, which is quicker to find.

    Raises:
        Irregular: if it holds something that can't be placed as a row.
    """
    if guess is not None and _fits(sample, guess):
        return guess
    structure = structure_of(sample)
    return Spec(structure, tuple(_column_of(leaf) for leaf in flatten(sample, structure)))


def _fits(sample: Any, spec: Spec) -> bool:
    try:
        leaves = flatten(sample, spec.structure)
    except StructureMismatch:
        return False
    for leaf, column in zip(leaves, spec.columns, strict=True):
        kind: Any = type(leaf)
        if kind is not column.kind:
            return False
        if kind is torch.Tensor:
            if leaf.dtype is not column.dtype or leaf.shape != column.shape:
                return False
        elif kind is np.ndarray and _column_of(leaf) != column:
            return False
    return True


def is_default_collate(collate_fn: Any) -> bool:
    """Whether `collate_fn` is torch's default one, with torch's own rules for what rows hold."""
    return collate_fn is torch.utils.data.default_collate and all(
        map(_TORCHS_RULES.__contains__, map(id, default_collate_fn_map.values()))
    )


_TORCHS_RULES = {
    id(rule): rule  # which lives, so that no other has its id
    for rule in default_collate_fn_map.values()
    if getattr(rule, "__module__", "") == collate_tensor_fn.__module__
}


_NUMBERS: dict[type, torch.dtype] = {float: torch.float64, int: torch.int64, bool: torch.bool}


def _column_of(leaf: Any) -> Column:
    kind: Any = type(leaf)
    if kind is torch.Tensor:
        if not is_plain(leaf):
            raise Irregular
        return Column(kind, leaf.dtype, tuple(leaf.shape))
    if kind in _NUMBERS:
        return Column(kind, _NUMBERS[kind], ())
    if kind is np.ndarray or issubclass(kind, np.number | np.bool_):
        return Column(kind, _torch_dtype(leaf.dtype), tuple(leaf.shape))
    raise Irregular


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except (TypeError, ValueError):
        raise Irregular from None


def tensors_of(block: Bytes, spec: Spec, rows: int) -> list[torch.Tensor]:
    """One tensor of shape (rows, *shape) for each column, each a view of `block` that keeps it."""
    starts, _ = spec.layout(rows)
    return [
        tensor_in(block, start, column.dtype, (rows, *column.shape), rows * column.numel)
        for start, column in zip(starts, spec.columns, strict=True)
    ]


def batch_of_rows(block: Bytes, spec: Spec, rows: int) -> Any:
    """The batch that ``default_collate`` would make of the samples whose rows `block` holds."""
    return unflatten(spec.batch_structure, iter(tensors_of(block, spec, rows)))


def batch_of_some_rows(block: Bytes, spec: Spec, rows: int, kept: Sequence[int]) -> Any:
    """The same of the rows `kept` alone, copied out."""
    wanted = torch.tensor(kept)
    return unflatten(spec.batch_structure, (t.index_select(0, wanted) for t in tensors_of(block, spec, rows)))


def group_of(spec: Spec) -> int:
    """How many samples to place together."""
    return max(1, FLUSH_BYTES // max(1, spec.sample_bytes))


class RowWriter:
    """Places samples into the rows of one block.

    The caller reserves ``spec.layout(rows)[1]`` bytes before; `tensors` is `tensors_of` them.

    Attributes:
        spec: of the samples.
        tensors: what they are written to, one for each column.
        group: how many samples to `write` at a time (`group_of`).
    """

    def __init__(self, spec: Spec, tensors: list[torch.Tensor]) -> None:
        self.spec, self.tensors = spec, tensors
        self.group = group_of(spec)

    def write(self, samples: Sequence[Any], first: int) -> None:
        """Place samples from row `first` on.

        Raises:
            Irregular: if one is not as the spec says.
        """
        size = len(samples)
        if size == 1:
            self.write_one(samples[0], first)
            return
        try:
            columns = columns_of(samples, self.spec.structure)
        except StructureMismatch:
            raise Irregular from None
        for leaves, column, tensor in zip(columns, self.spec.columns, self.tensors, strict=True):
            _place(leaves, column, tensor if size == len(tensor) else tensor.narrow(0, first, size))

    def write_one(self, sample: Any, row: int) -> None:
        """As `write`, of one sample, in as few steps as can be: a large one's making sweeps the processor's
        caches, and then each step is dear."""
        structure = self.spec.structure
        if structure is LEAF:
            self._columns[0](sample, row)
            return
        try:
            leaves = flatten(sample, structure)
        except StructureMismatch:
            raise Irregular from None
        for write, leaf in zip(self._columns, leaves, strict=True):
            write(leaf, row)

    @cached_property
    def _columns(self) -> list[Callable[[Any, int], None]]:
        """What writes a leaf to a row, of each column."""
        return [*map(_row_writer, self.spec.columns, self.tensors)]


def _row_writer(column: Column, tensor: torch.Tensor) -> Callable[[Any, int], None]:
    def place(leaf: Any, row: int) -> None:
        _place((leaf,), column, tensor.narrow(0, row, 1))

    if column.kind is not torch.Tensor:
        return place
    dtype, shape, nbytes, start = column.dtype, column.shape, column.nbytes, tensor.data_ptr()
    whole_numbers, strided = not (dtype.is_floating_point or dtype.is_complex), torch.strided

    def copy(leaf: Any, row: int) -> None:
        if (
            type(leaf) is torch.Tensor
            and leaf.dtype is dtype
            and leaf.shape == shape
            and leaf.layout is strided
            and leaf.is_cpu
            and leaf.is_contiguous()
            and not leaf.is_neg()
            and (whole_numbers or not (leaf.requires_grad or leaf.is_conj()))
            and (there := leaf.data_ptr())  # torch has tensors of zeros that are nowhere
        ):  # its bytes are the row's; `numpy()` would keep its storage from ever being resized
            memmove(start + row * nbytes, there, nbytes)
        else:
            place(leaf, row)

    return copy


def _place(leaves: Sequence[Any], column: Column, out: torch.Tensor) -> None:
    """Copy leaves into `out`, of shape (len(leaves), *column.shape)."""
    if set(map(type, leaves)) != {column.kind}:
        raise Irregular
    if column.kind is torch.Tensor:
        _place_tensors(leaves, column, out)
    elif column.kind is np.ndarray:
        _place_arrays(leaves, column, out.numpy())
    else:
        try:
            out.numpy()[...] = leaves
        except OverflowError:
            raise Irregular from None


def _place_tensors(leaves: Sequence[torch.Tensor], column: Column, out: torch.Tensor) -> None:
    first = leaves[0]
    if first.shape != column.shape or {leaf.dtype for leaf in leaves} != {column.dtype}:
        raise Irregular
    if len(leaves) == 1 and is_plain(first):
        out[0].copy_(first)
        return
    try:
        torch.stack(leaves, out=out)  # type: ignore[arg-type]
    except RuntimeError:  # another shape, device or layout, or it requires a gradient
        raise Irregular from None


def _place_arrays(leaves: Sequence[Any], column: Column, out: Any) -> None:
    for leaf in leaves:
        if leaf.shape != column.shape or leaf.dtype != out.dtype:
            raise Irregular
    for row, leaf in zip(out, leaves, strict=True) if column.shape else ():
        row[...] = leaf
    if not column.shape:
        out[...] = leaves
