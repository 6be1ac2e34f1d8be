"""Plain tensors and the bytes they stand in."""

from __future__ import annotations

import torch

from penstock.arena import Bytes


def is_plain(tensor: torch.Tensor) -> bool:
    """A dense tensor in main memory whose bytes are all there is to it."""
    return (
        tensor.layout is torch.strided
        and tensor.is_cpu
        and not tensor.requires_grad
        and not tensor.is_quantized
        and not tensor.is_nested
    )


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Those of a contiguous tensor, as a view of it."""
    flat = tensor.as_strided((tensor.numel(),), (1,))  # `reshape` may keep a stride of 0 of a single number
    return flat.view(torch.uint8)


def tensor_in(
    block: Bytes, start: int, dtype: torch.dtype, shape: tuple[int, ...], numel: int
) -> torch.Tensor:
    """A tensor over the bytes of `block` from `start` on, which it keeps.

    Its storage is just these bytes, and to autograd it is no view of another tensor.
    """
    if numel == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(block, dtype=dtype, count=numel, offset=start).resize_(shape)
