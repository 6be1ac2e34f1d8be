"""How tensors are pickled: by their bytes, which stay beside the pickle where it takes buffers out of band.

torch's own way goes through files in memory for every tensor, and some types can't be read back.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import torch

from penstock.collate.dense import bytes_of, is_plain
from penstock.errors import BatchNotSendableError


class Pickler(pickle.Pickler):
    """Refers to classes by their names; numpy leaves the bytes of its arrays out of band by itself."""

    def reducer_override(self, obj: Any) -> Any:
        return reduce(obj)


class PicklerWithClasses(cloudpickle.Pickler):  # type: ignore[misc]
    """Sends classes and functions that can't be found by name along (cloudpickle)."""

    def reducer_override(self, obj: Any) -> Any:
        reduced = reduce(obj)
        return super().reducer_override(obj) if reduced is NotImplemented else reduced


def reduce(obj: Any) -> Any:
    """What to pickle of a tensor or a storage; ``NotImplemented`` for anything else."""
    if isinstance(obj, torch.Tensor):
        return reduce_tensor(obj)
    if type(obj) is torch.UntypedStorage and obj.device.type == "cpu":  # its own pickle fails
        return _storage_of, (torch.tensor((), dtype=torch.uint8, device="cpu").set_(obj),)
    return NotImplemented


def reduce_tensor(obj: Any) -> Any:
    """What to pickle of a tensor: its bytes, in a `pickle.PickleBuffer`, and how they make it; or, of one
    that is more than that, what its own class says (``NotImplemented``)."""
    if obj.requires_grad and not obj.is_leaf:
        raise BatchNotSendableError(
            "Tensor", "autograd's record of how it was made can't be sent along (detach it)"
        )
    if obj.layout is not torch.strided:
        return _load_saved, (_saved(obj),)
    if obj.is_quantized and obj.qscheme() in _REQUANTIZE:
        return _REQUANTIZE[obj.qscheme()](obj)
    if type(obj) is not torch.Tensor or not is_plain(obj) or obj.is_conj() or obj.is_neg():
        return NotImplemented
    if obj.numel() == 0:
        return _empty_tensor, (obj.dtype, tuple(obj.shape))
    shape, stride = tuple(obj.shape), obj.stride()
    for dim in (d for d in range(obj.dim()) if stride[d] == 0):
        obj = obj.narrow(dim, 0, 1)  # expanded: there is but one
    order = sorted(range(obj.dim()), key=stride.__getitem__, reverse=True)
    dense = obj.permute(order)  # channels_last and the like stay as they are
    if not dense.is_contiguous():
        dense = obj.contiguous()
        kept = dense.stride()
        stride = tuple(0 if old == 0 else new for old, new in zip(stride, kept, strict=True))
    raw: Any = bytes_of(dense).numpy()
    return _rebuild_tensor, (pickle.PickleBuffer(raw), obj.dtype, shape, stride)


def _reduce_by_tensor(t: torch.Tensor) -> tuple[Any, ...]:
    return torch._make_per_tensor_quantized_tensor, (t.int_repr(), t.q_scale(), t.q_zero_point())


def _reduce_by_channel(t: torch.Tensor) -> tuple[Any, ...]:
    scales, zeros = t.q_per_channel_scales(), t.q_per_channel_zero_points()
    return torch._make_per_channel_quantized_tensor, (t.int_repr(), scales, zeros, t.q_per_channel_axis())


_REQUANTIZE: dict[Any, Callable[[torch.Tensor], tuple[Any, ...]]] = {
    torch.per_tensor_affine: _reduce_by_tensor,
    torch.per_channel_affine: _reduce_by_channel,
}
"""Quantised tensors, whose own pickle goes through a class that torch warns of."""


def _empty_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def _storage_of(data: torch.Tensor) -> torch.UntypedStorage:
    return data.clone().untyped_storage()  # of these bytes alone, and none that are lent


def _saved(tensor: torch.Tensor) -> bytes:
    stream = io.BytesIO()
    torch.save(tensor, stream)
    return stream.getvalue()


def _load_saved(data: bytes) -> Any:
    """A sparse tensor: unpickled without ``torch.load``, it would be kept alive by torch's own list."""
    return torch.load(io.BytesIO(data), weights_only=False)


def _rebuild_tensor(
    data: Any, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]
) -> torch.Tensor:
    return torch.frombuffer(data, dtype=dtype).as_strided(shape, stride)
