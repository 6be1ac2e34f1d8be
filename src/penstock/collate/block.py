"""Any collated batch, packed into one block: a pickle, with the bytes of tensors and arrays beside it.

Pickle's protocol 5 takes those bytes out of band, so that everything keeps its own type and the other side
gets views of the block.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import torch

from penstock.arena import Bytes, aligned
from penstock.collate.dense import is_plain
from penstock.errors import BatchNotSendableError, BatchTooLargeError


class BlockWriter:
    """Packs one collated batch of any kind into a block that grows as needed.

    `reserve(nbytes)` returns the first `nbytes` of the block; what was written before stays there.
    """

    def __init__(self, reserve: Any) -> None:
        self._reserve = reserve
        self._end = 0

    def pack(self, batch: Any) -> tuple[int, int]:
        """Write `batch`; returns (start of the pickle, bytes of the block).

        Raises:
            BatchNotSendableError: if it holds something that can't be pickled.
            BatchTooLargeError: from `reserve`.
        """
        places: list[tuple[int, int]] = []
        stream = _dumps(batch, lambda buffer: places.append(self._place(buffer)))
        table = pickle.dumps((places, stream), protocol=5)
        start, block = self._take(len(table))
        block[start : start + len(table)] = np.frombuffer(table, np.uint8)
        return start, start + len(table)

    def _place(self, buffer: pickle.PickleBuffer) -> tuple[int, int]:
        data = np.frombuffer(buffer.raw(), np.uint8)
        start, block = self._take(data.nbytes)
        block[start : start + data.nbytes] = data
        return start, data.nbytes

    def _take(self, nbytes: int) -> tuple[int, Bytes]:
        start, self._end = self._end, aligned(self._end + nbytes)
        return start, self._reserve(self._end)


def unpack(block: Bytes, start: int) -> Any:
    """The batch that `BlockWriter.pack` wrote; its tensors and arrays view `block` and keep it."""
    places, stream = pickle.loads(block[start:].tobytes())
    return pickle.loads(stream, buffers=[block[a : a + n] for a, n in places])


def _dumps(batch: Any, place: Any) -> bytes:
    """Pickle `batch` by reference to its classes, or, where that can't be, with them (cloudpickle)."""
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=5, buffer_callback=place).dump(batch)
    except (BatchTooLargeError, BatchNotSendableError):
        raise
    except Exception as plain:
        try:
            return cloudpickle.dumps(batch)  # type: ignore[no-any-return]
        except Exception:
            raise BatchNotSendableError(type(batch).__name__, f"{plain}") from plain
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    """Leaves the bytes of plain tensors beside the pickle; numpy does so for its arrays by itself."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        if obj.requires_grad and not obj.is_leaf:
            raise BatchNotSendableError("Tensor", "autograd's record of how it was made can't be sent along (detach it)")
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
        raw: Any = dense.reshape(-1).view(torch.uint8).numpy()
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
