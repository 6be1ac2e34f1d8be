"""What is loaded, beyond the demo's own datasets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms import v2

from penstock.demo.cases import MEAN, SIDE, STD

TENSORS = 200  # in a sample of TinyTensors


class FloatImages(Dataset[Tensor]):
    """ImageNet's usual training pipeline by Pillow: shape (3, SIDE, SIDE), float32."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Take JPEG files; a path may come more than once."""
        self.paths = [str(path) for path in paths]
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIDE),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean=MEAN, std=STD),
            ]
        )

    def __len__(self) -> int:
        """The number of paths."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """One image."""
        with Image.open(self.paths[index]) as file:
            tensor: Tensor = self.transform(file.convert("RGB"))
        return tensor


class ByteImages(Dataset[Tensor]):
    """The same by torchvision's tensor operations: shape (3, SIDE, SIDE), uint8."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Take JPEG files; a path may come more than once."""
        self.paths = [str(path) for path in paths]
        self.transform = v2.Compose([v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        """The number of paths."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """One image."""
        tensor: Tensor = self.transform(decode_jpeg(read_file(self.paths[index])))
        return tensor


class TinyTensors(Dataset[list[Tensor]]):
    """Samples of TENSORS tensors of shape (4,), float32."""

    def __init__(self, size: int) -> None:
        """Be `size` samples long."""
        self.size = size

    def __len__(self) -> int:
        """The number of samples."""
        return self.size

    def __getitem__(self, index: int) -> list[Tensor]:
        """One sample, made when asked for."""
        return [torch.full((4,), float(index + place)) for place in range(TENSORS)]


class Rows(Dataset[Tensor]):
    """Rows of one array, of SIDE * SIDE floats each."""

    def __init__(self, nbytes: int) -> None:
        """Take so many bytes."""
        self.rows = np.ones((nbytes // (4 * SIDE * SIDE), SIDE * SIDE), np.float32)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        """One row, copied."""
        return torch.tensor(self.rows[index])


class PathList(Dataset[int]):
    """Many path strings in a list, each looked at when asked for; a sample is a path's length."""

    def __init__(self, size: int) -> None:
        """Make `size` paths."""
        self.paths = [f"/data/train/class_{i % 1000:04d}/image_{i:08d}.jpg" for i in range(size)]

    def __len__(self) -> int:
        """The number of paths."""
        return len(self.paths)

    def __getitem__(self, index: int) -> int:
        """The length of one path."""
        return len(self.paths[index])
