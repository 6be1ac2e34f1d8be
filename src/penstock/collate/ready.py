"""Regular samples that lie in memory already, column by column: a batch of them is one gather."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from operator import call
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.arena import Bytes
from penstock.collate.dense import bytes_of, tensor_in
from penstock.collate.rows import Spec
from penstock.collate.scratch import Scratch
from penstock.tree import LEAF, unflatten

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""torch gathers no unsigned numbers of these sizes; their bits are moved as these."""

Rows = NDArray[np.int64]
Parts = list[Any] | NDArray[Any]

ALONE_BYTES = 4 << 20
"""Up to here one thread gathers as fast as two."""


class ReadyColumn:
    """One leaf of many samples.

    Attributes:
        tensor: of shape (many, *shape).
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self._shape = tensor.shape[1:]
        self._row_bytes = tensor[0].nbytes if len(tensor) else 0
        self._items: NDArray[np.void] | None = None
        self._dtype = _numpy_dtype(tensor)
        if self._row_bytes and tensor.is_contiguous():
            self._items = bytes_of(tensor).numpy().view(np.dtype((np.void, self._row_bytes)))

    def copy_to(self, rows: Rows, out: torch.Tensor) -> None:
        """Gather rows into `out`; a few by one thread, as torch's several wait for each other where cores are
        taken."""
        if self._items is not None and out.nbytes <= ALONE_BYTES and out.is_contiguous():
            _gather(self._items, rows, bytes_of(out).numpy())
        else:
            wanted = torch.from_numpy(np.ascontiguousarray(rows))
            torch.index_select(_as_signed(self.tensor), 0, wanted, out=_as_signed(out))

    def parts(self, rows: Rows, block: Bytes, start: int, sizes: list[int]) -> Parts:
        """So many and so many of these rows, gathered to `start` in `block`: each of shape (rows, *shape), or
        in bytes where numpy hasn't the dtype."""
        count = len(rows)
        out = block[start : start + count * self._row_bytes]
        if self._items is not None and len(out) <= ALONE_BYTES:
            _gather(self._items, rows, out)
        else:
            shape = (count, *self._shape)
            self.copy_to(rows, tensor_in(block, start, self.tensor.dtype, shape, math.prod(shape)))
        row, numbers = (self._shape, out.view(self._dtype)) if self._dtype else ((self._row_bytes,), out)
        size, last, alike = sizes[0], sizes[-1], sizes.count(sizes[0])
        if alike == len(sizes):  # an array is walked along at less cost than a list is made
            return numbers.reshape(alike, size, *row)
        grid = numbers.reshape(count, *row)
        if alike == len(sizes) - 1 and last != size:
            return [*grid[:-last].reshape(alike, size, *row), grid[-last:]]
        return [grid[begin:end] for begin, end in pairwise(accumulate(sizes, initial=0))]

    @property
    def make(self) -> Callable[[NDArray[Any]], torch.Tensor]:
        """Makes a batch of such a part, which it keeps; to autograd it is no view."""
        return self._tensor_over if self._dtype is None else torch.from_numpy

    def _tensor_over(self, part: NDArray[np.uint8]) -> torch.Tensor:
        shape = (len(part), *self.tensor.shape[1:])
        return tensor_in(part, 0, self.tensor.dtype, shape, math.prod(shape))


def _gather(items: NDArray[np.void], rows: Rows, out: NDArray[np.uint8]) -> None:
    items.take(rows, out=out.view(items.dtype), mode="clip")


@dataclass(frozen=True, slots=True)
class ReadyRows:
    """Some rows of such columns.

    Attributes:
        spec: of the samples.
        columns: one for each leaf.
        rows: which of their rows, in order.
        copied: told how many were copied, each time.
    """

    spec: Spec
    columns: Sequence[ReadyColumn]
    rows: Rows
    copied: Callable[[int], object] = lambda _: None

    def batches(self, sizes: list[int], scratch: Scratch) -> Iterator[Any]:
        """The batches that ``default_collate`` would make of so many and so many of these samples; each is
        made when it is asked for."""
        return map(self.make, chain.from_iterable(self.pieces(sizes, len(sizes), scratch)))

    def pieces(self, sizes: list[int], together: int, scratch: Scratch) -> Iterator[Parts]:
        """What `make` makes batches of: so many and so many samples, the parts of `together` batches gathered
        at once into memory of `scratch`, when they are asked for."""
        end = 0
        for first in range(0, len(sizes), together):
            chosen = sizes[first : first + together]
            begin, end = end, end + sum(chosen)
            yield self._parts(self.rows[begin:end], chosen, scratch)

    def _parts(self, rows: Rows, sizes: list[int], scratch: Scratch) -> Parts:
        starts, nbytes = self.spec.layout(len(rows))
        block = scratch.block(nbytes)
        self.copied(len(rows))
        if self.spec.structure is LEAF:
            return self.columns[0].parts(rows, block, starts[0], sizes)
        placed = zip(self.columns, starts, strict=True)
        parts = [column.parts(rows, block, start, sizes) for column, start in placed]
        return list(zip(*parts, strict=True)) if parts else [()] * len(sizes)

    @property
    def make(self) -> Callable[[Any], Any]:
        """Makes a batch of a part, under the gradient mode of then; it knows nothing of the others."""
        structure, makers = self.spec.batch_structure, [column.make for column in self.columns]
        if structure is LEAF:
            return makers[0]
        return lambda part: unflatten(structure, map(call, makers, part))

    def copy_to(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy them into as many rows of other columns."""
        self.copied(len(self.rows))
        for column, out in zip(self.columns, tensors, strict=True):
            column.copy_to(self.rows, out)


def _numpy_dtype(tensor: torch.Tensor) -> np.dtype[Any] | None:
    try:
        return tensor[:0].numpy().dtype
    except TypeError:  # numpy has no such numbers
        return None


def _as_signed(column: torch.Tensor) -> torch.Tensor:
    return column.view(_SIGNED[column.dtype]) if column.dtype in _SIGNED else column
