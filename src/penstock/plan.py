"""The pure description of an epoch: tasks, their size, and the seed of every sample.

Nothing here reads a clock, starts anything or touches a generator's state.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TASK_SECONDS = 0.01
"""A task is not made shorter than this: below it, handing it over costs more than it gains."""
PARTS_PER_WORKER = 2
"""A batch is split into at most this many tasks a worker, so that none waits long for the last."""

QUEUE_SECONDS = 0.005
"""The work that every worker should have before it, in seconds."""
MAX_QUEUE = 32
"""The most batches that a worker gets ahead for that reason."""


@dataclass(frozen=True, slots=True)
class Task:
    """A run of samples of one batch: the unit that is handed to a worker.

    Attributes:
        generation: which epoch of the backend's life it belongs to; a worker drops others, and the
            samples' seeds follow from it too.
        batch: the batch's number in the epoch, from 0.
        offset: the place of its first sample in the batch.
        indices: what to pass to ``dataset[i]``; without automatic batching, the one index.
        batch_size: the number of samples of the whole batch.
        rows: place regular samples row by row; otherwise collate, which needs the whole batch.
        base_seed: the epoch's seed, from which every sample's seed follows.
    """

    generation: int
    batch: int
    offset: int
    indices: tuple[Any, ...]
    batch_size: int
    rows: bool
    base_seed: int


def parts_for(batch_size: int, workers: int, sample_s: float | None) -> int:
    """How many tasks to split a batch into.

    `sample_s` is the mean cost of a sample in seconds, None while it isn't known: then every worker
    gets a part, so that the first batch comes as early as it can.
    """
    if workers <= 1:
        return 1
    if sample_s is None:
        return max(1, min(workers, batch_size))
    worth = int(batch_size * sample_s / TASK_SECONDS)
    return max(1, min(worth, PARTS_PER_WORKER * workers, batch_size))


def batches_ahead(at_least: int, workers: int, batch_s: float | None) -> int:
    """How many batches to have in the making while the caller has one in hand.

    `at_least` is what the user asked for (0 without workers). Of cheap batches, which take `batch_s`
    seconds each, there are more, so that no worker runs out of work when the main process is late.
    """
    if not at_least or batch_s is None:
        return at_least
    for_each = math.ceil(QUEUE_SECONDS / max(batch_s, QUEUE_SECONDS / MAX_QUEUE))
    return max(at_least, workers * for_each)


def split(batch_size: int, parts: int) -> list[range]:
    """`parts` runs of positions, in order, whose lengths differ by one at the most."""
    edges = [batch_size * part // parts for part in range(parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges) if a < b]


_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def sample_seeds(base_seed: int, epoch: int, batch: int, offset: int, indices: Sequence[Any]) -> list[int]:
    """A 64-bit seed for each sample, from (base seed, epoch, position, index).

    The position is (batch, offset in the batch). The parts are absorbed one after the other by the
    finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); an index that is no 64-bit integer
    counts by the first 8 bytes of the BLAKE2b digest of its ``repr``.
    """
    places = np.arange(offset, offset + len(indices), dtype=np.uint64)
    state: NDArray[np.uint64] = np.full(len(indices), base_seed % 2**64, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in (np.uint64(epoch), np.uint64(batch), places, _as_words(indices)):
            state = _mix(state ^ _mix(part + _STEP))
    return [int(seed) for seed in state.tolist()]


def _mix(z: Any) -> Any:
    """SplitMix64's finaliser, on uint64 values that wrap around."""
    z = (z ^ (z >> np.uint64(30))) * _MIX[0]
    z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    return z ^ (z >> np.uint64(31))


def _as_words(indices: Sequence[Any]) -> NDArray[np.uint64]:
    if all(type(index) is int for index in indices):
        try:
            return np.array(indices, dtype=np.int64).view(np.uint64)
        except OverflowError:
            pass
    return np.array([_as_word(index) for index in indices], dtype=np.uint64)


def _as_word(index: Any) -> int:
    if isinstance(index, int | np.integer) and -(2**63) <= index < 2**63:
        return int(index) % 2**64
    digest = hashlib.blake2b(repr(index).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
