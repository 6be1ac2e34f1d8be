"""Whether two batches are the same, to the last bit, and where they are not."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def equal(a: Any, b: Any) -> bool:
    """Whether two batches are the same in types, structure, dtypes and values."""
    return difference(a, b) is None


def difference(a: Any, b: Any, where: str = "") -> str | None:
    """The first thing in which `a` and `b` differ, with the path to it; None if they are the same.

    NaNs are the same where their bits are. Strides count only by whether a tensor is contiguous.
    """
    if type(a) is not type(b):
        return _unlike(where, "type", type(a), type(b))
    if isinstance(a, torch.Tensor):
        return _of_tensors(a, b, where)
    if isinstance(a, np.ndarray | np.generic):
        return _of_arrays(np.asarray(a), np.asarray(b), where)
    if callable(a):
        return None if a == b else _unlike(where, "value", a, b)
    if isinstance(a, float | complex):
        return None if repr(a) == repr(b) else _unlike(where, "value", a, b)
    if isinstance(a, str | bytes | range | collections.UserString):
        return None if a == b else _unlike(where, "value", a, b)
    if isinstance(a, Mapping):
        return _of_mappings(a, b, where) or _of_attributes(a, b, where)
    if isinstance(a, Sequence):
        return _of_sequences(a, b, where) or _of_attributes(a, b, where)
    if dataclasses.is_dataclass(a) or type(a).__eq__ is object.__eq__:
        return _of_attributes(a, b, where)
    return None if a == b else _unlike(where, "value", a, b)


def _unlike(where: str, what: str, a: Any, b: Any) -> str:
    return f"{where or 'batch'}: {what} {a!r} is not {b!r}"


def _of_mappings(a: Any, b: Any, where: str) -> str | None:
    if list(a) != list(b):
        return _unlike(where, "keys", list(a), list(b))
    return next(filter(None, (difference(a[key], b[key], f"{where}[{key!r}]") for key in a)), None)


def _of_sequences(a: Any, b: Any, where: str) -> str | None:
    if len(a) != len(b):
        return _unlike(where, "length", len(a), len(b))
    pairs = enumerate(zip(a, b, strict=True))
    return next(filter(None, (difference(x, y, f"{where}[{i}]") for i, (x, y) in pairs)), None)


def _of_attributes(a: Any, b: Any, where: str) -> str | None:
    return _of_mappings(getattr(a, "__dict__", {}), getattr(b, "__dict__", {}), f"{where}.__dict__")


def _of_arrays(a: Any, b: Any, where: str) -> str | None:
    if a.dtype != b.dtype or a.shape != b.shape:
        return _unlike(where, "array of", (a.dtype, a.shape), (b.dtype, b.shape))
    if a.dtype.hasobject:
        return _of_sequences(a.ravel().tolist(), b.ravel().tolist(), where)
    return None if a.tobytes() == b.tobytes() else _unlike(where, "array", a, b)


_PROPERTIES = ("dtype", "layout", "device", "requires_grad", "is_quantized", "is_nested", "is_sparse")


def _of_tensors(a: Any, b: Any, where: str) -> str | None:
    for name in _PROPERTIES:
        if getattr(a, name) != getattr(b, name):
            return _unlike(where, name, getattr(a, name), getattr(b, name))
    if a.is_nested:
        return _of_sequences(a.unbind(), b.unbind(), where)
    if a.shape != b.shape:
        return _unlike(where, "shape", tuple(a.shape), tuple(b.shape))
    if a.layout is not torch.strided:
        parts = [(name, getattr(torch.Tensor, name)) for name in _PARTS[a.layout]]
        return next(filter(None, (difference(f(a), f(b), f"{where}.{name}()") for name, f in parts)), None)
    if a.is_quantized:
        return _of_quantized(a, b, where)
    if a.device.type == "meta":
        return None if a.stride() == b.stride() else _unlike(where, "strides", a.stride(), b.stride())
    if a.is_contiguous() != b.is_contiguous():
        return _unlike(where, "strides", a.stride(), b.stride())
    return _of_attributes(a, b, where) if _bits(a) == _bits(b) else _unlike(where, "tensor", a, b)


_PARTS: dict[torch.layout, tuple[str, ...]] = {
    torch.sparse_coo: ("is_coalesced", "_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def _of_quantized(a: Any, b: Any, where: str) -> str | None:
    if a.qscheme() != b.qscheme():
        return _unlike(where, "qscheme", a.qscheme(), b.qscheme())
    names = ["int_repr", "q_scale", "q_zero_point"]
    if a.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        names = ["int_repr", "q_per_channel_scales", "q_per_channel_zero_points"]
    for name in names:
        found = difference(getattr(a, name)(), getattr(b, name)(), f"{where}.{name}()")
        if found:
            return found
    return None


def _bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().as_subclass(torch.Tensor)
    dense = plain.clone(memory_format=torch.contiguous_format)  # `contiguous` leaves one number its stride
    return dense.view(-1).view(torch.uint8).numpy().tobytes()
