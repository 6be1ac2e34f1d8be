"""Sizes that all processes agree on."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

PAGE = mmap.PAGESIZE
ALIGN = 64
"""Every tensor in a slot starts at a multiple of this (a cache line)."""

STACK_BYTES = 1 << 16
"""Room for what a worker says of its stack, behind the control words, where the spans are large enough."""

NOTE_WORDS = 8
"""64-bit words of control memory for a worker, so that no two share a cache line."""
CONTROL_BYTES = PAGE * 16
MAX_WORKERS = CONTROL_BYTES // (8 * NOTE_WORDS) - 1


def aligned(count: int) -> int:
    """`count` rounded up to a multiple of `ALIGN`."""
    return -(-count // ALIGN) * ALIGN
