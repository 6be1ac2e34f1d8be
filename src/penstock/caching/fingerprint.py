"""A key for what a dataset's samples follow from: of another dataset, file, parameter or code it is another.

Followed from the dataset on are attributes, containers, the code of functions and classes with what that
code refers to (also by way of a module), the contents of arrays, and, wherever a path stands, the size and
the time of change of the file, or of all files below a folder. Libraries count by their version. Random
generators and locks don't count.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import io
import logging
import os
import pickle
import platform
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from penstock.caching.code import (
    imported_in,
    installed,
    is_filled,
    is_library,
    library_version,
    slots_of,
    unwrapped,
)
from penstock.caching.files import Files
from penstock.collate.dense import bytes_of
from penstock.errors import NotFingerprintableError
from penstock.names import globals_in, names_in
from penstock.seeding import generator_of

_LAYOUT = 2
"""Of what is stored under a key; another one makes another key."""
_ATOMS = (int, float, complex, str, bytes, bytearray, type(None), type(Ellipsis), range, slice)
_SKIPPED = (logging.Logger, types.FrameType, type(threading.Lock()), type(threading.RLock()))
_PLAIN: dict[type, Callable[[Any], Any]] = {
    str: lambda value: str.__str__(value),
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    int: int.__int__,
    float: float.__float__,
    complex: complex.__pos__,
}
"""How to get the plain value of a subclass's."""
_ITEMS = (dict, list, tuple, deque)
_TOLD_BY_NAME = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)


def fingerprint(
    dataset: Any, replaced: Mapping[tuple[int, str], Any], cache: str | os.PathLike[str] | None = None
) -> str:
    """The key of `dataset`, in hexadecimal digits; `replaced` gives what counts in the place of an attribute,
    by the object's id and the attribute's name. What a cache has written to the folder `cache` doesn't
    count.

    Raises:
        NotFingerprintableError: if it holds something of which it can't be said when it is another.
    """
    walk = _Walk(replaced, cache)
    walk.feed("layout", _LAYOUT, "python", platform.python_version(), platform.machine())
    walk.feed(*installed())
    walk.value(dataset, "dataset")
    return walk.digest.hexdigest()


