"""A sheet of some of the prepared images, as PNG or HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from penstock.errors import PrepareError
from penstock.preparing.prepared import PreparedDataset
from penstock.tree import leaves_of

IMAGES = 30
COLUMNS = 6
SIDE = 160
MARGIN = 8
LINE = 14
"""Pixels; `LINE` is what is below an image for its label."""
KINDS = ".png", ".html"


def write_sheet(dataset: PreparedDataset, path: Path) -> None:
    """Write a sheet of images from all over the dataset, in the form that the file's name ends in.

    Raises:
        PrepareError: if that is another, or the samples hold no images.
        OSError: if it can't be written.
    """
    if path.suffix.lower() not in KINDS:
        raise PrepareError(f"a sheet is a .png or a .html file, not {path.name}")
    thumbnails = list(_thumbnails(dataset))
    if not thumbnails:
        raise PrepareError("there are no images in these samples to make a sheet of")
    if path.suffix.lower() == ".png":
        _draw(thumbnails).save(path)
    else:
        path.write_text(_page(dataset, thumbnails), encoding="utf-8")


def _thumbnails(dataset: PreparedDataset) -> Iterator[tuple[Image.Image, str]]:
    """Small images with what to write below."""
    size = len(dataset)
    for index in dict.fromkeys(size * place // IMAGES for place in range(IMAGES)):
        sample = dataset[index]
        images = [image for leaf in leaves_of(sample) if (image := _image(leaf))]
        if not images:
            continue
        small = images[0].convert("RGB")
        small.thumbnail((SIDE, SIDE))
        yield small, _caption(dataset, sample, index)


def _image(leaf: Any) -> Image.Image | None:
    """A leaf as an image, if it is one."""
    if isinstance(leaf, Image.Image):
        return leaf
    if (
        not isinstance(leaf, torch.Tensor)
        or leaf.ndim != 3
        or leaf.shape[0] not in (1, 3)
        or not leaf.numel()
    ):
        return None
    if leaf.dtype != torch.uint8:
        spread = leaf.float() - leaf.min()
        leaf = (spread * (255 / max(float(spread.max()), 1e-12))).to(torch.uint8)
    pixels = leaf.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _caption(dataset: PreparedDataset, sample: Any, index: int) -> str:
    label = sample[1] if isinstance(sample, tuple) and len(sample) == 2 and type(sample[1]) is int else None
    if label is None:
        return str(index)
    names = dataset.classes or []
    return f"{index}: {names[label] if 0 <= label < len(names) else label}"


def _draw(thumbnails: list[tuple[Image.Image, str]]) -> Image.Image:
    rows = -(-len(thumbnails) // COLUMNS)
    step = SIDE + MARGIN
    sheet = Image.new("RGB", (COLUMNS * step + MARGIN, rows * (step + LINE) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (image, caption) in enumerate(thumbnails):
        left, top = MARGIN + place % COLUMNS * step, MARGIN + place // COLUMNS * (step + LINE)
        sheet.paste(image, (left + (SIDE - image.width) // 2, top + (SIDE - image.height) // 2))
        pen.text((left, top + SIDE + 1), _fitting(pen, caption), fill="black")
    return sheet


def _fitting(pen: ImageDraw.ImageDraw, text: str) -> str:
    """As much of a text as fits below an image, in letters that the built-in font has."""
    plain = " ".join(text.encode("latin-1", "replace").decode("latin-1").split())
    while pen.textlength(plain) > SIDE:
        plain = plain[:-1]
    return plain


def _page(dataset: PreparedDataset, thumbnails: list[tuple[Image.Image, str]]) -> str:
    figures = "\n".join(
        f'<figure><img src="data:image/png;base64,{_png(image)}" alt=""><figcaption>{html.escape(caption)}'
        f"</figcaption></figure>"
        for image, caption in thumbnails
    )
    title = html.escape(f"{dataset.dest.name}: {len(thumbnails)} of {len(dataset):,} samples")
    return _PAGE.format(title=title, side=SIDE, figures=figures)


def _png(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px sans-serif; margin: 2em; }}
main {{ display: flex; flex-wrap: wrap; gap: 12px; }}
figure {{ margin: 0; width: {side}px; }}
figcaption {{ overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
<main>
{figures}
</main>
</html>
"""
