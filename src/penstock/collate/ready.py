"""Regular samples that lie in memory already, column by column: a batch of them is one gather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from penstock.collate.rows import Spec, tensors_of
from penstock.collate.scratch import Scratch
from penstock.tree import LEAF, unflatten

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

    def batches(self, sizes: list[int], scratch: Scratch) -> list[Any]:
        """The batches that ``default_collate`` would make of so many and so many of these samples.

        They are views of what was gathered at once, in memory of `scratch`.
        """
        spec, total = self.spec, len(self.rows)
        tensors = tensors_of(scratch.block(spec.layout(total)[1]), spec, total)
        self.copy_to(tensors)
        columns = [tensor.split_with_sizes(sizes) for tensor in tensors]
        if spec.batch_structure is LEAF:
            return list(columns[0])
        return [unflatten(spec.batch_structure, iter(each)) for each in zip(*columns, strict=True)]

    def copy_to(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy them into as many rows of other columns."""
        for column, out in zip(self.columns, tensors, strict=True):
            torch.index_select(_as_signed(column), 0, self.rows, out=_as_signed(out))


def _as_signed(column: torch.Tensor) -> torch.Tensor:
    return column.view(_SIGNED[column.dtype]) if column.dtype in _SIGNED else column
