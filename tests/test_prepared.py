"""`penstock.PreparedDataset`: nothing copied, safe in workers, and the file never changes."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import penstock
from penstock import PreparedDataset
from penstock.shards import Shard
from tests.equality import difference
from tests.preparing import Rows, files_of, make_folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images in shards of five, as numbers."""
    root = tmp_path_factory.mktemp("prepared")
    penstock.prepare(make_folder(root / "in", 8), root / "out", format="raw", workers=0, shard_size=5)
    return root / "out"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("prepared") / "out"
    penstock.prepare(Rows(), dest, format="png", workers=0)
    return dest


def assert_same(found: Any, expected: Any) -> None:
    assert difference(found, expected) is None


def darker(image: torch.Tensor) -> torch.Tensor:
    return image.sub_(image // 2)


def broken(image: torch.Tensor) -> torch.Tensor:
    darker(image)
    raise OSError("broken")


class Later:
    """Does nothing the first `idle` times."""

    def __init__(self, transform: Callable[[torch.Tensor], Any], idle: int) -> None:
        self.transform, self.idle = transform, idle

    def __call__(self, image: torch.Tensor) -> Any:
        self.idle -= 1
        return image if self.idle >= 0 else self.transform(image)


def darker_array(sample: dict[str, Any]) -> dict[str, Any]:
    sample["signal"] -= 1
    return sample


class Arrays(Rows):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"signal": np.arange(5.0) + index, "index": index}


