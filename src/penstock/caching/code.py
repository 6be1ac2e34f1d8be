"""Code: where it comes from, what it refers to by name, and what classes are made of."""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
import types
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from penstock.names import parts_of

LIBRARIES = (
    *("torch", "torchvision", "torchaudio", "numpy", "pillow", "pillow-simd", "opencv-python", "scipy"),
    *("opencv-python-headless", "scikit-image", "albumentations", "monai", "kornia", "simplejpeg"),
)
"""What may decide over a sample's bits without being seen in the dataset, if it is installed."""
_BY_VERSION = {
    *("torch", "torchvision", "torchaudio", "numpy", "PIL", "cv2", "scipy", "skimage", "albumentations"),
    *("monai", "kornia", "simplejpeg", "penstock"),
}
"""Known by their version wherever they lie: a build of torch from its source is not the user's code."""
_INSTALLED = {"site-packages", "dist-packages"}


def library_version(root: str) -> str | None:
    """What counts of a library, the first part of a module's name: its version. None if it isn't one but
    code of the user's, of which a version says nothing while it is worked on."""
    if root == "__main__":
        return None
    if root in sys.stdlib_module_names:
        return ""
    known = root in _BY_VERSION or _is_installed(root)
    if root not in sys.modules:
        return "" if known else None
    return str(getattr(sys.modules[root], "__version__", "")) or None if known else None


def is_library(module: str | None) -> bool:
    """Whether a module of this name belongs to one."""
    return library_version((module or "").partition(".")[0]) is not None


def imported_in(code: types.CodeType, scope: dict[str, Any]) -> list[types.ModuleType]:
    """The modules of the user's that code imports while it runs; they are imported here."""
    found = []
    for part in parts_of(code):
        before: list[Any] = [None, None]
        for instruction in dis.get_instructions(part):
            if instruction.opname == "IMPORT_NAME":
                level, names = before
                if level or not is_library(instruction.argval):
                    found += _imported(instruction.argval, scope, names, level)
            before = [before[1], instruction.argval]
    return found


def _imported(name: str, scope: dict[str, Any], names: Any, level: int) -> list[types.ModuleType]:
    try:
        module = __import__(name, scope, None, names or (), level)
    except Exception:  # it isn't there, or can't be had now: then no sample comes of it
        return []
    return [module] if not is_library(module.__name__) else []


def is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def slots_of(kind: type) -> list[str]:
    names = vars(kind).get("__slots__", ())
    return [name for name in ([names] if isinstance(names, str) else names) if not name.startswith("__")]


def unwrapped(member: Any) -> Any:
    """What a static method, a class method or a property stands for."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    if isinstance(member, property):
        return member.fget, member.fset
    if isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
        return member.__name__
    return member


@functools.cache
def installed() -> tuple[str, ...]:
    """The versions of these libraries; not of those that happen to be imported by now."""
    found = []
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return tuple(found)


@functools.cache
def _is_installed(root: str) -> bool:
    """Whether it lies where installers put things, and not in a folder that is worked in."""
    try:
        spec = find_spec(root)
    except (ImportError, ValueError):
        return False
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any(_INSTALLED & set(Path(place).parts) for place in places)
