"""Any sample as one run of bytes, and back, bit for bit: a pickle, with what is large beside it.

What comes back is a copy of its own, whatever is done to it.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
from typing import Any

import numpy as np
import torch

from penstock.arena import Bytes, aligned
from penstock.collate.pickling import PicklerWithClasses, reduce_tensor

_HEAD = struct.Struct("<QQ")


_MODES = "L", "RGB", "RGBA", "CMYK", "F", "I"
"""Of Pillow's images: those that are nothing but their pixels."""


class NotPackable(Exception):
    """A sample can't be pickled."""


def pack(sample: Any) -> list[bytes | memoryview]:
    """The sample as pieces of bytes, which have to be put one after the other.

    Raises:
        NotPackable: if it can't be pickled.
    """
    own: list[pickle.PickleBuffer] = []
    beside: list[pickle.PickleBuffer] = []

    def keep_out(buffer: pickle.PickleBuffer) -> bool:
        """Only what `_Pickler` made is read back as a copy; the rest goes into the pickle."""
        if any(buffer is each for each in own):
            beside.append(buffer)
            return False
        return True

    stream = io.BytesIO()
    try:
        _Pickler(stream, 5, buffer_callback=keep_out, own=own).dump(sample)
    except Exception as error:
        raise NotPackable(f"{type(error).__name__}: {error}") from error
    pickled = stream.getvalue()
    raw: list[memoryview] = [buffer.raw() for buffer in beside]
    head = _HEAD.pack(len(pickled), len(raw)) + struct.pack(f"<{len(raw)}Q", *map(len, raw))
    whole: list[bytes | memoryview] = [head + pickled, *raw]
    pieces: list[bytes | memoryview] = []
    for piece in whole:
        pieces += [piece, bytes(aligned(len(piece)) - len(piece))]
    return pieces


def size_of(pieces: list[bytes | memoryview]) -> int:
    """Bytes of them all."""
    return sum(len(piece) for piece in pieces)


def unpack(block: Bytes) -> Any:
    """The sample whose bytes `block` begins with; nothing of it views `block`."""
    data = block.data
    pickled, count = _HEAD.unpack_from(data)
    sizes = struct.unpack_from(f"<{count}Q", data, _HEAD.size)
    start = _HEAD.size + 8 * count
    end = aligned(start + pickled)
    buffers = []
    for size in sizes:
        buffers.append(block[end : end + size])
        end += aligned(size)
    return pickle.loads(data[start : start + pickled], buffers=buffers)


class _Pickler(PicklerWithClasses):
    """Leaves the bytes of tensors, arrays and Pillow's images beside the pickle."""

    def __init__(self, *args: Any, own: list[pickle.PickleBuffer], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = own

    def reducer_override(self, obj: Any) -> Any:
        pillow = sys.modules.get("PIL.Image")
        if type(obj) is np.ndarray and not obj.dtype.hasobject and obj.nbytes:
            lying = obj if obj.flags.c_contiguous else obj.T
            if lying.flags.c_contiguous:
                raw = lying.reshape(-1).view(np.uint8)
                return _array, (self._beside(raw), obj.dtype, lying.shape, lying is not obj)
        if pillow is not None and type(obj) is pillow.Image and obj.mode in _MODES:
            pixels = obj.tobytes()
            return _image, (self._beside(pixels), obj.mode, obj.size, dict(obj.info))
        if isinstance(obj, torch.Tensor) and not obj.requires_grad:
            return self._of_tensor(obj)
        return super().reducer_override(obj)

    def _of_tensor(self, obj: torch.Tensor) -> Any:
        if type(obj) is not torch.Tensor:
            if type(obj).__reduce_ex__ is not torch.Tensor.__reduce_ex__ or obj.layout is not torch.strided:
                return NotImplemented
            return _of_class, (obj.as_subclass(torch.Tensor), type(obj), dict(vars(obj)))
        reduced = reduce_tensor(obj)
        if isinstance(reduced, tuple) and reduced[1] and isinstance(reduced[1][0], pickle.PickleBuffer):
            self._own.append(reduced[1][0])
            return _tensor, reduced[1]
        return reduced

    def _beside(self, data: Any) -> pickle.PickleBuffer:
        self._own.append(pickle.PickleBuffer(data))
        return self._own[-1]


def _array(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], turned: bool) -> Any:
    array = np.frombuffer(data, dtype).reshape(shape).copy()
    return array.T if turned else array


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    copy = np.array(np.frombuffer(data, np.uint8))
    return torch.frombuffer(copy, dtype=dtype).as_strided(shape, stride)


def _image(data: Any, mode: str, size: tuple[int, int], info: dict[str, Any]) -> Any:
    from PIL import Image

    image = Image.frombytes(mode, size, data)
    image.info.update(info)
    return image


def _of_class(tensor: torch.Tensor, kind: type[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    made = tensor.as_subclass(kind)
    vars(made).update(state)
    return made
