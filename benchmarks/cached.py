"""What a cache gives: samples in memory against torch's loader, and a pipeline cut against its rest alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import penstock
from benchmarks.datasets import FloatImages
from benchmarks.targets import Target, row
from penstock.demo.advice import ratio
from penstock.demo.measure import Contender, Summary, contender

CACHED = "penstock, cached"
ALONE = "the rest alone"
MEMORY = "1GB"
SERIAL, WITH_WORKERS = 8.0, 40.0  # how many times torch's rate, without workers and with four
IN_BATCHES = {"batch_size": 64, "shuffle": True}
REST = 0.9  # of the rate of what is left to do
EPOCHS = 10  # in a pass over samples in memory: one takes two milliseconds


class Decoded(Dataset[Tensor]):
    """The images of another dataset, decoded beforehand into this process's memory; its transform is left."""

    def __init__(self, images: FloatImages) -> None:
        """Decode all."""
        self.transform = images.transform
        self.images = [self._decoded(path) for path in images.paths]

    @staticmethod
    def _decoded(path: str) -> Image.Image:
        """One image."""
        with Image.open(path) as file:
            return file.convert("RGB")

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """One image, transformed."""
        tensor: Tensor = self.transform(self.images[index])
        return tensor


def full_cache(dataset: Any, workers: int) -> penstock.CachedDataset:
    """A cache of all of its samples."""
    cached = penstock.cache(dataset, memory=MEMORY)
    with penstock.DataLoader(cached, batch_size=64, num_workers=workers) as loader:
        for _ in loader:
            pass
    stats = cached.stats()
    if stats.stored < stats.samples:
        raise RuntimeError(
            f"only {stats.stored} of {stats.samples} samples are cached: more memory is needed"
        )
    return cached


def memory_contenders(dataset: Any) -> list[Contender]:
    """Torch's loader, serial and with four workers, and ours over a full cache."""
    options = {"dataset": dataset, "batch_size": 32, "shuffle": True}
    cached = {**options, "dataset": full_cache(dataset, 0)}
    return [
        contender(kind, name, workers, given, epochs=EPOCHS)
        for kind, name, given in ((DataLoader, "torch", options), (penstock.DataLoader, CACHED, cached))
        for workers in (0, 4)
    ]


def memory_targets(rows: Sequence[Summary]) -> list[Target]:
    """Against torch, serial and with workers."""
    serial, workers = row(rows, "torch", 0), row(rows, "torch", 4)
    return [
        Target("a full cache to torch without workers", ratio(row(rows, CACHED, 0), serial), SERIAL),
        Target("a full cache to torch, 4 workers", ratio(row(rows, CACHED, 0), workers), WITH_WORKERS),
        Target("the same, each with 4 workers", ratio(row(rows, CACHED, 4), workers), WITH_WORKERS),
    ]


def image_contenders(paths: Sequence[Path]) -> list[Contender]:
    """The pipeline as it is, cached up to its first random step, and that step and what follows alone."""
    images = FloatImages(paths)
    datasets = {"torch": images, "penstock": images, CACHED: full_cache(images, 2), ALONE: Decoded(images)}
    kinds = {"torch": DataLoader}
    return [
        contender(kinds.get(name, penstock.DataLoader), name, 2, {"dataset": dataset, **IN_BATCHES})
        for name, dataset in datasets.items()
    ]


def cut_targets(rows: Sequence[Summary]) -> list[Target]:
    """Against the rest alone, and against no cache."""
    cached = row(rows, CACHED, 2)
    return [
        Target(
            "cached up to the random crop, to crop and flip alone", ratio(cached, row(rows, ALONE, 2)), REST
        ),
        Target("the same, to no cache", ratio(cached, row(rows, "penstock", 2))),
    ]
