"""Whether two samples are the same, to the last bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from penstock.collate.dense import bytes_of
from penstock.collate.pickling import Pickler
from penstock.tree import StructureMismatch, flatten, structure_of


def same(a: Any, b: Any) -> bool:
    """Whether `a` and `b` have the same structure, types, dtypes, shapes and bits.

    A leaf that is neither tensor nor array is the same if its pickle is, or if it says so itself (``==``).
    """
    structure = structure_of(a)
    if structure != structure_of(b):
        return False
    try:
        leaves = zip(flatten(a, structure), flatten(b, structure), strict=True)
    except StructureMismatch:
        return False
    return all(_same_leaves(x, y) for x, y in leaves)


def _same_leaves(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray) and not a.dtype.hasobject:
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    try:
        if isinstance(a, torch.Tensor) and a.layout is torch.strided and not a.is_quantized:
            alike = bool(a.dtype is b.dtype and a.shape == b.shape)
            return alike and _bits(a) == _bits(b) and _rest_same(a, b)
        return _pickled(a) == _pickled(b) or bool(a == b)
    except Exception:  # it can neither be pickled nor compared
        return False


def _bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    return bytes_of(plain.contiguous()).numpy().tobytes()


def _rest_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """What a subclass (an image, a box) keeps beside the numbers."""
    return not (vars(a) or vars(b)) or same(vars(a), vars(b))


def _pickled(value: Any) -> tuple[bytes, list[bytes]]:
    stream, beside = io.BytesIO(), list[bytes]()
    Pickler(stream, 5, buffer_callback=lambda buffer: beside.append(bytes(buffer.raw()))).dump(value)
    return stream.getvalue(), beside
