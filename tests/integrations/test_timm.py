"""timm's `create_loader`, which makes whatever torch.utils.data.DataLoader stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import penstock
from tests.integrations.beside import Loader, beside_torch, difference, seed_all

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
timm_data = pytest.importorskip("timm.data", reason="pip install penstock[integrations]")

WORKERS = [(0, False), (2, True)]
NO_CHANCE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": 0.0}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of three classes."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for number in range(22):
        folder = root / f"class{number % 3}"
        folder.mkdir(exist_ok=True)
        pixels = noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda loader: monkeypatch.setattr(torch.utils.data, "DataLoader", loader)


def create(images: Path, workers: int, persistent: bool, **arguments: Any) -> Any:
    settings: dict[str, Any] = {
        "input_size": (3, 32, 32),
        "batch_size": 6,
        "num_workers": workers,
        "persistent_workers": persistent,
        "device": torch.device("cpu"),
        "use_prefetcher": False,
        **arguments,
    }
    return timm_data.create_loader(timm_data.ImageDataset(str(images)), **settings)


def epoch(made: Any, number: int) -> list[Any]:
    """Its order is that of the seed: without workers, torch's samples use up random numbers for the next."""
    seed_all(number)
    return list(made)


@pytest.mark.parametrize(("workers", "persistent"), WORKERS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("prefetcher", [False, True], ids=["plain", "prefetcher"])
def test_create_loader(
    training: bool, prefetcher: bool, workers: int, persistent: bool, images: Path, use: Any
) -> None:
    """timm's own collate function and its prefetcher, which holds a batch while it takes the next."""

    def recipe(loader: Loader) -> Any:
        use(loader)
        chance = NO_CHANCE if training else {}
        made = create(images, workers, persistent, is_training=training, use_prefetcher=prefetcher, **chance)
        assert type(made.loader if prefetcher else made) is loader
        return [epoch(made, number) for number in range(2)], len(made)

    batches, _ = beside_torch(recipe)
    assert len(batches[0]) == (3 if training else 4)
    assert batches[0][0][0].shape == (6, 3, 32, 32)


@pytest.mark.parametrize("workers", [0, 2])
def test_sizes_that_change_by_a_schedule(workers: int, images: Path, use: Any) -> None:
    """Its batch sampler gives pairs instead of indices."""

    def recipe(loader: Loader) -> Any:
        use(loader)
        made = create(
            images,
            workers,
            False,
            is_training=True,
            input_size_choices=[24, 32],
            batch_size_choices=[8, 4],
            **NO_CHANCE,
        )
        return list(made)

    batches = beside_torch(recipe)
    assert {(len(x), x.shape[-1]) for x, _ in batches} == {(8, 24), (4, 32)}


def test_augmentation_does_not_depend_on_the_workers(images: Path, use: Any) -> None:
    use(penstock.DataLoader)

    def epochs(workers: int) -> Any:
        chance = {"auto_augment": "rand-m9-mstd0.5", "re_prob": 0.5}
        made = create(images, workers, False, is_training=True, worker_seeding="part", **chance)
        return [epoch(made, number) for number in range(2)]

    first, second = epochs(1)
    assert difference(first, second) is not None
    for workers in (0, 2):
        assert difference(epochs(workers), [first, second]) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_iterator_kept_for_all_epochs(workers: int, images: Path) -> None:
    """timm's subclass of the class, over a sampler without end; upgrading it keeps what it overrides."""

    def recipe(loader: Loader) -> Any:
        made = create(images, workers, workers > 0, use_multi_epochs_loader=True)
        if loader is penstock.DataLoader:
            made = penstock.upgrade(made)
        assert isinstance(made, loader)
        assert type(made).__name__ == "MultiEpochsDataLoader"
        batches = [list(made) for _ in range(3)]
        made.iterator = None  # its workers end with it
        return batches

    assert [len(batches) for batches in beside_torch(recipe)] == [4, 4, 4]
