"""Samples of one shape, each a row of columns in which all samples lie one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.arena import Bytes, aligned
from penstock.collate import Irregular, ReadyColumn, ReadyRows, Spec, spec_of
from penstock.collate.dense import is_plain, tensor_in
from penstock.pipeline import Marks
from penstock.tree import flatten, unflatten


@dataclass(frozen=True)
class RowFormat:
    """What all samples have in common.

    Attributes:
        spec: structure, types and shapes.
        orders: for each leaf, its dimensions in the order in which they lie in memory.
        marks: where the rest of the pipeline goes on.
    """

    spec: Spec
    orders: tuple[tuple[int, ...], ...]
    marks: Marks

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return self.spec.sample_bytes

    def nbytes(self, rows: int) -> int:
        """Bytes of so many."""
        return sum(aligned(rows * column.nbytes) for column in self.spec.columns)

    def columns(self, block: Bytes, rows: int) -> list[torch.Tensor]:
        """The columns of `rows` rows in `block`: each of shape (rows, *shape), laid out as the leaves are."""
        found, start = [], 0
        for column, order in zip(self.spec.columns, self.orders, strict=True):
            lying = tuple(column.shape[dim] for dim in order)
            flat = tensor_in(block, start, column.dtype, (rows, *lying), rows * column.numel)
            back = sorted(range(len(order)), key=order.__getitem__)
            found.append(flat.permute(0, *(dim + 1 for dim in back)))
            start += aligned(rows * column.nbytes)
        return found


def format_of(values: Any, marks: Marks) -> RowFormat:
    """The format of a sample's first part.

    Raises:
        Irregular: if it can't be a row: not all of its leaves are dense tensors, arrays and numbers.
    """
    spec = spec_of(values)
    leaves = flatten(values, spec.structure)
    return RowFormat(spec, tuple(order_of(leaf) for leaf in leaves), marks)


def order_of(leaf: Any) -> tuple[int, ...]:
    """The dimensions of a dense tensor or array, the outermost in memory first.

    Raises:
        Irregular: if it isn't dense.
    """
    if isinstance(leaf, np.ndarray):
        strides, dense = leaf.strides, leaf.flags.c_contiguous
    elif isinstance(leaf, torch.Tensor):
        if not is_plain(leaf) or leaf.is_conj() or leaf.is_neg():
            raise Irregular
        strides, dense = leaf.stride(), leaf.is_contiguous()
    else:
        return ()
    if dense:
        return tuple(range(len(strides)))
    large = sorted((dim for dim in range(len(strides)) if leaf.shape[dim] > 1), key=lambda d: -strides[d])
    order = (*large, *(dim for dim in range(len(strides)) if leaf.shape[dim] <= 1))
    lying = leaf.transpose(order) if isinstance(leaf, np.ndarray) else leaf.permute(order)
    if not (lying.flags.c_contiguous if isinstance(lying, np.ndarray) else lying.is_contiguous()):
        raise Irregular  # a part of something larger, or one number seen many times
    return order


class RowTable:
    """Reads and writes the rows of a block.

    Attributes:
        format: of the rows.
        columns: one tensor for each leaf.
    """

    def __init__(self, form: RowFormat, block: Bytes, rows: int) -> None:
        self.format = form
        self.columns = form.columns(block, rows)
        self._ready = [ReadyColumn(column) for column in self.columns]
        kinds = [column.kind for column in form.spec.columns]
        self._readers = [_reader(kind, column) for kind, column in zip(kinds, self.columns, strict=True)]

    def fits(self, values: Any, marks: Marks) -> bool:
        """Whether a sample's first part is as the format says."""
        try:
            spec = spec_of(values, self.format.spec)
            if spec is not self.format.spec or marks != self.format.marks:
                return False
            orders = tuple(order_of(leaf) for leaf in flatten(values, spec.structure))
        except Irregular:
            return False
        return orders == self.format.orders

    def write(self, row: int, values: Any) -> bool:
        """Write one that fits; False if a number of it is too large for its column."""
        for column, leaf in zip(self.columns, flatten(values, self.format.spec.structure), strict=True):
            if isinstance(leaf, torch.Tensor):
                column[row].copy_(leaf)
                continue
            try:
                column[row : row + 1].numpy()[0] = leaf
            except OverflowError:
                return False
        return True

    def read(self, row: int) -> Any:
        """A copy of one."""
        return unflatten(self.format.spec.structure, (read(row) for read in self._readers))

    def ready(self, rows: NDArray[np.int64], copied: Callable[[int], object]) -> ReadyRows:
        """Some of them, to be copied column by column; `copied` is told how many are."""
        return ReadyRows(self.format.spec, self._ready, rows, copied)


def _reader(kind: type, column: torch.Tensor) -> Any:
    """What gives a copy of a column's row, as the leaf was."""
    if kind is torch.Tensor:
        return lambda row: column[row].clone()
    array = column.numpy()
    if kind is np.ndarray:
        return lambda row: array[row, ...].copy(order="K")
    if issubclass(kind, np.generic):
        return lambda row: array[row]
    return lambda row: array[row].item()
