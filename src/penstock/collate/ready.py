"""Regular samples that lie in memory already, column by column: a batch of them is one gather."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.arena import Bytes
from penstock.collate.dense import bytes_of, tensor_in
from penstock.collate.rows import Spec
from penstock.collate.scratch import Scratch
from penstock.tree import unflatten, unflatten_columns

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""torch gathers no unsigned numbers of these sizes; their bits are moved as these."""

Rows = NDArray[np.int64]

ALONE_BYTES = 4 << 20
"""Up to here one thread gathers as fast as two."""


class ReadyColumn:
    """One leaf of many samples.

    Attributes:
        tensor: of shape (many, *shape).
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self._row_bytes = tensor[0].nbytes if len(tensor) else 0
        self._items: NDArray[np.void] | None = None
        self._dtype: np.dtype[Any] | None = None
        if self._row_bytes and tensor.is_contiguous():
            self._items = bytes_of(tensor).numpy().view(np.dtype((np.void, self._row_bytes)))
            self._dtype = _numpy_dtype(tensor)

    def copy_to(self, rows: Rows, out: torch.Tensor) -> None:
        """Gather rows into `out`; a few by one thread, as torch's several wait for each other where cores are
        taken."""
        if self._items is not None and out.nbytes <= ALONE_BYTES and out.is_contiguous():
            self._gather(self._items, rows, bytes_of(out).numpy())
        else:
            wanted = torch.from_numpy(np.ascontiguousarray(rows))
            torch.index_select(_as_signed(self.tensor), 0, wanted, out=_as_signed(out))

    def batches(self, rows: Rows, block: Bytes, start: int, sizes: list[int]) -> Iterator[torch.Tensor]:
        """Gather rows to `start` in `block`, which are so many batches; to autograd none is a view."""
        nbytes = len(rows) * self._row_bytes
        shape, dtype = self.tensor.shape[1:], self.tensor.dtype
        if self._items is not None and self._dtype is not None and nbytes <= ALONE_BYTES:
            out = block[start : start + nbytes]
            self._gather(self._items, rows, out)
            array = out.view(self._dtype).reshape(len(rows), *shape)
            return map(torch.from_numpy, _parts(array, sizes))  # they keep the block
        numel = math.prod(shape)
        self.copy_to(rows, tensor_in(block, start, dtype, (len(rows), *shape), len(rows) * numel))
        begins = accumulate(sizes[:-1], initial=0)
        return (
            tensor_in(block, start + begin * numel * dtype.itemsize, dtype, (size, *shape), size * numel)
            for begin, size in zip(begins, sizes, strict=True)
        )

    def _gather(self, items: NDArray[np.void], rows: Rows, out: NDArray[np.uint8]) -> None:
        np.take(items, rows, out=out.view(items.dtype), mode="clip")


@dataclass(frozen=True, slots=True)
class ReadyRows:
    """Some rows of such columns.

    Attributes:
        spec: of the samples.
        columns: one for each leaf.
        rows: which of their rows, in order.
    """

    spec: Spec
    columns: Sequence[ReadyColumn]
    rows: Rows

    def batches(self, sizes: list[int], scratch: Scratch) -> Iterator[Any]:
        """The batches that ``default_collate`` would make of so many and so many of these samples.

        They are gathered at once, into memory of `scratch`; each is made when it is asked for, under the
        gradient mode of then, and knows nothing of the others.
        """
        starts, nbytes = self.spec.layout(len(self.rows))
        block = scratch.block(nbytes)
        leaves = [
            column.batches(self.rows, block, start, sizes)
            for column, start in zip(self.columns, starts, strict=True)
        ]
        structure = self.spec.batch_structure
        if not leaves:
            return (unflatten(structure, iter(())) for _ in sizes)
        return unflatten_columns(structure, leaves)

    def copy_to(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy them into as many rows of other columns."""
        for column, out in zip(self.columns, tensors, strict=True):
            column.copy_to(self.rows, out)


def _parts(rows: NDArray[Any], sizes: list[int]) -> Iterable[NDArray[Any]]:
    """So many and so many of them."""
    if len({*sizes}) == 1:  # an array is walked along at less cost
        return rows.reshape(len(sizes), sizes[0], *rows.shape[1:])
    return [rows[begin:end] for begin, end in pairwise(accumulate(sizes, initial=0))]


def _numpy_dtype(tensor: torch.Tensor) -> np.dtype[Any] | None:
    try:
        return tensor[:0].numpy().dtype
    except TypeError:  # numpy has no such numbers
        return None


def _as_signed(column: torch.Tensor) -> torch.Tensor:
    return column.view(_SIGNED[column.dtype]) if column.dtype in _SIGNED else column
