"""Values that are taken apart before they are stored: Pillow's images and torchvision's tensors."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch

from penstock.errors import NotStorableError
from penstock.shards.packing import REBUILDERS, TAKEN_APART, pack, unpack
from penstock.tree import structure_of

_TV = "torchvision.tv_tensors"


class ImageParts(NamedTuple):
    """An image of Pillow's, as `Image.tobytes` gives it. What is known of its file (its path, its format)
    isn't kept; its `info` is, as far as that is plain."""

    mode: str
    width: int
    height: int
    pixels: bytes
    more: bytes | None


class TvParts(NamedTuple):
    """A tensor of one of torchvision's classes."""

    name: str
    data: torch.Tensor
    more: bytes | None


class EncodedImage(NamedTuple):
    """The bytes of an image file, which come back as Pillow's image, decoded."""

    data: bytes


class Pixels(NamedTuple):
    """An image as numbers, of shape (height, width, channels); it comes back as a tensor whose channels are
    first, over the same memory."""

    data: torch.Tensor


PIXELS = structure_of(Pixels(torch.empty(0)))
CHANNELS_FIRST = 2, 0, 1


def apart(value: Any) -> Any:
    """`value`, or its parts if it is such a value."""
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(value, pillow.Image):
        return _of_image(value)
    kind = type(value)
    if kind.__module__.startswith(_TV) and issubclass(kind, torch.Tensor):
        return _of_tv(value)
    return value


def _of_image(image: Any) -> ImageParts:
    pixels = image.tobytes()  # first: it loads the file, which may change the rest
    info = {key: value for key, value in image.info.items() if _storable(value)}
    palette = None
    if image.mode in ("P", "PA"):
        palette = (bytes(image.getpalette(image.palette.mode)), image.palette.mode)
    more = pack((info, palette)) if info or palette else None
    return ImageParts(image.mode, image.width, image.height, pixels, more)


def _storable(value: Any) -> bool:
    try:
        pack(value)
    except NotStorableError:
        return False
    return True


def _image(mode: str, width: int, height: int, pixels: bytes, more: bytes | None) -> Any:
    from PIL import Image

    image = Image.frombytes(mode, (width, height), pixels)
    info, palette = ({}, None) if more is None else unpack(more)
    if palette is not None:
        image.putpalette(*palette)
    image.info.update(info)
    return image


def _of_tv(value: Any) -> TvParts:
    state = {name: _plain(each) for name, each in vars(value).items()}
    return TvParts(type(value).__qualname__, value.as_subclass(torch.Tensor), pack(state) if state else None)


def _plain(value: Any) -> Any:
    """An enumeration's value in the place of its member (the format of bounding boxes)."""
    return ("enum", type(value).__name__, value.value) if hasattr(value, "value") else ("as is", value)


def _tv(name: str, data: torch.Tensor, more: bytes | None) -> Any:
    classes = import_module(_TV)
    value = data.as_subclass(getattr(classes, name))
    for attribute, (how, *rest) in ({} if more is None else unpack(more)).items():
        setattr(value, attribute, getattr(classes, rest[0])(rest[1]) if how == "enum" else rest[0])
    return value


def _decoded(data: bytes) -> Any:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _channels_first(data: torch.Tensor) -> torch.Tensor:
    return data.permute(CHANNELS_FIRST)


_NAMED: dict[str, tuple[type, Callable[..., Any]]] = {
    "image": (ImageParts, _image),
    "tv": (TvParts, _tv),
    "encoded": (EncodedImage, _decoded),
    "pixels": (Pixels, _channels_first),
}
REBUILDERS.update({name: restore for name, (_, restore) in _NAMED.items()})
TAKEN_APART.update({parts: name for name, (parts, _) in _NAMED.items()})
_RESTORE: dict[type, Any] = dict(_NAMED.values())


def restored(kind: type) -> type:
    """What to call, in the place of a tuple of parts, for the value that they are of."""
    restore: type = _RESTORE.get(kind, kind)
    return restore
