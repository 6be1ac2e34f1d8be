"""Regular samples that lie in memory already, column by column: a batch of them is one gather."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.arena import Bytes
from penstock.collate.dense import bytes_of, tensor_in
from penstock.collate.rows import Spec, tensors_of
from penstock.collate.scratch import Scratch
from penstock.tree import LEAF, unflatten

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""torch gathers no unsigned numbers of these sizes; their bits are moved as these."""

Cutter = Callable[[int, int], torch.Tensor]

ALONE_BYTES = 4 << 20
"""Up to here one thread gathers as fast as two."""


@dataclass(frozen=True, slots=True)
class ReadyRows:
    """Some rows of such columns.

    Attributes:
        spec: of the samples.
        columns: one tensor for each leaf, of shape (many, *shape).
        rows: which of them, in order.
    """

    spec: Spec
    columns: Sequence[torch.Tensor]
    rows: torch.Tensor

    def batches(self, sizes: list[int], scratch: Scratch) -> Iterator[Any]:
        """The batches that ``default_collate`` would make of so many and so many of these samples.

        They are gathered at once, into memory of `scratch`; each is made when it is asked for, under the
        gradient mode of then, and knows nothing of the others.
        """
        spec, total = self.spec, len(self.rows)
        block = scratch.block(spec.layout(total)[1])
        tensors = tensors_of(block, spec, total)
        self.copy_to(tensors)
        cutters = [
            _cutter(tensor, block, start)
            for tensor, start in zip(tensors, spec.layout(total)[0], strict=True)
        ]
        return self._cut(cutters, sizes)

    def _cut(self, cutters: list[Cutter], sizes: list[int]) -> Iterator[Any]:
        structure, begin = self.spec.batch_structure, 0
        for size in sizes:
            end = begin + size
            if structure is LEAF:
                yield cutters[0](begin, end)
            else:
                yield unflatten(structure, iter([cut(begin, end) for cut in cutters]))
            begin = end

    def copy_to(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy them into as many rows of other columns."""
        for column, out in zip(self.columns, tensors, strict=True):
            _take(column, self.rows, out)


def _cutter(gathered: torch.Tensor, block: Bytes, start: int) -> Cutter:
    """Gives rows of what was gathered to `start` in `block`; to autograd they are no views of it."""
    try:
        rows = gathered.numpy()  # its slices keep it
    except TypeError:  # numpy has no such numbers
        shape, numel = gathered.shape[1:], gathered[:1].numel()
        each, dtype = numel * gathered.dtype.itemsize, gathered.dtype
        return lambda begin, end: tensor_in(
            block, start + begin * each, dtype, (end - begin, *shape), (end - begin) * numel
        )
    return lambda begin, end: torch.from_numpy(rows[begin:end])


def _take(column: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
    """Gather rows into `out`; a few by one thread, as torch's several wait for each other where cores are
    taken."""
    row_bytes = column[0].nbytes if len(column) else 0
    if 0 < out.nbytes <= ALONE_BYTES and column.is_contiguous() and out.is_contiguous():
        np.take(_as_items(column, row_bytes), rows.numpy(), out=_as_items(out, row_bytes), mode="clip")
    else:
        torch.index_select(_as_signed(column), 0, rows, out=_as_signed(out))


def _as_items(column: torch.Tensor, row_bytes: int) -> NDArray[np.void]:
    """Each row as one item of so many bytes."""
    items: NDArray[np.void] = bytes_of(column).numpy().view(np.dtype((np.void, row_bytes)))
    return items


def _as_signed(column: torch.Tensor) -> torch.Tensor:
    return column.view(_SIGNED[column.dtype]) if column.dtype in _SIGNED else column
