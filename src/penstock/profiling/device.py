"""The accelerator that a loop uses, if any. Not run on one yet: tested with the processor in its place."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from penstock.tree import leaves_of

COPIES = 5


def in_use() -> torch.device | None:
    """The one that the program has begun to use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.device("cuda")
    return None


def synchronise(device: torch.device | None) -> None:
    """Wait until it has done all that it was asked for."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize()


def copy_s(batch: Any, device: torch.device | None) -> float | None:
    """Seconds to copy the tensors of a batch there, as ``tensor.to(device)`` does; None if there are none."""
    tensors = [leaf for leaf in leaves_of(batch) if isinstance(leaf, torch.Tensor)]
    if device is None or not tensors:
        return None
    taken = []
    for _ in range(COPIES):
        synchronise(device)
        begin = time.perf_counter()
        copied = [tensor.to(device, copy=True) for tensor in tensors]
        synchronise(device)
        taken.append(time.perf_counter() - begin)
        del copied
    return statistics.median(taken)
