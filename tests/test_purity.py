"""The one idea, with real transforms: a batch doesn't depend on who made it, when, and after what."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from penstock import DataLoader
from tests.datasets import equal

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SIZE, BATCH = 24, 4


def by_torchvision_1() -> Callable[[Any], Any]:
    steps = [
        v1.ToPILImage(),
        v1.RandomResizedCrop(16, antialias=True),
        v1.RandomHorizontalFlip(),
        v1.ColorJitter(0.4, 0.4, 0.4),
        v1.RandAugment(),
        v1.ToTensor(),
        v1.RandomErasing(p=0.5),
    ]
    return v1.Compose(steps)


def by_torchvision_2() -> Callable[[Any], Any]:
    steps = [
        v2.ToImage(),
        v2.RandomResizedCrop(16, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomPhotometricDistort(p=0.5),
        v2.TrivialAugmentWide(),
        v2.ToDtype(torch.float32, scale=True),
        v2.GaussianNoise(),
    ]
    return v2.Compose(steps)


def by_albumentations() -> Callable[[Any], Any]:
    a = pytest.importorskip("albumentations", reason="pip install penstock[integrations]")
    chain = a.Compose(
        [
            a.RandomResizedCrop((16, 16)),
            a.HorizontalFlip(),
            a.ColorJitter(p=0.8),
            a.GaussNoise(p=0.5),
            a.CoarseDropout(p=0.5),
        ]
    )
    return lambda image: torch.from_numpy(np.ascontiguousarray(chain(image=image)["image"]))


class Pictures(Dataset[Any]):
    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.pictures = np.random.default_rng(0).integers(0, 255, (SIZE, 20, 20, 3), dtype=np.uint8)
        self.transform = transform

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.pictures[index]), index


class Disturbed(Dataset[Any]):
    """Another dataset, with workers that are late or die at moments that nobody knows beforehand."""

    def __init__(self, dataset: Dataset[Any], folder: Path, deaths: int) -> None:
        self.dataset, self.folder, self.deaths = dataset, folder, deaths

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Any:
        chance = random.SystemRandom()
        time.sleep(chance.random() * 0.01)
        early = self.dataset[index] if chance.random() < 0.5 else None
        if chance.random() < 0.2:
            self._perhaps_die(chance.randrange(self.deaths))
        return self.dataset[index] if early is None else early

    def _perhaps_die(self, number: int) -> None:
        """So many times at most over all workers."""
        try:
            (self.folder / str(number)).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def epochs(dataset: Any, workers: int, **options: Any) -> list[list[Any]]:
    """Two of them, shuffled."""
    torch.manual_seed(5)
    if workers == 0:
        options.pop("prefetch_factor", None)
    with DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, **options) as loader:
        return [list(loader) for _ in range(2)]


def by_first_index(batches: list[Any]) -> list[Any]:
    return sorted(batches, key=lambda batch: int(batch[1][0]))


@pytest.mark.parametrize("library", [by_torchvision_1, by_torchvision_2, by_albumentations])
def test_unmodified_transforms_for_any_number_of_workers(library: Callable[[], Any]) -> None:
    dataset = Pictures(library())
    expected = epochs(dataset, 0)
    assert not equal(*(by_first_index(epoch) for epoch in expected)), "the second epoch differs"
    for workers, prefetch in ((1, 1), (2, 4), (5, 2)):
        found = epochs(dataset, workers, prefetch_factor=prefetch)
        assert equal(found, expected), (workers, prefetch)


class Mixing:
    """A collate function with generators of its own, one of them made when it is first called."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.late: random.Random | None = None

    def __call__(self, samples: list[Any]) -> Any:
        self.late = self.late or random.Random()
        drawn = self.rng.random(), self.late.random(), torch.rand(2), random.random(), np.random.rand()
        return torch.stack([picture for picture, _ in samples]), [index for _, index in samples], *drawn


def test_a_collate_fn_that_draws_for_any_number_of_workers() -> None:
    dataset = Pictures(torch.from_numpy)
    expected = epochs(dataset, 0, collate_fn=Mixing())
    assert len({batch[2] for epoch in expected for batch in epoch}) == 2 * SIZE // BATCH
    for workers in (1, 2, 5):
        assert equal(epochs(dataset, workers, collate_fn=Mixing()), expected), workers


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_every_start_method(method: str) -> None:
    dataset = Pictures(by_torchvision_2())
    assert equal(epochs(dataset, 2, multiprocessing_context=method), epochs(dataset, 0))


def test_out_of_order_as_a_set(tmp_path: Path) -> None:
    dataset = Pictures(by_torchvision_1())
    found = epochs(Disturbed(dataset, tmp_path, 1), 3, in_order=False)
    expected = epochs(dataset, 0)
    assert all(
        equal(by_first_index(ours), by_first_index(theirs))
        for ours, theirs in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_are_late_or_killed_at_random(workers: int, tmp_path: Path) -> None:
    dataset = Pictures(by_torchvision_1())
    found = epochs(Disturbed(dataset, tmp_path, 3), workers, max_retries=10)
    assert any(tmp_path.iterdir()), "somebody died"
    assert equal(found, epochs(dataset, 0))