class TestNothingIsCopied:
    def test_a_raw_image_views_the_file(self, raw: Path) -> None:
        ours = PreparedDataset(raw)
        image, _ = ours[3]
        assert image.data_ptr() == ours[3][0].data_ptr()
        assert image.permute(1, 2, 0).is_contiguous()
        with open("/proc/self/maps") as maps:
            (line,) = [line for line in maps if line.rstrip().endswith(str(raw / "shard-00000.arrow"))]
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        assert start <= image.data_ptr() < end
        assert line.split()[1] == "rw-p", "private: what is written stays in this process"

    def test_no_descriptor_is_kept(self, raw: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        ours = PreparedDataset(raw)
        kept = [ours[index] for index in range(len(ours))]
        assert len(os.listdir("/proc/self/fd")) == before
        assert len(kept) == 16

    def test_a_folder_that_may_only_be_read(self, raw: Path) -> None:
        for path in raw.iterdir():
            path.chmod(0o444)
        assert PreparedDataset(raw, darker)[0][0].max() <= 128


class TestInPlace:
    def test_a_transform_may_change_what_it_gets(self, raw: Path) -> None:
        plain, changed, before = PreparedDataset(raw), PreparedDataset(raw, darker), files_of(raw)
        for _ in range(3):
            for index in (0, 4, 5, 15):
                image, label = plain[index]
                assert_same(changed[index], (image - image // 2, label))
        assert files_of(raw) == before

    def test_what_it_gave_is_kept_while_others_are_read(self, raw: Path) -> None:
        plain, changed = PreparedDataset(raw), PreparedDataset(raw, darker)
        kept = [changed[index][0] for index in range(len(changed))]
        again = [changed[index][0] for index in range(len(changed))]
        assert_same(kept, again)
        assert_same(kept[7], plain[7][0] - plain[7][0] // 2)

    @pytest.mark.parametrize("idle", [0, 1])
    def test_one_that_raises_leaves_the_sample_as_it_was(self, raw: Path, idle: int) -> None:
        plain, changed = PreparedDataset(raw), PreparedDataset(raw, Later(broken, idle))
        for _ in range(idle):
            changed[0]
        for _ in range(3):
            with pytest.raises(OSError, match="broken"):
                changed[2]
        changed.transform = darker
        assert_same(changed[2][0], plain[2][0] - plain[2][0] // 2)

    @pytest.mark.parametrize("idle", [0, 1])
    @pytest.mark.parametrize("wrap", [lambda x: OrderedDict(x=x), lambda x: deque([x]), SimpleNamespace])
    def test_what_it_did_is_in_whatever_it_gives(self, raw: Path, wrap: Any, idle: int) -> None:
        made = (lambda image: wrap(x=darker(image))) if wrap is SimpleNamespace else lambda x: wrap(darker(x))
        plain, changed = PreparedDataset(raw), PreparedDataset(raw, Later(made, idle))
        for _ in range(idle):
            changed[0]
        given = changed[2][0]
        found = given.x if wrap is SimpleNamespace else next(iter(getattr(given, "values", given.copy)()))
        assert_same(found, plain[2][0] - plain[2][0] // 2)

    def test_one_that_moves_the_tensor_away(self, raw: Path) -> None:
        changed = PreparedDataset(raw, Later(lambda image: darker(image).share_memory_(), 1))
        changed[0], changed[2]
        changed.transform = None
        assert_same(changed[2], PreparedDataset(raw)[2])

    def test_by_several_threads(self, raw: Path) -> None:
        plain, changed = PreparedDataset(raw), PreparedDataset(raw, darker)
        with ThreadPoolExecutor(4) as threads:
            given = list(threads.map(changed.__getitem__, [2] * 200))
        for each in given:
            assert_same(each[0], plain[2][0] - plain[2][0] // 2)

    @pytest.mark.parametrize("idle", [0, 1])
    def test_in_inference_mode(self, raw: Path, idle: int) -> None:
        changed = PreparedDataset(raw, Later(darker, idle))
        for _ in range(idle):
            changed[0]
        with torch.inference_mode():
            once, twice = changed[2][0].clone(), changed[2][0].clone()
        assert torch.equal(once, twice)

    def test_tensors_and_arrays_of_other_samples(self, rows: Path, tmp_path: Path) -> None:
        changed = PreparedDataset(rows, darker_array)
        for _ in range(2):
            assert_same(changed[4]["signal"], Rows()[4]["signal"] - 1)
        arrays = penstock.prepare(Arrays(), tmp_path / "out", workers=0)
        for idle in range(2):
            arrays = PreparedDataset(arrays.dest, Later(darker_array, idle))
            for _ in range(idle):
                arrays[0]
            for _ in range(2):
                assert_same(arrays[4], {"signal": np.arange(5.0) + 3, "index": 4})

    def test_without_a_transform_the_file_stays_as_it_is(self, raw: Path) -> None:
        before = files_of(raw)
        ours = PreparedDataset(raw)
        ours[0][0].zero_()
        ours[0][0].numpy()[:] = 7
        assert files_of(raw) == before
        assert_same(PreparedDataset(raw)[0], PreparedDataset(raw)[0])
        assert PreparedDataset(raw)[0][0].max() > 7


class TestInWorkers:
    @pytest.mark.parametrize(
        "workers",
        [{}, pytest.param({"multiprocessing_context": "spawn"}, marks=pytest.mark.slow)],
        ids=["fork", "spawn"],
    )
    def test_batches(self, raw: Path, workers: dict[str, Any]) -> None:
        transform = v2.Compose([v2.RandomResizedCrop(16, antialias=True), v2.RandomHorizontalFlip()])
        ours = PreparedDataset(raw, transform)
        assert ours[0][0].shape == (3, 16, 16)  # opened here first: workers have mappings of their own
        options: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 3}
        torch.manual_seed(0)
        alone = list(penstock.DataLoader(ours, **options))
        torch.manual_seed(0)
        with penstock.DataLoader(ours, num_workers=2, **options, **workers) as loader:
            assert_same(list(loader), alone)

    def test_it_is_pickled_as_a_path(self, raw: Path) -> None:
        ours = PreparedDataset(raw, darker)
        ours[0]
        data = pickle.dumps(ours)
        assert len(data) < 400
        again = pickle.loads(data)
        assert_same(again[9], ours[9])
        assert again.classes == ["cats", "dogs"]

    def test_from_another_folder(self, raw: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(raw.parent)
        ours = PreparedDataset("out")
        monkeypatch.chdir(tmp_path)
        assert ours[0][1] == 0
        assert len(pickle.loads(pickle.dumps(ours))) == 16


class TestTransform:
    def test_of_the_image_of_a_pair(self, raw: Path) -> None:
        assert PreparedDataset(raw, lambda image: image.shape)[15] == ((3, 33, 34), 1)

    def test_of_whole_samples_otherwise(self, rows: Path) -> None:
        assert PreparedDataset(rows, lambda sample: sorted(sample))[0] == ["image", "signal", "text", "words"]


def test_a_shard_is_opened_when_it_is_needed(raw: Path) -> None:
    ours = PreparedDataset(raw)
    ours[7]
    with open("/proc/self/maps") as maps:
        mapped = {Path(line.split()[-1]).name for line in maps if str(raw) in line}
    assert mapped == {"shard-00001.arrow"}


def test_stored_again(rows: Path, tmp_path: Path) -> None:
    """`Shard.stored` gives what can be stored as it was, images still encoded."""
    from penstock.shards import encode, write_shard

    (path,) = rows.glob("*.arrow")
    shard = Shard(path)
    batch, layout = encode(list(shard.stored()))
    write_shard(tmp_path / "again", batch, layout, shard.about)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("sample", [(), {}, [], {"a": [], "b": ()}], ids=str)
def test_samples_that_hold_nothing(sample: Any, tmp_path: Path) -> None:
    penstock.prepare([sample] * 3, tmp_path / "out", workers=0)
    prepared = PreparedDataset(tmp_path / "out")
    assert [prepared[index] for index in range(3)] == [sample] * 3


def test_a_sparse_tensor_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(penstock.PrepareError, match="it is sparse"):
        penstock.prepare([torch.eye(3).to_sparse()] * 3, tmp_path / "out", workers=0)
