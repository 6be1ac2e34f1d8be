"""The three cases: small samples in memory, a folder of images, samples prepared beforehand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms

import penstock
from penstock.demo.measure import Contender, contender
from penstock.machine import cpus

FEATURES = 100  # numbers in a small sample
BATCH = 32  # samples
SIDE = 224  # pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOADERS: dict[str, type[DataLoader[Any]]] = {"torch": DataLoader, "penstock": penstock.DataLoader}


class SimpleDataset(Dataset[Tensor]):
    """Rows of an array, each copied into a tensor of shape (FEATURES,), float32, when asked for."""

    def __init__(self, size: int) -> None:
        """Draw `size` rows."""
        self.data = np.random.default_rng(0).random((size, FEATURES))

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        """One row."""
        return torch.tensor(self.data[index].copy(), dtype=torch.float32)


class CachedDataset(Dataset[Tensor]):
    """The same rows, made into tensors beforehand."""

    def __init__(self, size: int) -> None:
        """Prepare all rows."""
        rows = SimpleDataset(size)
        self.data = [rows[index] for index in range(size)]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        """One row."""
        return self.data[index]


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands in for the image of a file that is damaged."""

    path: str


class ImageBatch(NamedTuple):
    """What decoded, of shape (n, 3, SIDE, SIDE), float32, and the paths of what did not."""

    images: Tensor
    undecodable: list[str]


class ImageFolder(Dataset[Tensor | Undecodable]):
    """The images of a folder as normalised tensors of shape (3, SIDE, SIDE), float32."""

    def __init__(self, folder: Path) -> None:
        """List the folder's JPEG and PNG files."""
        kinds = {".jpg", ".png"}
        self.paths = sorted(str(path) for path in folder.iterdir() if path.suffix in kinds)
        self.transform = transforms.Compose(
            [
                transforms.Resize((SIDE, SIDE)),
                transforms.ToTensor(),
                transforms.Normalize(mean=MEAN, std=STD),
            ]
        )

    def __len__(self) -> int:
        """The number of files, damaged ones too."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | Undecodable:
        """One image, or a marker that names the file."""
        path = self.paths[index]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError):  # what Pillow raises for a damaged file
            return Undecodable(path)
        tensor: Tensor = self.transform(image)
        return tensor


def leave_out_undecodable(samples: Sequence[Tensor | Undecodable]) -> ImageBatch:
    """Collate the images that decoded, and name the files that did not."""
    images = [sample for sample in samples if isinstance(sample, Tensor)]
    stacked = default_collate(images) if images else torch.empty(0, 3, SIDE, SIDE)
    return ImageBatch(stacked, [each.path for each in samples if isinstance(each, Undecodable)])


@dataclass(frozen=True, slots=True)
class Case:
    """A dataset, how it is loaded, and who looks at the batches."""

    name: str
    title: str
    options: dict[str, Any]  # arguments of either DataLoader
    visit: Callable[[Any], None] | None = None

    def contenders(self, workers: Sequence[int]) -> list[Contender]:
        """Torch's loader and Penstock's, each with each number of workers."""
        return [
            contender(kind, name, count, self.options, self.visit)
            for count in workers
            for name, kind in LOADERS.items()
        ]


def worker_counts() -> list[int]:
    """0, 1, 2 and 4 workers, of these above 2 only as many as there are cores for this process."""
    return [count for count in (0, 1, 2, 4) if count <= max(2, cpus())]


def simple_case(size: int) -> Case:
    """Small samples in memory."""
    return Case("simple", "Small samples in memory", _options(SimpleDataset(size)))


def image_case(folder: Path, undecodable: set[str]) -> Case:
    """A folder of images; the paths of damaged files are added to `undecodable`."""

    def note(batch: ImageBatch) -> None:
        undecodable.update(batch.undecodable)

    options = _options(ImageFolder(folder)) | {"collate_fn": leave_out_undecodable}
    return Case("images", "A folder of images", options, note)


def cached_case(size: int) -> Case:
    """Small samples, prepared beforehand."""
    return Case("cached", "Samples prepared beforehand", _options(CachedDataset(size)))


def _options(dataset: Dataset[Any]) -> dict[str, Any]:
    """How all three cases are loaded."""
    return {"dataset": dataset, "batch_size": BATCH, "shuffle": True}
