"""The pure description of an epoch: tasks, their size, and the seed of every sample.

Nothing here reads a clock, starts anything or touches a generator's state.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from penstock.mixing import STEP, STEP_64, WORD, mix, mix_all, mixed_range

TASK_SECONDS = 0.025
"""A task is not made shorter than this: below it, handing it over costs more than it gains."""
PARTS_PER_WORKER = 2
"""A batch is split into at most this many tasks a worker, so that none waits long for the last."""

QUEUE_SECONDS = 0.005
"""The work that every worker should have before it, in seconds."""
MAX_QUEUE = 32
"""The most batches that a worker gets ahead for that reason."""


@dataclass(frozen=True, slots=True)
class Course:
    """What all tasks of one epoch have in common.

    Attributes:
        generation: which epoch of the backend's life it is; a worker drops the tasks of others.
        base_seed: the seed that every sample's seed follows from.
        epoch: the number of the epoch, from which they follow too.
        announced: the user chose that number by ``set_epoch``: the dataset in each worker is to know it.
    """

    generation: int
    base_seed: int
    epoch: int
    announced: bool = False


class NoIndices(tuple[Any, ...]):
    """Stands for the indices of a batch that couldn't be read, as a batch sampler gave something else.

    Attributes:
        error: what reading them raised.
    """

    error: Exception

    def __new__(cls, error: Exception) -> Self:
        made = super().__new__(cls)
        made.error = error
        return made


def indices_of(batch: Iterable[Any]) -> tuple[Any, ...]:
    """Those that a batch sampler gave for one batch. It raises nothing: as in torch, the batch that can't be
    read is a batch that fails, and the next one can be had."""
    try:
        return tuple(batch)
    except Exception as error:
        return NoIndices(error)


Indices = Sequence[Any] | NDArray[np.int64]


class Block(NamedTuple):
    """Several batches' indices, one after the other.

    Attributes:
        numbers: those of the batches.
        sizes: how many indices each has.
        indices: those of all of them.
    """

    numbers: Sequence[int]
    sizes: list[int]
    indices: Indices

    def batches(self) -> list[tuple[int, tuple[Any, ...]]]:
        """(number, indices) of each."""
        indices = iter(self.indices.tolist() if isinstance(self.indices, np.ndarray) else self.indices)
        pairs = zip(self.numbers, self.sizes, strict=True)
        return [(number, tuple(itertools.islice(indices, size))) for number, size in pairs]


class Task(NamedTuple):
    """A run of samples of one batch: the unit that is handed to a worker.

    Attributes:
        generation: of the `Course` that it belongs to.
        batch: the batch's number in the epoch, from 0.
        offset: the place of its first sample in the batch.
        indices: what to pass to ``dataset[i]``; without automatic batching, the one index.
        batch_size: the number of samples of the whole batch.
        rows: place regular samples row by row; otherwise collate, which needs the whole batch.
        worker: the one that has to run it, if it matters which: its iterator is the one to ask.
        bad: the places in the batch of samples that aren't to be tried, as they killed their workers; a place
            comes once more for each sample in its place that did so too.
    """

    generation: int
    batch: int
    offset: int
    indices: tuple[Any, ...]
    batch_size: int
    rows: bool
    worker: int | None = None
    bad: tuple[int, ...] = ()

    def holds(self, batch: int, position: int) -> bool:
        """Whether the sample at this place is one of its samples."""
        return batch == self.batch and 0 <= position - self.offset < len(self.indices)


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


class Window(NamedTuple):
    """How many batches to have in the making while the caller has one in hand.

    When there are no more than `low`, they are filled up to `high`.
    """

    low: int
    high: int


def window(at_least: int, workers: int, batch_s: float | None) -> Window:
    """The window, where the user asked for `at_least` batches (0 without workers).

    Of cheap batches, which take `batch_s` seconds each, there are more, so that no worker runs out of
    work when the main process is late; they are handed out many at a time, as every sending costs.
    """
    if not at_least or batch_s is None:
        return Window(at_least - 1, at_least)
    for_each = math.ceil(QUEUE_SECONDS / max(batch_s, QUEUE_SECONDS / MAX_QUEUE))
    high = max(at_least, workers * for_each)
    return Window(high - 1 - (high - at_least) // 4, high)


def split(batch_size: int, parts: int) -> list[range]:
    """`parts` runs of positions, in order, whose lengths differ by one at the most."""
    edges = [batch_size * part // parts for part in range(parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges) if a < b]


ATTEMPTS = 10
"""How many other samples are tried in the place of a bad one."""


def sample_seeds(base_seed: int, epoch: int, batch: int, offset: int, indices: Sequence[Any]) -> list[int]:
    """A 64-bit seed for each sample, from (base seed, epoch, position, index).

    The position is (batch, offset in the batch). The parts are absorbed one after the other (`mixing`); an
    index that is no 64-bit integer counts by the first 8 bytes of the BLAKE2b digest of its ``repr``.
    """
    state = base_seed & WORD
    for part in (epoch, batch):
        state = mix(state ^ mix((part + STEP) & WORD))
    count = len(indices)
    parts = np.empty(2 * count, np.uint64)  # the two that don't depend on each other, at once
    np.bitwise_xor(_mixed_places(offset, count), np.uint64(state), parts[:count])
    np.add(_as_words(indices), STEP_64, parts[count:])
    mix_all(parts)
    seeds: list[int] = mix_all(parts[:count] ^ parts[count:]).tolist()
    return seeds


_mixed_places = lru_cache(maxsize=64)(mixed_range)
"""They are the same for every batch."""


def substitute(seed: int, attempt: int, size: int) -> int:
    """The index of a sample, of `size`, to take in the place of the one that `seed` belongs to."""
    return mix((seed + (attempt + 1) * STEP) & WORD) % size


def _as_words(indices: Sequence[Any]) -> NDArray[np.uint64]:
    if set(map(type, indices)) == {int}:
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
