"""Small datasets that several tests use; at module level, so that every start method can send them."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from tests.equality import equal as equal  # with the datasets, where most tests want it


class Squares(Dataset[Any]):
    """Sample i: a float tensor of `width` times i squared, and i."""

    def __init__(self, size: int = 100, width: int = 4) -> None:
        self.size, self.width = size, width

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return torch.full((self.width,), float(index) ** 2), index


class Noise(Squares):
    """Draws from all three global generators."""

    def __getitem__(self, index: int) -> Any:
        return torch.rand(3), random.random(), np.random.rand(2), index


class Mixed(Squares):
    """One leaf of each regular kind, nested."""

    def __getitem__(self, index: int) -> Any:
        return {
            "tensor": torch.arange(6).reshape(2, 3) + index,
            "half": torch.full((2,), index, dtype=torch.bfloat16),
            "array": np.full((3, 2), index % 256, dtype=np.uint8),
            "scalar": np.float32(index),
            "pair": (float(index), [index, index % 2 == 0]),
            "empty": torch.empty(0, 3),
            "zero_d": torch.tensor(index),
        }


class Named(Squares):
    """Holds a string, so it can't be placed as rows."""

    def __getitem__(self, index: int) -> Any:
        return torch.full((self.width,), float(index)), f"sample {index}"


class Ragged(Squares):
    """A tensor of a length of its own for every sample."""

    def __getitem__(self, index: int) -> Any:
        return torch.arange(index % 5 + 1)


class Hooked(Squares):
    """Calls `hook(index)` first."""

    def __init__(self, hook: Any, size: int = 100) -> None:
        super().__init__(size)
        self.hook = hook

    def __getitem__(self, index: int) -> Any:
        self.hook(index)
        return super().__getitem__(index)


class Fails(Squares):
    """Raises `error` on sample `bad`."""

    def __init__(self, error: BaseException, bad: int = 5, size: int = 20) -> None:
        super().__init__(size)
        self.error, self.bad = error, bad

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            raise self.error
        return super().__getitem__(index)


class Kills(Squares):
    """Its worker gets signal `number` on sample `bad`."""

    def __init__(self, number: int, bad: int = 5, size: int = 20) -> None:
        super().__init__(size)
        self.number, self.bad = number, bad

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            os.kill(os.getpid(), self.number)
            time.sleep(60)
        return super().__getitem__(index)


class Marks(Squares):
    """Leaves a file named by the process id of each process that fetched a sample."""

    def __init__(self, folder: Path, size: int = 20) -> None:
        super().__init__(size)
        self.folder = folder

    def __getitem__(self, index: int) -> Any:
        (self.folder / str(os.getpid())).touch()
        return super().__getitem__(index)
