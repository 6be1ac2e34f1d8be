"""A folder of made-up photographs: cheap to make, and as hard to decode as real ones.

White noise would neither compress nor decode as a photograph does. These images have what a JPEG
coder meets in photographs: amplitudes that fall as 1/f, colour channels that mostly agree, hard
edges between two surfaces, and a gradient of light.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

WIDTH, HEIGHT = 500, 375  # pixels, before `Recipe.spread`
SHEET = 1024  # pixels per side of the texture that the images are cut from
SHEETS = 3
FALLOFF = 1.1  # amplitude as frequency ** -FALLOFF
CONTRAST = 62.0  # standard deviation of a plane, in 8-bit levels
# Three planes to RGB: brightness, red against blue, green against both.
COLOURS: Floats = np.array([[1, 1, 1], [0.3, 0, -0.3], [-0.12, 0.24, -0.12]], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make: the same recipe makes the same files."""

    count: int
    seed: int = 0
    spread: float = 0.3  # sides differ from 500x375 by up to this fraction; 0: all alike
    png_every: int = 10  # each n-th file is a PNG; 0: none
    truncated: int = 3  # files cut short
    empty: int = 1  # files of no bytes
    quality: int = 90  # of the JPEG files

    def __post_init__(self) -> None:
        """Refuse a recipe that cannot be followed."""
        if self.count < self.truncated + self.empty:
            raise ValueError(
                f"{self.count} images cannot hold {self.truncated} truncated and {self.empty} empty"
            )
        if not 0 <= self.spread <= 0.5:
            raise ValueError(f"spread is {self.spread}, but must lie between 0 and 0.5")


def make_images(folder: Path, recipe: Recipe, advance: Callable[[], None] = lambda: None) -> list[Path]:
    """Write the recipe's files into `folder` and return their paths, in order of name.

    `advance` is called once for each file written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheets = _sheets(np.random.default_rng(recipe.seed))
    damaged = _damaged(recipe)
    paths = []
    for index in range(recipe.count):
        rng = np.random.default_rng((recipe.seed, index))
        is_png = recipe.png_every > 0 and index % recipe.png_every == recipe.png_every - 1
        path = folder / f"image_{index:05d}.{'png' if is_png else 'jpg'}"
        image = Image.fromarray(_picture(sheets, _size(rng, recipe.spread), rng))
        if is_png:
            image.save(path, compress_level=1)
        else:
            image.save(path, quality=recipe.quality)
        if index in damaged:
            _cut(path, damaged[index])
        paths.append(path)
        advance()
    return paths


def _damaged(recipe: Recipe) -> dict[int, float]:
    """Which files are damaged, by index, and the fraction of their bytes that is left."""
    bad = recipe.truncated + recipe.empty
    chosen = np.random.default_rng((recipe.seed, recipe.count)).permutation(recipe.count)[:bad]
    kept = [0.5] * recipe.truncated + [0.0] * recipe.empty
    return dict(zip(chosen.tolist(), kept, strict=True))


def _cut(path: Path, kept: float) -> None:
    """Leave only the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])


def _size(rng: np.random.Generator, spread: float) -> tuple[int, int]:
    """Width and height in pixels, some of them upright unless all are to be alike."""
    scales = rng.uniform(1 - spread, 1 + spread, size=2)
    width, height = round(WIDTH * scales[0]), round(HEIGHT * scales[1])
    upright = spread > 0 and rng.random() < 0.25
    return (height, width) if upright else (width, height)


def _sheets(rng: np.random.Generator) -> list[Floats]:
    """Textures of shape (SHEET, SHEET, 3), of mean 0, in 8-bit levels."""
    frequency = np.hypot(np.fft.fftfreq(SHEET)[:, None], np.fft.rfftfreq(SHEET)[None, :])
    frequency[0, 0] = np.inf  # no mean
    amplitude = (frequency**-FALLOFF).astype(np.float32)
    return [np.stack([_plane(amplitude, rng) for _ in COLOURS], axis=-1) @ COLOURS for _ in range(SHEETS)]


def _plane(amplitude: Floats, rng: np.random.Generator) -> Floats:
    """Noise of shape (SHEET, SHEET) with these amplitudes and chance phases, of mean 0."""
    phase = rng.random(amplitude.shape, dtype=np.float32) * np.float32(2 * np.pi)
    plane = np.fft.irfft2(amplitude * np.exp(1j * phase), s=(SHEET, SHEET))
    scaled: Floats = (plane * (CONTRAST / plane.std())).astype(np.float32)
    return scaled


def _picture(sheets: list[Floats], size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One picture of shape (height, width, 3): two surfaces that meet at an edge, lit unevenly."""
    width, height = size
    near, far = (_crop(sheets[i], size, rng) for i in rng.choice(len(sheets), 2, replace=False))
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle, offset, bend = rng.uniform((0, -0.4, -0.8), (2 * np.pi, 0.4, 0.8))
    edge = np.cos(angle) * x + np.sin(angle) * y + bend * x * y - offset
    mask = np.clip(edge * width / 4 + 0.5, 0, 1).astype(np.float32)[..., None]
    slope = (rng.uniform(-30, 30) * (x + y)).astype(np.float32)[..., None]
    light = rng.uniform(90, 150, size=3).astype(np.float32)
    step = rng.uniform(-40, 40, size=3).astype(np.float32)
    lit = near + mask * (far - near + step) + (light + slope)
    levels: npt.NDArray[np.uint8] = np.clip(lit, 0, 255).astype(np.uint8)
    return levels


def _crop(sheet: Floats, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """A piece of a sheet, of shape (height, width, 3), perhaps mirrored."""
    width, height = size
    left, top = rng.integers(SHEET - width), rng.integers(SHEET - height)
    piece = sheet[top : top + height, left : left + width]
    return piece[:, ::-1] if rng.random() < 0.5 else piece
