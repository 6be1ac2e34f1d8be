"""One image, from its file or from a dataset, as it is stored."""

from __future__ import annotations

import io
import os
import re
import stat
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, features

from penstock.preparing.settings import Settings
from penstock.shards import EncodedImage, Pixels

QUALITY = 90
_PILLOWS = {"jpeg": "JPEG", "png": "PNG"}
_NO_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
"""What Pillow knows by name, but can't decode by itself."""
_RAW_MODES = "L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"
"""Of whole bytes that are channels."""
_WIDE_MODES = "I", "F"
"""Of 32 bits; those of 16 begin with "I;"."""
_WIDE_RAW_MODE = re.compile(r";16[BLN]$")
"""Of 16 bits a channel; "BGR;16" has 16 a pixel."""
_PPM = "ppm", "ppm_plain"
"""Its decoders are told the largest number."""


@cache
def extensions() -> frozenset[str]:
    """Of the files that Pillow decodes."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(e for e, kind in known if kind in Image.OPEN and kind not in _NO_IMAGES)


def store_file(path: str, settings: Settings) -> EncodedImage | Pixels:
    """An image file, in RGB as torchvision's ImageFolder gives it.

    If there is nothing to do, a file that is RGB and has the format already is stored as it is; it is decoded
    nevertheless, to know that it can be.

    Raises:
        OSError: if it can't be read or decoded (or what else Pillow raises of a file that is damaged).
        ValueError: if it has more than 8 bits a channel: RGB would take all that is bright for white.
    """
    if stat.S_ISFIFO(os.stat(path).st_mode):
        raise OSError(f"{path} is a pipe, not a file")  # to open it would wait for a writer
    with Image.open(path) as file:
        if _is_wide(file):
            raise ValueError(
                "it has more than 8 bits a channel, and RGB has 8: prepare a dataset (module:object) that "
                "gives its numbers as an array, or converts it"
            )
        image = file.convert("RGB")
        as_it_is = settings.resize_short is None and settings.quality is None
        if as_it_is and file.mode == "RGB" and file.format == _PILLOWS.get(settings.format):
            with open(path, "rb") as stored:
                return EncodedImage(stored.read())
    return store_image(image, settings)


def _is_wide(file: Any) -> bool:
    """Whether RGB would take numbers from it. Pillow has no mode for colours of 16 bits: it decodes the upper
    8 of them. That shows in how the file's pixels are read (but not of JPEG 2000)."""
    if file.mode in _WIDE_MODES or file.mode.startswith("I;"):
        return True
    for codec, _, _, arguments in file.tile:
        raw_mode, *more = arguments if isinstance(arguments, tuple) else (arguments,)
        if _WIDE_RAW_MODE.search(str(raw_mode)) or (codec in _PPM and more[0] > 255):
            return True
    return False


def store_image(image: Any, settings: Settings) -> EncodedImage | Pixels:
    """Pillow's image, in its own mode.

    Raises:
        ValueError: if the format can't hold such an image.
    """
    image = _resized(image, settings.resize_short)
    if settings.format == "raw":
        if image.mode not in _RAW_MODES:
            raise ValueError(
                f"an image of mode {image.mode} can't be stored raw: convert it, or give np.array(image)"
            )
        pixels = torch.from_numpy(np.array(image))
        return Pixels(pixels if pixels.ndim == 3 else pixels[..., None])
    out = io.BytesIO()
    options: dict[str, Any] = {"icc_profile": None}  # PNG takes the image's, which may tell today's date
    if settings.format == "jpeg":
        options["quality"] = settings.quality or QUALITY
    try:
        image.save(out, _PILLOWS[settings.format], **options)
    except OSError as error:
        raise ValueError(
            f"an image of mode {image.mode} can't be stored as {settings.format} ({error}): convert it, or "
            f"give np.array(image)"
        ) from error
    return EncodedImage(out.getvalue())


def _resized(image: Any, short: int | None) -> Any:
    """As torchvision's ``Resize(short)``: bilinear, of all pixels."""
    width, height = image.size
    if short is None or min(width, height) == short:
        return image
    long = int(short * max(width, height) / min(width, height))
    size = (short, long) if width <= height else (long, short)
    return image.resize(size, Image.Resampling.BILINEAR)


def codec_versions() -> dict[str, str]:
    """Of the libraries that decode and encode images."""
    found = {
        name: features.version(feature)
        for name, feature in (("libjpeg-turbo", "libjpeg_turbo"), ("zlib", "zlib"))
    }
    return {name: version for name, version in found.items() if version}
