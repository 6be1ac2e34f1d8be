"""How much memory a cache may take, and which samples get it where it is short."""

from __future__ import annotations

import math
import re

from penstock.machine import available_memory

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?)B?\s*", re.IGNORECASE)

Memory = int | float | str
"""Bytes, or a share of what is free (a float below 1), or a text such as "8GB" or "512MiB"."""


def bytes_of(memory: Memory) -> int:
    """The bytes that the user means.

    Raises:
        ValueError: if it is no size.
        TypeError: if it is of no such type.
    """
    if isinstance(memory, str):
        match = _SIZE.fullmatch(memory)
        if match is None:
            raise ValueError(f"memory should be a size such as '8GB' or '512MiB', but got {memory!r}")
        nbytes = int(float(match[1]) * {**UNITS, **BINARY}[match[2].upper()])
        if nbytes == 0:
            raise ValueError(f"memory should be a size such as '8GB', or a number, but got {memory!r}")
        return nbytes
    if isinstance(memory, bool) or not isinstance(memory, int | float):
        raise TypeError(f"memory should be a size, a share of what is free, or None, but got {memory!r}")
    if not memory > 0 or not math.isfinite(memory):
        raise ValueError(f"memory should be more than 0, but got {memory!r}")
    if isinstance(memory, float) and 1 <= memory < 1024:
        raise ValueError(f"memory should be a share below 1, or a size such as '8GB', but got {memory!r}")
    return int(memory * available_memory()) if memory < 1 else int(memory)


BUCKETS = 64
"""Samples are told apart by the saved time per byte, in powers of two."""


def bucket_of(seconds: float, nbytes: int) -> int:
    """The class of a sample that takes so long to make and so many bytes to keep; a higher one is better."""
    worth = seconds * 1e12 / max(1, nbytes)  # picoseconds a byte
    return min(BUCKETS - 1, max(0, int(math.log2(max(1.0, worth)))))


def admits(
    budget: int, nbytes: int, bucket: int, seen: list[int], stored: list[int], share_seen: float
) -> bool:
    """Whether to keep a sample: whether the better ones that are still to come leave room for it.

    `seen` and `stored` are the bytes of each class up to now; `share_seen` is the part of the dataset that
    they come from, by which the rest is guessed.
    """
    better = sum(seen[bucket + 1 :]) / share_seen if share_seen else 0.0
    coming = max(0.0, better - sum(stored[bucket + 1 :]))
    return sum(stored) + nbytes + coming <= budget
