"""MONAI: datasets with dictionary transforms, its collate function, tensors that carry metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock
from tests.datasets import equal
from tests.integrations.beside import WORKERS, Loader, beside_torch, difference, seed_all

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
why = "pip install penstock[integrations]"
monai_data = pytest.importorskip("monai.data", reason=why)
transforms = pytest.importorskip("monai.transforms", reason=why)

KEYS = ["image", "label"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Files of small volumes and of their labels."""
    folder: Path = tmp_path_factory.mktemp("scans")
    grid = np.indices((8, 8, 8)).sum(0).astype(np.float32)
    rows = []
    for number in range(12):
        image, label = folder / f"image{number}.npy", folder / f"label{number}.npy"
        np.save(image, grid * (number + 1))
        np.save(label, (grid > 8 + number % 4).astype(np.uint8))
        rows.append({"image": str(image), "label": str(label), "name": f"scan {number}"})
    return rows


def fixed() -> list[Any]:
    return [
        transforms.LoadImaged(keys=KEYS),
        transforms.EnsureChannelFirstd(keys=KEYS, channel_dim="no_channel"),
        transforms.Spacingd(keys=KEYS, pixdim=(1.0, 1.0, 2.0), mode=("bilinear", "nearest")),
        transforms.ScaleIntensityd(keys="image"),
    ]


def random() -> list[Any]:
    return [
        transforms.RandFlipd(keys=KEYS, prob=0.5, spatial_axis=0),
        transforms.RandRotate90d(keys=KEYS, prob=0.5),
        transforms.RandGaussianNoised(keys="image", prob=1.0),
    ]


def dataset(kind: str, scans: list[dict[str, Any]], steps: list[Any]) -> Any:
    chain = transforms.Compose(steps)
    if kind == "Dataset":
        return monai_data.Dataset(scans, chain)
    return monai_data.CacheDataset(scans, chain, num_workers=1, progress=False)


def plain(batch: Any) -> Any:
    """With what a MetaTensor carries as part of the value."""
    if isinstance(batch, monai_data.MetaTensor):
        carried = (dict(batch.meta), batch.applied_operations, batch.is_batch)
        return ["MetaTensor", batch.as_tensor().clone(), plain(carried)]
    if isinstance(batch, dict):
        return {str(key): plain(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [plain(value) for value in batch]
    return batch


@pytest.mark.parametrize("workers", WORKERS[::2], ids=str)
@pytest.mark.parametrize(
    ("kind", "collate"),
    [
        ("Dataset", "list_data_collate"),
        ("CacheDataset", "list_data_collate"),
        ("CacheDataset", "pad_list_data_collate"),
        ("Dataset", "default"),
    ],
)
def test_dictionary_transforms(
    kind: str, collate: str, workers: dict[str, Any], scans: list[dict[str, Any]]
) -> None:
    source = dataset(kind, scans, fixed())
    own = {} if collate == "default" else {"collate_fn": getattr(monai_data, collate)}

    def recipe(loader: Loader) -> Any:
        train = loader(source, batch_size=5, shuffle=True, **own, **workers)
        batches = [batch for _ in range(2) for batch in train]
        parts = [monai_data.decollate_batch(batch) for batch in batches] if own else []
        return plain(batches), plain(parts)

    batches, _ = beside_torch(recipe)
    image = batches[0]["image"]
    assert image[0] == "MetaTensor"
    assert image[1].shape == (5, 1, 8, 8, 4)


@pytest.mark.parametrize("workers", WORKERS[:2], ids=str)
def test_several_crops_of_each_sample(workers: dict[str, Any], scans: list[dict[str, Any]]) -> None:
    """Samples that are lists, which the collate function joins."""
    crop = transforms.RandSpatialCropSamplesd(
        keys=KEYS, roi_size=(8, 8, 4), num_samples=2, random_center=False, random_size=False
    )
    crops = dataset("Dataset", scans, [*fixed(), crop])

    def recipe(loader: Loader) -> Any:
        return plain(list(loader(crops, batch_size=3, collate_fn=monai_data.list_data_collate, **workers)))

    assert beside_torch(recipe)[0]["image"][1].shape == (6, 1, 8, 8, 4)


@pytest.mark.parametrize("kind", ["Dataset", "CacheDataset"])
def test_random_transforms_do_not_depend_on_the_workers(kind: str, scans: list[dict[str, Any]]) -> None:
    """They keep generators of their own; with torch, what these draw depends on who draws."""

    def epochs(workers: int) -> Any:
        seed_all()
        loader = penstock.DataLoader(
            dataset(kind, scans, [*fixed(), *random()]),
            batch_size=5,
            num_workers=workers,
            collate_fn=monai_data.list_data_collate,
        )
        return [[plain(batch["image"])[1] for batch in loader] for _ in range(2)]

    first, second = epochs(1)
    assert not equal(first, second)
    for workers in (0, 2):
        assert difference(epochs(workers), [first, second]) is None


def test_metadata_in_the_main_process_is_not_shared(scans: list[dict[str, Any]]) -> None:
    """A batch may be transformed in place, as MONAI does, while the next one is made."""
    loader = penstock.DataLoader(
        dataset("Dataset", scans, fixed()),
        batch_size=4,
        num_workers=2,
        collate_fn=monai_data.list_data_collate,
    )
    kept = []
    for batch in loader:
        batch["image"] += 1
        batch["image"].meta["mine"] = len(kept)
        kept.append(batch["image"])
    assert [image.meta["mine"] for image in kept] == [0, 1, 2]
    assert [float(image.min()) for image in kept] == [1.0, 1.0, 1.0]
    assert all(isinstance(image, monai_data.MetaTensor) for image in kept)


@pytest.mark.parametrize("workers", WORKERS[:2], ids=str)
@pytest.mark.parametrize("kind", ["DataLoader", "ThreadDataLoader"])
def test_its_own_loaders_upgraded(kind: str, workers: dict[str, Any], scans: list[dict[str, Any]]) -> None:
    source = dataset("CacheDataset", scans, fixed())

    def recipe(loader: Loader) -> Any:
        made = getattr(monai_data, kind)(source, batch_size=5, shuffle=True, **workers)
        if loader is penstock.DataLoader:
            made = penstock.upgrade(made)
        batches = [plain(batch) for _ in range(2) for batch in made]
        if loader is penstock.DataLoader:
            assert made.stats().batches == 3
        return batches

    assert len(beside_torch(recipe)) == 6
