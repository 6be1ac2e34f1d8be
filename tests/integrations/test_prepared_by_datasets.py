"""What `penstock.prepare` writes, opened by Hugging Face's datasets as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import penstock
from tests.preparing import Photos, Rows, make_folder

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
datasets = pytest.importorskip("datasets", reason="pip install penstock[integrations]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "in", 6)


@pytest.fixture(autouse=True)
def a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def opened(dest: Path) -> list[Any]:
    """In each of the ways there are; all samples."""
    shards = sorted(map(str, dest.glob("*.arrow")))
    return [
        datasets.concatenate_datasets([datasets.Dataset.from_file(shard) for shard in shards]),
        datasets.load_dataset("arrow", data_files=shards, split="train"),
        datasets.load_dataset(str(dest), split="train"),
    ]


def test_encoded_images(folder: Path, tmp_path: Path) -> None:
    ours = penstock.prepare(folder, tmp_path / "out", resize_short=16, workers=0, shard_size=5)
    for theirs in opened(ours.dest):
        assert theirs.features["label"].names == ["cats", "dogs"]
        assert theirs["path"][7] == "dogs/007.png"
        images = theirs.cast_column("image", datasets.Image())
        assert len(images) == 12
        for index, row in enumerate(images):
            image, label = ours[index]
            assert row["label"] == label
            assert row["image"].tobytes() == image.tobytes()


def test_raw_images(tmp_path: Path) -> None:
    make_folder(tmp_path / "in", 4, alike=8)
    ours = penstock.prepare(tmp_path / "in", tmp_path / "out", format="raw", workers=0)
    for theirs in opened(ours.dest):
        pixels = theirs.with_format("numpy")[3]["image"]
        assert (pixels == ours[3][0].permute(1, 2, 0).numpy()).all()


def test_raw_images_of_several_sizes(folder: Path, tmp_path: Path) -> None:
    ours = penstock.prepare(folder, tmp_path / "out", format="raw", workers=0)
    for theirs in opened(ours.dest):
        row = theirs.with_format("numpy")[4]
        assert (row["image"].reshape(row["image.shape"]) == ours[4][0].permute(1, 2, 0).numpy()).all()


def test_other_datasets(folder: Path, tmp_path: Path) -> None:
    rows = penstock.prepare(Rows(), tmp_path / "rows", workers=0, shard_size=4)
    for theirs in opened(rows.dest):
        assert theirs["text"][:] == [f"row {index}" for index in range(11)]
        assert torch.equal(theirs.with_format("torch")[5]["signal"], Rows()[5]["signal"])
    photos = penstock.prepare(Photos(folder), tmp_path / "photos", workers=0)
    for theirs in opened(photos.dest):
        assert theirs.features["label"].names == ["even", "odd"]
