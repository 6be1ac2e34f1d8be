"""From samples to a batch in one block of memory, by torch's collate rules.

Two ways, and the engine is told which was taken:

- `rows`: a regular sample (tensors, arrays and numbers of the same types and shapes as in the others) is
  placed straight into its row of the block.
- `block`: anything else is collated as a whole and packed.
"""

from penstock.collate.block import BlockWriter, unpack
from penstock.collate.ready import Parts, ReadyColumn, ReadyRows
from penstock.collate.rows import (
    Column,
    Irregular,
    RowWriter,
    Spec,
    batch_of_rows,
    batch_of_some_rows,
    group_of,
    is_default_collate,
    spec_of,
    tensors_of,
)
from penstock.collate.scratch import Scratch, stack_into

__all__ = [
    "BlockWriter",
    "Column",
    "Irregular",
    "Parts",
    "ReadyColumn",
    "ReadyRows",
    "RowWriter",
    "Scratch",
    "Spec",
    "batch_of_rows",
    "batch_of_some_rows",
    "group_of",
    "is_default_collate",
    "spec_of",
    "stack_into",
    "tensors_of",
    "unpack",
]
