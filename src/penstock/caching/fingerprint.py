"""A key for what a dataset's samples follow from: of another dataset, file, parameter or code it is another.

Followed from the dataset on are attributes, containers, the code of functions and classes with what that
code refers to, the contents of arrays, and, wherever a path stands, the size and the time of change of the
file, or of all files below a folder. Libraries count by their version. Random generators don't count.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import io
import logging
import os
import pickle
import platform
import sys
import types
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from penstock.collate.dense import bytes_of
from penstock.errors import NotFingerprintableError
from penstock.seeding import generator_of

LIBRARIES = (
    *("torch", "torchvision", "torchaudio", "numpy", "pillow", "pillow-simd", "opencv-python", "scipy"),
    *("opencv-python-headless", "scikit-image", "albumentations", "monai", "kornia", "simplejpeg"),
)
"""What may decide over a sample's bits without being seen in the dataset, if it is installed."""
_ATOMS = (int, float, complex, str, bytes, bytearray, type(None), type(Ellipsis), range, slice)
_SKIPPED = (logging.Logger, types.FrameType)
_TOLD_BY_NAME = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)


def fingerprint(dataset: Any, replaced: Mapping[tuple[int, str], Any]) -> str:
    """The key of `dataset`, in hexadecimal digits; `replaced` gives what counts in the place of an attribute,
    by the object's id and the attribute's name.

    Raises:
        NotFingerprintableError: if it holds something of which it can't be said when it is another.
    """
    walk = _Walk(replaced)
    walk.feed("python", platform.python_version(), platform.machine())
    walk.feed(*_installed())
    walk.value(dataset, "dataset")
    return walk.digest.hexdigest()


class _Walk:
    def __init__(self, replaced: Mapping[tuple[int, str], Any]) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self._replaced = replaced
        self._known: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id comes twice
        self._paths: set[str] = set()

    def feed(self, *words: object) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
            self.digest.update(len(data).to_bytes(8, "little") + data)

    def value(self, value: Any, where: str) -> None:
        kind = type(value)
        if kind in _ATOMS or isinstance(value, bool | np.generic | torch.dtype | np.dtype | torch.device):
            self.feed(kind.__name__, value if kind in (bytes, bytearray) else repr(value))
            if kind is str:
                self._path(value)
        elif isinstance(value, types.ModuleType):
            self.feed("module", value.__name__, _version(value.__name__.partition(".")[0]))
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
            self.feed(kind.__name__, *sorted(fingerprint_of_part(each, where) for each in value))
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
        else:
            self._object(value, where)

    def _items(self, name: str, items: Iterable[Any], where: str) -> None:
        items = tuple(items)
        self.feed(name, len(items))
        for place, each in enumerate(items):
            self.value(each, f"{where}[{place}]")

    def _array(self, value: Any, where: str) -> None:
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.feed("array", value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        elif type(value) is torch.Tensor and value.layout is torch.strided and not value.is_quantized:
            flat = bytes_of(value.detach().cpu().contiguous())
            self.feed("tensor", value.dtype, tuple(value.shape), flat.numpy().tobytes())
        else:
            self._pickled(value, where)

    def _path(self, text: str) -> None:
        """If it is one: what the file is like, or all files below."""
        if not text or len(text) > 4096 or "\0" in text or "\n" in text or text in self._paths:
            return
        try:
            status = os.stat(text)
        except OSError:
            return
        self._paths.add(text)
        if not os.path.isdir(text):
            self.feed("file", status.st_size, status.st_mtime_ns)
            return
        for folder, folders, files in os.walk(text):
            folders.sort()
            for name in sorted(files):
                self.value(os.path.join(folder, name), folder)

    def _function(self, value: types.FunctionType, where: str) -> None:
        self.feed("function", value.__qualname__)
        if self._library(value.__module__):
            return
        self._code(value.__code__, where)
        self.value(value.__defaults__, where)
        self.value(value.__kwdefaults__, where)
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        self._items("closure", cells, where)
        for name in _names(value.__code__):
            if name in value.__globals__:
                self.value(value.__globals__[name], f"{value.__module__}.{name}")

    def _code(self, code: types.CodeType, where: str) -> None:
        self.feed("code", code.co_code, code.co_names, code.co_varnames)
        self._items("constants", code.co_consts, where)

    def _class(self, kind: type, where: str) -> None:
        self.feed("class", kind.__module__, kind.__qualname__)
        if self._library(kind.__module__) or not kind.__flags__ & (1 << 9):
            return
        for base in kind.__bases__:
            self.value(base, where)
        for name, member in sorted(vars(kind).items()):
            member = _unwrapped(member)
            own = not name.startswith("__") and name != "_abc_impl"
            if own or isinstance(member, types.FunctionType):  # the rest comes and goes with use
                self.feed(name)
                self.value(member, f"{kind.__qualname__}.{name}")

    def _library(self, module: str | None) -> bool:
        """Whether it is known by its library's version, which then counts."""
        root = (module or "").partition(".")[0]
        version = "" if root == "__main__" else _version(root)
        self.feed(module, version)
        return bool(version) or root in sys.stdlib_module_names

    def _object(self, value: Any, where: str) -> None:
        self.value(type(value), where)
        if isinstance(value, enum.Enum):
            self.feed(value.name)
            return
        own = getattr(value, "__dict__", None)
        slots = [slot for cls in type(value).__mro__ for slot in _slots(cls)]
        if (own is None and not slots) or isinstance(value, io.IOBase):
            self._pickled(value, where)
            return
        if isinstance(value, dict | list | tuple):
            self._items("items", value.items() if isinstance(value, dict) else value, where)
        for name in sorted({*(own or ()), *slots}):
            if (id(value), name) in self._replaced:
                self.feed(name)
                self.value(self._replaced[id(value), name], f"{where}.{name}")
            elif hasattr(value, name):
                self.feed(name)
                self.value(getattr(value, name), f"{where}.{name}")

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


def _names(code: types.CodeType) -> list[str]:
    """The global names that code refers to, in that of inner functions too."""
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return sorted({*code.co_names, *inner})


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _slots(kind: type) -> list[str]:
    names = vars(kind).get("__slots__", ())
    return [name for name in ([names] if isinstance(names, str) else names) if not name.startswith("__")]


def _unwrapped(member: Any) -> Any:
    """What a static method, a class method or a property stands for."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    if isinstance(member, property):
        return member.fget, member.fset
    if isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
        return member.__name__
    return member


@functools.cache
def _installed() -> tuple[str, ...]:
    """The versions of these libraries; not of those that happen to be imported by now."""
    found = []
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return tuple(found)


@functools.cache
def _version(library: str) -> str:
    return str(getattr(sys.modules.get(library), "__version__", ""))
