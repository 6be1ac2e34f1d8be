"""What the tests of prepared data prepare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.datasets import FakeData


def photo(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A small image that is no plain noise: JPEG would make anything of that."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def make_folder(root: Path, count: int = 10, alike: int = 0, bad: tuple[int, ...] = ()) -> Path:
    """Two classes of `count` images each, JPEG and PNG by turns, of several sizes but for the first `alike`;
    those of these numbers, counted over both, are cut short."""
    for number in range(2 * count):
        folder = root / ("cats" if number < count else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:03d}.{'png' if number % 2 else 'jpg'}"
        size = (40, 30) if number < alike else (33 + number % 7, 30 + number % 4)
        photo(number, size).save(path)
        if number in bad:
            path.write_bytes(path.read_bytes()[:-100])
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


class Rows(Dataset[Any]):
    """Dicts of a tensor, an image, a text and a list whose length differs."""

    def __init__(self, size: int = 11) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return {
            "signal": torch.arange(6.0).reshape(2, 3) * index,
            "image": photo(index),
            "text": f"row {index}",
            "words": ["w"] * (index % 3),
        }


class Noisy(Dataset[Any]):
    """Random from the start."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(3)


class Photos(Dataset[Any]):
    """Images and labels, under a transform; the files' paths are known."""

    classes = ("even", "odd")

    def __init__(self, folder: Path, transform: Any = None) -> None:
        self.root, self.transform = str(folder), transform
        self.samples = [(str(path), number % 2) for number, path in enumerate(sorted(folder.rglob("*.*")))]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        with Image.open(path) as file:
            image = file.convert("RGB")
        return (image if self.transform is None else self.transform(image)), label


def augmented() -> Any:
    return transforms.Compose(
        [
            transforms.Resize(20),
            transforms.RandomCrop(16),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )


def fake() -> Any:
    """A dataset that leaves some of its transform to be done later."""
    return FakeData(6, (3, 24, 24), transform=augmented())


def leaving() -> None:
    """What a module does that isn't meant to be imported."""
    raise SystemExit("no data here")
