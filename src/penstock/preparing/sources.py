"""Where the samples come from: a folder of images, or a dataset."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sized
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from penstock.bad import path_of
from penstock.errors import PrepareError
from penstock.pipeline import Marks, study
from penstock.preparing.images import extensions, store_file, store_image
from penstock.preparing.manifest import NAMES_AND_SIZES
from penstock.preparing.settings import Settings
from penstock.tree import flatten, leaves_of, structure_of, unflatten

_log = logging.getLogger("penstock")
SAMPLE, PATH = "", "path"
"""The keys of what is stored of a sample; the first adds nothing to the names of the columns."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""In what Python prints of an object; it is another one every time."""


class Source(Protocol):
    """All samples, each as it is to be stored: a dict of it, under ``""``, and of its path, if that is known.

    Attributes:
        classes: the names of the labels, or None.
        told: what is told of the source, as plain data: by this it is known again.
        paths: of the samples' files, where they are known; under this name the loader finds them too.
    """

    classes: list[str] | None
    told: dict[str, Any]
    paths: list[str] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class ImageFolder:
    """Images in a folder; the names of its subfolders, where they are in such, are their classes.

    The order is that of torchvision's ImageFolder.

    Raises:
        PrepareError: if there are no images, or it isn't clear which class they are of.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        if settings.until is not None:
            raise PrepareError("until is for the transform of a dataset, and this is a folder of images")
        self._root, self._settings = root, settings
        beside, folders = _listed(root)
        found = [(label, path) for label, name in enumerate(folders) for path in _images_in(root, name)]
        if beside and found:
            raise PrepareError(
                f"{root} has images both in subfolders and beside them ({beside[0]}): move these into a "
                f"class's folder, or elsewhere"
            )
        if not (beside or found):
            known = ", ".join(sorted(extensions()))
            raise PrepareError(f"there are no images in {root}: no file's name ends in one of {known}")
        self._paths = beside or [path for _, path in found]
        self.paths: list[str] | None = [_readable(path) for path in self._paths]
        self._labels = None if beside else [label for label, _ in found]
        self.classes = None if beside else [_readable(name) for name in folders]
        empty = sorted(set(range(len(folders))) - set(self._labels or range(len(folders))))
        if empty:
            raise PrepareError(f"the class {folders[empty[0]]} has no images, in {root / folders[empty[0]]}")
        digest = hashlib.sha256()
        for path in self._paths:
            digest.update(f"{path}\0{_size_of(root / path)}\n".encode("utf-8", "surrogateescape"))
        self.told = {
            "kind": "a folder of images",
            "samples": len(self._paths),
            NAMES_AND_SIZES: digest.hexdigest(),
        }

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self._paths[index]
        image = store_file(os.path.join(self._root, path), self._settings)
        sample = image if self._labels is None else (image, self._labels[index])
        return {SAMPLE: sample, PATH: _readable(path)}


class OfDataset:
    """The samples of a dataset, as far as they are the same every time; images of Pillow's are encoded.

    Raises:
        PrepareError: if it isn't map-style, or is empty.
        NotRepeatableError: if its samples are random from the start.
    """

    def __init__(self, dataset: Any, settings: Settings) -> None:
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            raise PrepareError(f"a map-style dataset is needed (with len and [i]), not {_kind(dataset)}")
        if len(dataset) == 0:
            raise PrepareError("the dataset is empty")
        self._dataset, self._settings = dataset, settings
        found = study(dataset, settings.until, _images)
        if max(found.looks) > 1 and (settings.format == "jpeg" or settings.resize_short):
            _log.warning(
                "samples hold several images, and all of them are stored alike: JPEG and resizing change the "
                "numbers of a mask; give that as an array"
            )
        self._cut = found.cut
        classes = getattr(dataset, "classes", ())
        named = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
        self.classes = [_readable(name) for name in classes] or None if named else None
        self.paths = _paths_of(dataset)
        self.told = {
            "kind": _kind(dataset),
            "samples": len(dataset),
            "pipeline": [
                {"where": where, "kept": _names(steps, True), "left to do": _names(steps, False)}
                for where, steps in found.pipelines
            ],
        }

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample, _ = self._cut.start(index)
        structure = structure_of(sample)
        leaves = flatten(sample, structure)
        if self._settings.resize_short and not any(isinstance(leaf, Image.Image) for leaf in leaves):
            raise ValueError("there is no image of Pillow's in this sample to resize")
        stored = unflatten(structure, map(self._stored, leaves))
        return {SAMPLE: stored} if self.paths is None else {SAMPLE: stored, PATH: self.paths[index]}

    def _stored(self, leaf: Any) -> Any:
        return store_image(leaf, self._settings) if isinstance(leaf, Image.Image) else leaf


def open_source(source: Any, settings: Settings) -> Source:
    """The samples of a folder's path, of a ``"module:object"``, or of a dataset.

    Raises:
        PrepareError: if it is none of them.
    """
    if not isinstance(source, str | os.PathLike):
        return OfDataset(source, settings)
    path = Path(source)
    if path.is_dir():
        return ImageFolder(path, settings)
    if isinstance(source, str) and re.fullmatch(r"[\w.]+:[\w.]+", source):
        return OfDataset(_named(*source.split(":")), settings)
    what = "is a file" if path.exists() else "does not exist"
    raise PrepareError(f"{path} {what}: give a folder of images, or a dataset as module:object")


def _named(module: str, name: str) -> Any:
    """The dataset under this name, or what a callable under this name returns."""
    here = os.getcwd()
    found: Any
    sys.path.insert(0, here)  # as `python -m` does
    try:
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if not hasattr(found, "__getitem__") or isinstance(found, type):
            found = found()
    except (Exception, SystemExit) as error:
        text = f"{module}:{name} can't be had: {type(error).__name__}: {error}"
        raise PrepareError(text) from error
    finally:
        sys.path.remove(here)
    return found


def _listed(root: Path) -> tuple[list[str], list[str]]:
    """The names of the images and of the folders right in a folder.

    Raises:
        PrepareError: if it can't be read.
    """
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise PrepareError(f"{root} can't be read: {error.strerror}") from error
    images = [entry.name for entry in entries if _is_image(entry.name) and not entry.is_dir()]
    return images, [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _images_in(root: Path, folder: str) -> Iterator[str]:
    """The paths below `root`, in torchvision's order.

    Raises:
        PrepareError: if one of the folders can't be read.
    """
    for place, _, names in sorted(os.walk(root / folder, onerror=_refuse, followlinks=True)):
        for name in sorted(names):
            if _is_image(name):
                yield os.path.relpath(os.path.join(place, name), root)


def _refuse(error: OSError) -> None:
    raise PrepareError(f"{error.filename} can't be read: {error.strerror}") from error


def _size_of(path: Path) -> int | None:
    """None where there is no file to be read, which is told of when its sample is made."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions()


def _paths_of(dataset: Any) -> list[str] | None:
    """The path of each sample, where the dataset shows them; below its ``root``, where it has one."""
    if path_of(dataset, 0) is None:
        return None
    root = getattr(dataset, "root", None)
    start = os.path.join(os.fspath(root), "") if isinstance(root, str | os.PathLike) else ""
    paths = (path_of(dataset, index) or "" for index in range(len(dataset)))
    return [_readable(path.removeprefix(start)) for path in paths]


def _readable(path: str) -> str:
    """The path as text; bytes in it that are none are written as escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _images(values: Any, _: Marks) -> int:
    """How many of Pillow's there are in a sample."""
    return sum(isinstance(leaf, Image.Image) for leaf in leaves_of(values))


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _names(steps: Any, kept: bool) -> list[str]:
    return [step.name for step in steps if step.kept is kept]
