"""Splits ``dataset[i]`` into its parts: reading, decoding, each step of a transform, and what is left.

For a measuring process of its own: functions of libraries are replaced in it.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch

from penstock.pipeline import name_of
from penstock.pipeline.compositions import Composition
from penstock.pipeline.sites import groups_of, with_transforms
from penstock.profiling.data import Part

_LIBRARIES: tuple[tuple[str, str, str], ...] = (
    ("PIL.Image", "open", "reading"),
    ("PIL.ImageFile", "ImageFile.load", "decoding"),
    ("torchvision.io", "read_file", "reading"),
    ("torchvision.io", "read_image", "decoding"),
    ("torchvision.io", "decode_image", "decoding"),
    ("torchvision.io", "decode_jpeg", "decoding"),
    ("torchvision.io", "decode_png", "decoding"),
    ("cv2", "imread", "decoding"),
    ("cv2", "imdecode", "decoding"),
    ("simplejpeg", "decode_jpeg", "decoding"),
    ("numpy", "load", "reading"),
    ("torch", "load", "reading"),
    ("nibabel", "load", "reading"),
    ("torchaudio", "load", "decoding"),
    ("soundfile", "read", "decoding"),
)
"""(module, function or method, what it does): where it is imported already."""
_ORDER = ("reading", "decoding", "other", "transform")


@dataclass(slots=True)
class _Total:
    kind: str
    wall: float = 0.0
    cpu: float = 0.0
    nbytes: int | None = None
    order: int = 0


@dataclass(slots=True)
class Stopwatch:
    """Adds up the time of what is called through it, without what that calls through it in turn."""

    totals: dict[str, _Total] = field(default_factory=dict)
    _inner: list[list[float]] = field(default_factory=list)
    _thread: int = field(default_factory=threading.get_ident)

    def call(self, name: str, kind: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return function(*args, **kwargs)
        self._inner.append([0.0, 0.0])
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            inner = self._inner.pop()
            total = self.totals.setdefault(name, _Total(kind, order=len(self.totals)))
            total.wall += wall - inner[0]
            total.cpu += cpu - inner[1]
            if self._inner:
                self._inner[-1][0] += wall
                self._inner[-1][1] += cpu

    def restart(self) -> None:
        """Forget the times, but not in what order things came and how large they are."""
        for total in self.totals.values():
            total.wall = total.cpu = 0.0

    def parts(self, samples: int) -> tuple[Part, ...]:
        """Means, in the order in which a sample passes through them."""
        ordered = sorted(self.totals.items(), key=lambda item: (_ORDER.index(item[1].kind), item[1].order))
        return tuple(
            Part(
                name, total.kind, max(0.0, total.wall / samples), max(0.0, total.cpu / samples), total.nbytes
            )
            for name, total in ordered
        )


class Stepwise:
    """Stands for a transform in a copy of the dataset: runs its steps one by one, each timed."""

    def __init__(self, composition: Composition, stopwatch: Stopwatch) -> None:
        self._composition, self._stopwatch = composition, stopwatch
        self._names = names_of(composition)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        composition, stopwatch = self._composition, self._stopwatch
        parts = composition.parts_of(args, kwargs)
        if composition.deepest == 0 and len(self._names) != 1:
            parts = stopwatch.call(name_of(composition.original), "transform", composition.rest, 0, parts)
            return composition.result(parts)
        for place, name in enumerate(self._names):
            parts = stopwatch.call(name, "transform", composition.step, place, parts)
            total = stopwatch.totals[name]
            if total.nbytes is None:
                total.nbytes = size_of(list(parts.values()))
        return composition.result(parts)


def names_of(composition: Composition) -> list[str]:
    """Of its steps; of two by the same name, the second with its number."""
    names: list[str] = []
    for step in composition.steps:
        name = name_of(step)
        same = sum(each.split(" #")[0] == name for each in names)
        names.append(f"{name} #{same + 1}" if same else name)
    return names


def split(dataset: Any, stopwatch: Stopwatch) -> Any:
    """A copy of the dataset whose transforms are timed step by step."""
    sites = [site for group in groups_of(dataset) for site in group]
    heads = {site: Stepwise(site.composition, stopwatch) for site in sites}
    return with_transforms(dataset, heads) if heads else dataset


def time_libraries(stopwatch: Stopwatch) -> None:
    """Time the functions of libraries that read and decode, wherever they are known by name."""
    for module_name, path, kind in _LIBRARIES:
        module = sys.modules.get(module_name)
        owner_path, _, name = path.rpartition(".")
        owner: Any = getattr(module, owner_path, None) if owner_path else module
        original = getattr(owner, name, None)
        if module is not None and original is not None:
            _replace(owner, name, original, _timed(stopwatch, kind, original))


def _timed(stopwatch: Stopwatch, kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        return stopwatch.call(kind, kind, original, *args, **kwargs)

    return timed


def _replace(owner: Any, name: str, original: Any, timed: Any) -> None:
    setattr(owner, name, timed)
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and isinstance(owner, ModuleType):
            for variable, value in list(vars(module).items()):
                if value is original:
                    setattr(module, variable, timed)


def size_of(value: Any) -> int:
    """Bytes of the tensors, arrays, images and strings in a sample."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return _nbytes(value)
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    if hasattr(value, "getbands"):  # Pillow's
        return int(value.width * value.height * len(value.getbands()))
    return 8


def _nbytes(value: torch.Tensor | np.ndarray[Any, Any]) -> int:
    """A sparse tensor counts as if it weren't, as it can't tell."""
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else value.nbytes


def dtype_of(value: Any) -> str | None:
    """Of the largest tensor or array in a sample."""
    found: list[tuple[int, str]] = []

    def look(each: Any) -> None:
        if isinstance(each, torch.Tensor | np.ndarray):
            found.append((_nbytes(each), str(each.dtype).removeprefix("torch.")))
        elif isinstance(each, dict):
            for inner in each.values():
                look(inner)
        elif isinstance(each, list | tuple):
            for inner in each:
                look(inner)

    look(value)
    return max(found)[1] if found else None
