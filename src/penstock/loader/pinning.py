"""Pinned memory, from which a batch can be copied to an accelerator while it computes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.utils.data._utils import pin_memory as torch_pinning


def pin_device(loader: Any) -> str | None:
    """The accelerator whose pinned memory batches are to be copied to, if any."""
    if not loader.pin_memory:
        return None
    if loader.pin_memory_device:
        _warn(
            "pin_memory_device is deprecated, the current accelerator will be used as the device,"
            f"ignore pin_memory_device='{loader.pin_memory_device}'."
        )
    if hasattr(torch, "accelerator"):  # torch >= 2.6
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    else:
        device = torch.device("cuda") if torch.cuda.is_available() else None
    why = "no accelerator is found, then" if device is None else "not supported on MPS now,"
    if device is None or device.type == "mps":
        _warn(f"'pin_memory' argument is set as true but {why} device pinned memory won't be used.")
        return None
    return device.type


def _warn(text: str) -> None:
    """In torch's words, which people match, at the line that calls ``iter()``."""
    warnings.warn(text, stacklevel=6)


def pin_memory(batch: Any, device: str) -> Any:
    """A copy in memory of torch's own pinned allocator, which knows when it is free again."""
    return torch_pinning.pin_memory(batch, device)  # type: ignore[no-untyped-call]
