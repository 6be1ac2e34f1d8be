"""Regular samples that lie in memory already, column by column: a batch of them is one gather."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat
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
        self._dtype = _numpy_dtype(tensor)
        if self._row_bytes and tensor.is_contiguous():
            self._items = bytes_of(tensor).numpy().view(np.dtype((np.void, self._row_bytes)))

    def copy_to(self, rows: Rows, out: torch.Tensor) -> None:
        """Gather rows into `out`; a few by one thread, as torch's several wait for each other where cores are
        taken."""
        if self._items is not None and out.nbytes <= ALONE_BYTES and out.is_contiguous():
            self._gather(self._items, rows, bytes_of(out).numpy())
        else:
            wanted = torch.from_numpy(np.ascontiguousarray(rows))
            torch.index_select(_as_signed(self.tensor), 0, wanted, out=_as_signed(out))

    def parts(self, rows: Rows, block: Bytes, start: int, sizes: list[int]) -> Iterable[NDArray[Any]]:
        """Gather rows to `start` in `block`, and give the so many and so many of them that are batches."""
        count, shape, dtype = len(rows), self.tensor.shape[1:], self.tensor.dtype
        out = block[start : start + count * self._row_bytes]
        if self._items is not None and out.nbytes <= ALONE_BYTES:
            self._gather(self._items, rows, out)
        else:
            numel = count * math.prod(shape)
            self.copy_to(rows, tensor_in(block, start, dtype, (count, *shape), numel))
        if self._dtype is None:
            return _parts(out.reshape(count, self._row_bytes), sizes)
        return _parts(out.view(self._dtype).reshape(count, *shape), sizes)

    @property
    def make(self) -> Callable[[NDArray[Any]], torch.Tensor]:
        """Makes a batch of such a part, which it keeps; to autograd it is no view."""
        return self._tensor_over if self._dtype is None else torch.from_numpy

    def _tensor_over(self, part: NDArray[np.uint8]) -> torch.Tensor:
        shape = (len(part), *self.tensor.shape[1:])
        return tensor_in(part, 0, self.tensor.dtype, shape, math.prod(shape))

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
        """The batches that ``default_collate`` would make of so many and so many of these samples; each is
        made when it is asked for."""
        return map(self.make, self.parts(sizes, scratch))

    def parts(self, sizes: list[int], scratch: Scratch) -> Iterable[Any]:
        """What `make` makes such batches of: gathered at once, into memory of `scratch`."""
        starts, nbytes = self.spec.layout(len(self.rows))
        block = scratch.block(nbytes)
        parts = [
            column.parts(self.rows, block, start, sizes)
            for column, start in zip(self.columns, starts, strict=True)
        ]
        if self.spec.structure is LEAF:
            return parts[0]
        return zip(*parts, strict=True) if parts else repeat((), len(sizes))

    @property
    def make(self) -> Callable[[Any], Any]:
        """Makes a batch of a part, under the gradient mode of then; it knows nothing of the others."""
        structure, makers = self.spec.batch_structure, [column.make for column in self.columns]
        if structure is LEAF:
            return makers[0]
        return lambda part: unflatten(structure, map(call, makers, part))

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
