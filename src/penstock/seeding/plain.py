"""Whether a dataset's own ``__getitem__`` only looks up and converts what it holds, as its code shows.

Such code draws nothing. It is known by its names: each is that of a value that runs no code of the user's
(an array, a number, a string), of torch or numpy, or of a function or method of theirs that is listed here.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Generic

import numpy as np
import torch
from torch.utils.data import Dataset

from penstock.names import names_in

_ATOMS = {
    int,
    float,
    complex,
    bool,
    str,
    bytes,
    type(None),
    range,
    slice,
    torch.dtype,
    torch.device,
    torch.Size,
}
_ITEMS = {*_ATOMS, np.ndarray, torch.Tensor, *np.sctypeDict.values()} - {np.object_}
MOST_ITEMS = 100_000
"""Of a container that is looked through; that takes 2 ms."""
_BASES = {Dataset, Generic, object}
_LEFT_ALONE = {
    *("__init__", "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__"),
    *("__parameters__", "__orig_bases__", "__static_attributes__", "__firstlineno__", "__hash__"),
    *("__getstate__", "__setstate__", "__reduce__", "__annotate__", "__annotate_func__"),
}
"""Of a class: what isn't called for a sample."""
_DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "half", "float", "double", "bool", "dtype"),
    *("uint8", "int8", "int16", "int32", "int64", "short", "int", "long", "uint16", "uint32", "uint64"),
)
_SAFE = {  # not "type": what ``type(self)`` gives may be called
    *_DTYPES,
    *("FloatTensor", "DoubleTensor", "LongTensor", "IntTensor", "ByteTensor", "BoolTensor", "Tensor"),
    *("tensor", "as_tensor", "from_numpy", "array", "asarray", "ascontiguousarray", "copy", "clone"),
    *("zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "arange", "linspace", "eye", "where"),
    *("stack", "cat", "concat", "concatenate", "hstack", "vstack", "split", "chunk", "pad", "one_hot"),
    *("astype", "to", "view", "reshape", "permute", "transpose", "moveaxis", "swapaxes", "T"),
    *("squeeze", "unsqueeze", "expand", "expand_dims", "expand_as", "repeat", "tile", "flatten", "ravel"),
    *("contiguous", "detach", "item", "tolist", "numpy", "shape", "size", "ndim", "dim", "numel", "flip"),
    *("sum", "mean", "std", "var", "min", "max", "abs", "sqrt", "exp", "log", "clip", "clamp", "round"),
    *("add", "sub", "mul", "div", "argmax", "argmin", "nan_to_num", "isnan", "newaxis", "nan", "inf"),
    *("len", "str", "bytes", "tuple", "list", "dict", "set", "slice", "range", "enumerate", "zip"),
    *("isinstance", "is_tensor", "IndexError", "ValueError", "KeyError", "TypeError", "StopIteration"),
    *("get", "keys", "values", "items", "append", "extend", "index", "count", "strip", "lower", "upper"),
    *("encode", "decode", "startswith", "endswith", "replace", "join", "format"),
}


def only_looks_up(dataset: Any) -> bool:
    """Whether the code that runs for ``dataset[i]`` is known to be of this kind."""
    kind = type(dataset)
    if type(kind) is not type or not isinstance(dataset, Dataset) or not hasattr(dataset, "__dict__"):
        return False
    own = _members(kind)
    implicit = [value for name, value in own if name.startswith("__") and name not in _LEFT_ALONE]
    names = {name for name, _ in own}
    return (
        "__getitem__" in names
        and names & {"__getitems__", "ready_rows", "ready_spec"} == set()
        and all(_is_safe(member, dataset, own) for member in implicit)
    )


def _members(kind: type) -> list[tuple[str, Any]]:
    """What the user's classes define."""
    return [item for each in kind.__mro__ if each not in _BASES for item in vars(each).items()]


def _is_safe(function: Any, dataset: Any, own: list[tuple[str, Any]]) -> bool:
    if type(function) is not types.FunctionType:
        return False
    if function.__closure__ or function.__defaults__ or function.__kwdefaults__:
        return False
    for name in names_in(function.__code__):
        meant = list(_meant_by(name, dataset, own, function.__globals__))
        if not (all(map(_is_plain, meant)) if meant else name in _SAFE):
            return False
    return True


def _meant_by(name: str, dataset: Any, own: list[tuple[str, Any]], scope: dict[str, Any]) -> Iterator[Any]:
    """All that a name may stand for, but for what is an attribute of something else or built in."""
    yield from (value for member, value in own if member == name)
    for names in (vars(dataset), scope):
        if name in names:
            yield names[name]


def _is_plain(value: Any) -> bool:
    """Whether looking into it, and its methods, run no code of the user's."""
    if value is torch or value is np:
        return True
    kind = type(value)
    if kind is dict:
        return _are_plain(list(value)) and _are_plain(list(value.values()))
    return _are_plain(value) if kind in (list, tuple) else _are_plain([value])


def _are_plain(values: Any) -> bool:
    kinds = set(map(type, values)) if len(values) <= MOST_ITEMS else {object}
    if not kinds <= _ITEMS:
        return False
    return np.ndarray not in kinds or not any(
        type(value) is np.ndarray and value.dtype.hasobject for value in values
    )
