"""Makes of a complete batch what the caller gets, and lets go of its slot or leases it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from penstock.arena import Arena
from penstock.collate import batch_of_rows, batch_of_some_rows, unpack
from penstock.engine.batch import Batch
from penstock.errors import annotate
from penstock.fetch import Block, Direct, LeftOut, Rows


class Handed(NamedTuple):
    """The batch, its bytes in shared memory, and whether it was copied out of there."""

    result: Any
    nbytes: int
    copied: bool


def failure(batch: Batch) -> BaseException | None:
    """What to raise instead of the batch, if a sample or the collating of it failed."""
    failed = batch.failure()
    if failed is None:
        return None
    error = failed.take()
    if failed.position is None:
        annotate(error, f"in making batch {batch.number}")
    else:
        annotate(error, str(batch.sample(failed.position)))
    if isinstance(error, StopIteration):  # would end the caller's loop as if all were well
        stopped = RuntimeError("collate_fn or __getitems__ raised StopIteration")
        stopped.__cause__ = error
        return stopped
    return error


def hand_over(batch: Batch, arena: Arena, wanted: Callable[[], int]) -> Handed:
    """The batch stays in its slot as long as the `wanted` slots remain; past that it is copied out."""
    outcome = batch.outcomes[0]
    if isinstance(outcome, LeftOut):
        outcome = next(o for o in batch.outcomes if not isinstance(o, LeftOut))
    if isinstance(outcome, Direct):
        arena.release(batch.slot)
        return Handed(outcome.batch, 0, False)
    if isinstance(outcome, Rows):
        nbytes = outcome.spec.layout(outcome.rows)[1]
        if batch.marred and (left_out := batch.rows_left_out()):
            return Handed(_compacted(batch.slot, arena, outcome, left_out), nbytes, True)
        block, copied = _take(batch.slot, arena, nbytes, wanted)
        return Handed(batch_of_rows(block, outcome.spec, outcome.rows), nbytes, copied)
    assert isinstance(outcome, Block)
    block, copied = _take(batch.slot, arena, outcome.nbytes, wanted)
    return Handed(unpack(block, outcome.start), outcome.nbytes, copied)


def _compacted(slot: int, arena: Arena, rows: Rows, left_out: set[int]) -> Any:
    """Without the rows of bad samples."""
    kept = [row for row in range(rows.rows) if row not in left_out]
    block = arena.memory.slot(slot, rows.spec.layout(rows.rows)[1])
    result = batch_of_some_rows(block, rows.spec, rows.rows, kept)
    arena.release(slot)
    return result


def _take(slot: int, arena: Arena, nbytes: int, wanted: Callable[[], int]) -> tuple[Any, bool]:
    if nbytes == 0:
        arena.release(slot)
        return np.empty(0, np.uint8), False
    if arena.room() >= wanted():
        return arena.lease(slot, nbytes), False
    return arena.take_copy(slot, nbytes), True
