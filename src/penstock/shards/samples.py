"""Samples as a record batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from penstock.shards.layout import Layout, layout_of
from penstock.shards.parts import apart
from penstock.tree import columns_of, map_leaves


def opened(sample: Any) -> Any:
    """The sample with its images and the like taken apart."""
    return map_leaves(apart, sample)


def encode(samples: Sequence[Any], layout: Layout | None = None) -> tuple[pa.RecordBatch, Layout]:
    """The samples, at least one, as columns, and the layout that they have there (`fitted`).

    Raises:
        NotStorableError: if something in a sample is no plain data.
    """
    parts, found = fitted(samples, layout)
    return record_batch(parts, found), found


def fitted(samples: Sequence[Any], layout: Layout | None = None) -> tuple[list[Any], Layout]:
    """The samples, at least one, `opened`, and a layout for them.

    It is the narrowest that holds them, or the join of that and `layout`: so shards that are to be alike
    are given the layout of the others.

    Raises:
        NotStorableError: if one is a tensor that is more than its numbers.
    """
    parts = [opened(sample) for sample in samples]
    return parts, layout_of(parts) if layout is None else layout.join(layout_of(parts))


def record_batch(parts: Sequence[Any], layout: Layout) -> pa.RecordBatch:
    """Samples that are `fitted` to this layout, as columns.

    Raises:
        NotStorableError: if something in a sample is no plain data.
    """
    arrays: dict[str, pa.Array] = {}
    leaves = columns_of(parts, layout.structure)
    for name, column, values in zip(layout.names, layout.columns, leaves, strict=True):
        arrays.update(column.arrays(name, values))
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