class _Walk:
    def __init__(
        self, replaced: Mapping[tuple[int, str], Any], cache: str | os.PathLike[str] | None = None
    ) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self._replaced = replaced
        self._known: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id comes twice
        self._used: set[tuple[int, str]] = set()
        self._files = Files(cache)

    def feed(self, *words: object) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
            self.digest.update(len(data).to_bytes(8, "little") + data)

    def value(self, value: Any, where: str) -> None:
        kind = type(value)
        if kind in _ATOMS or isinstance(value, bool | np.generic | torch.dtype | np.dtype | torch.device):
            self.feed(kind.__name__, value if kind in (bytes, bytearray) else repr(value))
            if kind in (str, bytes):
                self.feed(*self._files.told(value))
        elif isinstance(value, types.ModuleType):
            self._module(value, (), where)
        elif id(value) in self._known:
            self.feed("again", self._known[id(value)])
        elif not isinstance(value, _SKIPPED) and generator_of(value) is None:
            self._known[id(value)] = len(self._known)
            self._kept.append(value)
            self._compound(value, where)

    def _compound(self, value: Any, where: str) -> None:
        kind = type(value)
        if isinstance(value, torch.Tensor | np.ndarray):
            self._array(value, where)
        elif isinstance(value, PurePath):
            self.feed(kind.__name__)
            self.value(str(value), where)
        elif kind in (list, tuple):
            self._items(kind.__name__, value, where)
        elif kind in (set, frozenset):
            self._set(value, where)
        elif _is_table(value):
            self._table(value, where)
        elif kind is dict:
            self.feed("dict", len(value))
            for key, each in value.items():
                self.value(key, where)
                self.value(each, f"{where}[{key!r}]")
        elif isinstance(value, types.FunctionType):
            self._function(value, where)
        elif isinstance(value, types.CodeType):
            self._code(value, where)
        elif isinstance(value, types.MethodType):
            self._items("method", (value.__self__, value.__func__), where)
        elif isinstance(value, functools.partial):
            self._items("partial", (value.func, value.args, value.keywords), where)
        elif isinstance(value, _TOLD_BY_NAME):
            self.feed("builtin", value.__qualname__)
        elif isinstance(value, type):
            self._class(value, where)
        elif type(value) is weakref.ref:
            self._items("reference", (value(),), where)
        else:
            self._object(value, where)

    def _items(self, name: str, items: Iterable[Any], where: str) -> None:
        items = tuple(items)
        self.feed(name, len(items))
        for place, each in enumerate(items):
            self.value(each, f"{where}[{place}]")

    def _set(self, value: Any, where: str) -> None:
        self.feed("set", *sorted(fingerprint_of_part(each, where) for each in value))

    def _array(self, value: Any, where: str) -> None:
        if type(value) in (np.ndarray, np.memmap) and value.dtype.kind in "OSTU":
            self.feed("array", value.dtype.str)
            self._items("shape", value.shape, where)
            self._items("texts", value.reshape(-1).tolist(), where)  # they may be paths
        elif type(value) in (np.ndarray, np.memmap) and not value.dtype.hasobject:
            self.feed("array", repr(value.dtype), value.shape, np.ascontiguousarray(value).tobytes())
        elif type(value) is torch.Tensor and value.layout is torch.strided and not value.is_quantized:
            flat = bytes_of(value.detach().cpu().resolve_conj().resolve_neg().contiguous())
            self.feed("tensor", value.dtype, tuple(value.shape), flat.numpy().tobytes())
        else:
            self._pickled(value, where)

    def _table(self, value: Any, where: str) -> None:
        """pandas': by its columns, as it keeps notes of how it was used, too."""
        if value.ndim == 2:
            columns = [value.iloc[:, place] for place in range(value.shape[1])]
            self._items("table", (value.index, value.columns, *columns), where)
            return
        index = getattr(value, "index", None)
        self._items(f"column {value.dtype}", (value.name, index, value.to_numpy()), where)

    def _function(self, value: types.FunctionType, where: str) -> None:
        self.feed("function", value.__qualname__)
        if self._library(value.__globals__.get("__name__")):  # a decorated one's __module__ may be another's
            return
        self._code(value.__code__, where)
        for name, default in (*enumerate(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).items()):
            self.feed("default", name)
            self._constant(default, where)
        cells = [cell.cell_contents for cell in value.__closure__ or () if is_filled(cell)]
        self._items("closure", cells, where)
        self.value(dict(vars(value)), where)
        names = names_in(value.__code__)
        for name in globals_in(value.__code__):
            if name in value.__globals__:
                self._named(value.__globals__[name], names, f"{value.__module__}.{name}")
        for module in imported_in(value.__code__, value.__globals__):
            self._named(module, names, module.__name__)

    def _named(self, value: Any, names: Iterable[str], where: str) -> None:
        """What code that uses `names` has under one of them."""
        if isinstance(value, types.ModuleType):
            self._module(value, names, where)
        else:
            self.value(value, where)

    def _module(self, module: types.ModuleType, names: Iterable[str], where: str) -> None:
        """Of a module of the user's, what has one of `names`."""
        self.feed("module", module.__name__, library_version(module.__name__.partition(".")[0]))
        if is_library(module.__name__):
            return
        for name in names:
            if name in vars(module) and (id(module), name) not in self._used:
                self._used.add((id(module), name))
                self.feed(name)
                self._named(vars(module)[name], names, f"{where}.{name}")

    def _code(self, code: types.CodeType, where: str) -> None:
        self.feed("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self.feed(len(code.co_consts))
        for const in code.co_consts:
            self._constant(const, where)

    def _constant(self, value: Any, where: str) -> None:
        """What stands in code, where a dot is hardly ever the folder of that name."""
        if isinstance(value, str) and not value.strip("./"):
            self.feed("str", value)
        else:
            self.value(value, where)

    def _class(self, kind: type, where: str) -> None:
        self.feed("class", kind.__module__, kind.__qualname__)
        if self._library(kind.__module__) or not kind.__flags__ & (1 << 9):
            return
        for base in (*kind.__bases__, type(kind)):
            self.value(base, where)
        for name, member in sorted(vars(kind).items()):
            member = unwrapped(member)
            own = not name.startswith("__") and name != "_abc_impl"
            if own or isinstance(member, types.FunctionType | functools.partialmethod):
                self.feed(name)  # the rest comes and goes with use
                self.value(member, f"{kind.__qualname__}.{name}")

    def _library(self, module: str | None) -> bool:
        """Whether it is known by its library's version, which then counts."""
        self.feed(module, library_version((module or "").partition(".")[0]))
        return is_library(module)

    def _object(self, value: Any, where: str) -> None:
        self.value(type(value), where)
        if isinstance(value, enum.Enum):
            self.feed(value.name)
            return
        own = getattr(value, "__dict__", None)
        slots = [slot for cls in type(value).__mro__ for slot in slots_of(cls)]
        content = self._content(value, where)
        if not content and ((own is None and not slots) or isinstance(value, io.IOBase)):
            self._pickled(value, where)
            return
        for name in sorted({*(own or ()), *slots}):
            if (id(value), name) in self._replaced:
                self.feed(name)
                self.value(self._replaced[id(value), name], f"{where}.{name}")
            elif hasattr(value, name):
                self.feed(name)
                self.value(getattr(value, name), f"{where}.{name}")

    def _content(self, value: Any, where: str) -> bool:
        """What an object of a builtin's subclass is beside its attributes; whether it is one."""
        if isinstance(value, _ITEMS):
            self._items("items", value.items() if isinstance(value, dict) else value, where)
        elif isinstance(value, set | frozenset):
            self._set(value, where)
        else:
            plain = next((kind for kind in _PLAIN if isinstance(value, kind)), None)
            if plain is None:
                return False
            self.value(_PLAIN[plain](value), where)
        return True

    def _pickled(self, value: Any, where: str) -> None:
        try:
            self.feed("pickle", type(value).__qualname__, pickle.dumps(value, 5))
        except Exception as error:
            raise NotFingerprintableError(where, type(value).__qualname__) from error


def fingerprint_of_part(value: Any, where: str) -> str:
    """Of one item of a set, by itself."""
    walk = _Walk({})
    walk.value(value, where)
    return walk.digest.hexdigest()


def _is_table(value: Any) -> bool:
    """Whether it is a table, a column or an index of pandas'."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series | pandas.Index)
