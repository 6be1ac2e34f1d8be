"""How fast this machine copies memory: what reading a sample from a cache takes."""

from __future__ import annotations

import statistics
import time

import numpy as np

UNCACHED_BYTES = 64 << 20
"""More than a processor's own caches hold."""
SMALLEST, LARGEST = 1 << 16, 16 << 20
COPIES = 25


def copy_rate(nbytes: int) -> float | None:
    """Bytes per second at which pieces of about so many bytes are copied; None of no bytes.

    Each comes from where the processor's caches don't hold it, and goes into memory that was in use before.
    """
    if not nbytes:
        return None
    piece = min(max(nbytes, SMALLEST), LARGEST)
    source = np.ones(UNCACHED_BYTES, np.uint8)
    rates, copies = [], min(COPIES, UNCACHED_BYTES // piece)
    for turn in range(copies):
        start = turn * (UNCACHED_BYTES // copies)
        begin = time.perf_counter()
        copied = source[start : start + piece].copy()
        rates.append(piece / (time.perf_counter() - begin))
        del copied
    return statistics.median(rates)
