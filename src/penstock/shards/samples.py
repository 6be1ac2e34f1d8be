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
    """The samples, at least one, as columns, and the layout that they have there.

    It is the narrowest that holds them, or the join of that and `layout`: so shards that are to be alike
    are given the layout of the others.

    Raises:
        NotStorableError: if something in a sample is no plain data.
    """
    parts = [opened(sample) for sample in samples]
    found = layout_of(parts) if layout is None else layout.join(layout_of(parts))
    arrays: dict[str, pa.Array] = {}
    leaves = columns_of(parts, found.structure)
    for name, column, values in zip(found.names, found.columns, leaves, strict=True):
        arrays.update(column.arrays(name, values))
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays)), found
