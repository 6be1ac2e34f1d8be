"""Numbers made of numbers, as if drawn at random: the finaliser of SplitMix64 (Steele, Lea and Flood,
OOPSLA 2014), of one number or of many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15
"""Added to small numbers before they are mixed, as 0 would stay 0."""
_MIX = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

STEP_64, *_MIX_64, _30, _27, _31 = (np.array(word, np.uint64) for word in (STEP, *_MIX, 30, 27, 31))
"""Arrays of no dimension, which numpy takes more quickly than its scalars."""


def mix(z: int) -> int:
    """A 64-bit number for each 64-bit number."""
    z = (z ^ (z >> 30)) * _MIX[0] & WORD
    z = (z ^ (z >> 27)) * _MIX[1] & WORD
    return z ^ (z >> 31)


def mix_all(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The same of many, in their place; arrays of uint64 wrap around by themselves."""
    shifted = z >> _30
    z ^= shifted
    z *= _MIX_64[0]
    z ^= np.right_shift(z, _27, out=shifted)
    z *= _MIX_64[1]
    z ^= np.right_shift(z, _31, out=shifted)
    return z


def mixed_range(start: int, count: int) -> NDArray[np.uint64]:
    """Those of so many numbers from `start` on."""
    return mix_all(np.arange(start, start + count, dtype=np.uint64) + STEP_64)
