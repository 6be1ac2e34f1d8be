"""States of a Mersenne Twister, made of seeds: of many at a fifth of what Python's own seeding costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from penstock.mixing import mix_all, mixed_range

WORDS = 624
"""Of 32 bits each (Matsumoto and Nishimura, TOMACS 1998). Any will do, if not all are 0."""
AT_ONCE = 32
"""States are made so many at a time: each costs a sixth of what it would alone, and they are 80 KB."""

_PARTS = np.concatenate([np.zeros(1, np.uint64), mixed_range(0, WORDS // 2)])
"""For each two words, after what goes before them."""


class States(Sequence[memoryview]):
    """A state for each of some 64-bit seeds, as CPython keeps it: how many words are used up, then the words.

    They are `mixing.mix` of the seed and of each word's place, and none is used up. They are fit to be drawn
    as they are: after ``random.seed`` the first draw has to go over all of them first.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._first = 0
        self._made: Sequence[memoryview] = ()

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, k: int) -> memoryview:  # type: ignore[override]
        if not 0 <= k - self._first < len(self._made):
            as_many_as_before = max(1, min(k, AT_ONCE))  # the first may be the only one that is wanted
            self._first, self._made = k, self._some(k, as_many_as_before)
        return self._made[k - self._first]

    def __iter__(self) -> Iterator[memoryview]:
        return chain.from_iterable(self._some(k, AT_ONCE) for k in range(0, len(self), AT_ONCE))

    def _some(self, first: int, count: int) -> list[memoryview]:
        seeds = np.array(self._seeds[first : first + count], np.uint64)
        rows = mix_all(seeds[:, np.newaxis] ^ _PARTS)
        rows[:, 0] = 0
        whole, size = memoryview(rows.tobytes()), rows.strides[0]  # quicker than what an array itself gives
        return [whole[at + 4 : at + size] for at in range(0, len(whole), size)]
