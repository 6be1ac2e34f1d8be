"""Regular samples that lie in memory already, column by column: a batch of them is one gather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from penstock.collate.dense import tensor_in
from penstock.collate.rows import Spec, tensors_of
from penstock.collate.scratch import Scratch
from penstock.tree import unflatten

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""torch gathers no unsigned numbers of these sizes; their bits are moved as these."""


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

    def batches(self, sizes: Sequence[int], scratch: Scratch) -> list[Any]:
        """The batches that ``default_collate`` would make of so many and so many of these samples.

        They share one piece of memory of `scratch`, of which each tensor knows its own part alone.
        """
        spec, total = self.spec, len(self.rows)
        starts, nbytes = spec.layout(total)
        block = scratch.block(nbytes)
        self.copy_to(tensors_of(block, spec, total))
        made, first = [], 0
        places = [(start, each, each.nbytes) for start, each in zip(starts, spec.columns, strict=True)]
        for size in sizes:
            tensors = [
                tensor_in(block, start + first * row, each.dtype, (size, *each.shape), size * each.numel)
                for start, each, row in places
            ]
            made.append(unflatten(spec.batch_structure, iter(tensors)))
            first += size
        return made

    def copy_to(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy them into as many rows of other columns."""
        for column, out in zip(self.columns, tensors, strict=True):
            torch.index_select(_as_signed(column), 0, self.rows, out=_as_signed(out))


def _as_signed(column: torch.Tensor) -> torch.Tensor:
    return column.view(_SIGNED[column.dtype]) if column.dtype in _SIGNED else column
