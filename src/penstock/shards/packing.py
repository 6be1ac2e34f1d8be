"""Any plain value as bytes and back: for what has no column of its own.

It is pickle, but narrowed on both sides: only plain types go in, and reading calls nothing but the few
functions here, so that a file from elsewhere can't run code.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch

from penstock.errors import NotStorableError
from penstock.tree import is_namedtuple

PROTOCOL = 5


def pack(value: Any) -> bytes:
    """`value` as bytes.

    Raises:
        NotStorableError: if it, or something in it, is none of the plain types.
    """
    out = io.BytesIO()
    try:
        _Packer(out, PROTOCOL).dump(value)
    except RecursionError:
        raise NotStorableError(type(value), "it is nested too deeply") from None
    return out.getvalue()


def unpack(data: bytes) -> Any:
    """What was packed.

    Raises:
        pickle.UnpicklingError: if `data` isn't of `pack`.
    """
    return _Unpacker(io.BytesIO(data)).load()


def unpack_parts(data: bytes) -> Any:
    """The same, but what was taken apart stays in its parts."""
    return _PartsUnpacker(io.BytesIO(data)).load()


def check_tensor(tensor: torch.Tensor) -> None:
    """Refuse a tensor that is more than its numbers."""
    reason = ""
    if type(tensor) is not torch.Tensor:
        reason = "it is of a subclass of torch.Tensor"
    elif tensor.layout is not torch.strided or tensor.is_quantized:
        reason = "it is sparse or quantized"
    elif tensor.device.type != "cpu":
        reason = f"it is on {tensor.device}"
    elif tensor.requires_grad:
        reason = "it requires a gradient: detach() it"
    if reason:
        raise NotStorableError(type(tensor), reason)


def type_named(module: str, name: str) -> type[Any]:
    """The named tuple's class of this name.

    Raises:
        pickle.UnpicklingError: if there is none.
    """
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and is_namedtuple(found)):
        raise pickle.UnpicklingError(f"{module}.{name} is no named tuple here")
    return found


def check_named(kind: type[Any]) -> tuple[str, str]:
    """The module and the name that `type_named` finds this class by."""
    try:
        if type_named(kind.__module__, kind.__qualname__) is kind:
            return kind.__module__, kind.__qualname__
    except (ImportError, pickle.UnpicklingError):
        pass
    raise NotStorableError(kind, "its class can't be found by its name: define it in a module")


class _Packer(pickle.Pickler):
    """Takes builtins as pickle does, and of everything else what is listed here."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if value is rebuild:
            return NotImplemented
        if isinstance(value, torch.Tensor):
            check_tensor(value)
            plain = torch.empty(value.shape, dtype=value.dtype).copy_(value)
            flat = plain.reshape(-1).view(torch.uint8)
            name = str(value.dtype).removeprefix("torch.")
            return rebuild, ("tensor", name, tuple(value.shape), flat.numpy().tobytes())
        if (kind is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
            how = "array" if kind is np.ndarray else "scalar"
            dtype = value.dtype.descr if value.dtype.names else value.dtype.str
            return rebuild, (how, dtype, value.shape, value.tobytes())
        if kind in TAKEN_APART:
            return rebuild, (TAKEN_APART[kind], *value)
        if is_namedtuple(kind):
            return rebuild, ("named", *check_named(kind), *value)
        if kind is complex:
            return rebuild, ("complex", value.real, value.imag)
        raise NotStorableError(kind)


class _Unpacker(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, rebuild.__name__):
            return rebuild
        raise pickle.UnpicklingError(f"a stored sample asks for {module}.{name}, which isn't plain data")


class _PartsUnpacker(_Unpacker):
    def find_class(self, module: str, name: str) -> Any:
        super().find_class(module, name)
        return _rebuild_parts


def rebuild(what: str, *parts: Any) -> Any:
    """The value of these parts; the one function that a packed value calls."""
    return REBUILDERS[what](*parts)


def _rebuild_parts(what: str, *parts: Any) -> Any:
    kinds = {name: kind for kind, name in TAKEN_APART.items()}
    return kinds[what](*parts) if what in kinds else rebuild(what, *parts)


def _tensor(name: str, shape: tuple[int, ...], data: bytes) -> torch.Tensor:
    dtype = getattr(torch, name)
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def _array(dtype: Any, shape: tuple[int, ...], data: bytes) -> np.ndarray[Any, Any]:
    return np.frombuffer(bytearray(data), np.dtype(dtype)).reshape(shape)


def _scalar(dtype: Any, _: tuple[int, ...], data: bytes) -> np.generic:
    kind = np.dtype(dtype)
    held = np.frombuffer(data, kind) if kind.itemsize else np.zeros(1, kind)  # an empty text
    found: np.generic = held[0]
    return found


def _named(module: str, name: str, *items: Any) -> Any:
    return type_named(module, name)(*items)


REBUILDERS: dict[str, Callable[..., Any]] = {
    "tensor": _tensor,
    "array": _array,
    "scalar": _scalar,
    "named": _named,
    "complex": complex,
}
TAKEN_APART: dict[type, str] = {}
"""Tuples of parts, and the function of `REBUILDERS` that makes the value of them; `parts` adds its own."""
