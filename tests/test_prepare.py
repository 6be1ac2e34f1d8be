"""`penstock.prepare`: what is stored, of folders and of datasets; the same for any number of workers."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, PILToTensor, Resize

import penstock
from penstock import NotRepeatableError, PreparedDataset, PrepareError
from penstock.shards import Shard
from tests.equality import difference
from tests.preparing import Noisy, Photos, Rows, augmented, files_of, make_folder, photo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"))


def prepare(source: Any, dest: Path, **options: Any) -> PreparedDataset:
    return penstock.prepare(source, dest, **{"workers": 0, **options})


def assert_same(found: Any, expected: Any) -> None:
    assert difference(found, expected) is None


def pixels(image: Any) -> torch.Tensor:
    tensor: torch.Tensor = PILToTensor()(image)
    return tensor.contiguous()


def stored_bytes(prepared: PreparedDataset) -> list[bytes]:
    shards = [Shard(prepared.dest / entry.name) for entry in prepared.manifest.shards]
    return [data for shard in shards for data in shard.batch["image"].to_pylist()]


class TestFolder:
    @pytest.mark.parametrize("form", ["raw", "png"])
    def test_it_gives_what_image_folder_gives(self, folder: Path, tmp_path: Path, form: str) -> None:
        theirs = ImageFolder(str(folder), Resize(16))
        ours = prepare(folder, tmp_path / "out", resize_short=16, format=form, shard_size=7)
        assert len(ours) == len(theirs) == 20
        for (image, label), (expected, expected_label) in zip(
            map(ours.__getitem__, range(20)), theirs, strict=True
        ):
            assert label == expected_label
            assert torch.equal(image if form == "raw" else pixels(image), pixels(expected))
        assert (ours.classes, ours.class_to_idx) == (theirs.classes, theirs.class_to_idx)
        assert ours.targets == theirs.targets
        assert ours.path(13) == "dogs/013.png"
        with pytest.raises(IndexError, match="sample 20 of 20"):
            ours[20]
        assert torch.equal(torch.as_tensor(ours[-1][1]), torch.as_tensor(theirs[19][1]))

    def test_raw_images_are_tensors_of_bytes(self, folder: Path, tmp_path: Path) -> None:
        image, _ = prepare(folder, tmp_path / "out", format="raw")[0]
        assert (image.dtype, image.shape) == (torch.uint8, (3, 30, 33))

    @pytest.mark.parametrize(("options", "quality"), [({}, 90), ({"quality": 35}, 35)])
    def test_jpeg(self, folder: Path, tmp_path: Path, options: dict[str, Any], quality: int) -> None:
        ours = prepare(folder, tmp_path / "out", resize_short=16, **options)
        expected = []
        for image, _ in ImageFolder(str(folder), Resize(16)):
            image.save(out := io.BytesIO(), "JPEG", quality=quality)
            expected.append(out.getvalue())
        assert stored_bytes(ours) == expected
        assert_same(pixels(ours[3][0]), pixels(Image.open(io.BytesIO(expected[3]))))

    def test_files_that_need_nothing_are_stored_as_they_are(self, folder: Path, tmp_path: Path) -> None:
        paths = [Path(path) for path, _ in ImageFolder(str(folder)).samples]
        jpeg = stored_bytes(prepare(folder, tmp_path / "jpeg"))
        png = stored_bytes(prepare(folder, tmp_path / "png", format="png"))
        again = stored_bytes(prepare(folder, tmp_path / "again", quality=90))
        for place, path in enumerate(paths):
            as_it_is = path.read_bytes()
            assert (jpeg[place] == as_it_is) is (path.suffix == ".jpg")
            assert (png[place] == as_it_is) is (path.suffix == ".png")
            assert again[place] != as_it_is

    def test_an_image_in_another_mode_becomes_rgb(self, tmp_path: Path) -> None:
        photo(0).convert("L").save(tmp_path / "grey.jpg")
        photo(0).quantize(8).save(tmp_path / "palette.png")
        for form in "jpeg", "png", "raw":
            for image in map(prepare(tmp_path, tmp_path.parent / form, format=form).__getitem__, range(2)):
                assert image.shape[0] == 3 if form == "raw" else image.mode == "RGB"

    def test_a_flat_folder_gives_images_alone(self, tmp_path: Path) -> None:
        for number in range(3):
            photo(number).save(tmp_path / f"{number}.png")
        (tmp_path / "notes.txt").write_text("no image")
        ours = prepare(tmp_path, tmp_path.parent / "out", format="raw")
        assert_same([ours[i].contiguous() for i in range(3)], [pixels(photo(i)) for i in range(3)])
        assert ours.classes is None
        assert ours.path(1) == "1.png"
        with pytest.raises(KeyError):
            _ = ours.targets

    def test_sizes_of_shards(self, folder: Path, tmp_path: Path) -> None:
        by_samples = prepare(folder, tmp_path / "samples", format="raw", shard_size=6)
        assert [entry.samples for entry in by_samples.manifest.shards] == [6, 6, 6, 2]
        by_bytes = prepare(folder, tmp_path / "bytes", format="raw", shard_size="10kB")
        sizes = [image.numel() for image, _ in map(by_bytes.__getitem__, range(20))]
        assert sum(sizes[: by_bytes.manifest.shards[0].samples - 1]) < 10_000 <= sum(sizes)
        assert len(by_bytes.manifest.shards) > 3
        assert_same([by_bytes[i] for i in range(20)], [by_samples[i] for i in range(20)])

    def test_images_of_one_size_are_a_column_of_fixed_shape(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 4, alike=8)
        ours = prepare(tmp_path / "in", tmp_path / "out", format="raw")
        kind = "fixed_size_list<item: fixed_size_list<item: fixed_size_list<item: uint8>[3]>[40]>[30]"
        assert ours.manifest.columns == {"image": kind, "label": "int64", "path": "large_string"}

    def test_sizes_that_differ_late_widen_the_shards_before(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 5, alike=7)
        ours = prepare(tmp_path / "in", tmp_path / "out", format="raw", shard_size=3)
        schemas = [Shard(ours.dest / entry.name).batch.schema for entry in ours.manifest.shards]
        assert len(schemas) == 4
        assert all(schema.equals(schemas[0]) for schema in schemas)
        for index, (expected, label) in enumerate(ImageFolder(str(tmp_path / "in"))):
            assert_same((ours[index][0].contiguous(), ours[index][1]), (pixels(expected), label))


class TestDataset:
    def test_a_dataset_of_dicts(self, tmp_path: Path) -> None:
        ours = prepare(Rows(), tmp_path / "out", format="png", shard_size=4)
        for found, expected in zip(map(ours.__getitem__, range(11)), Rows(), strict=True):
            assert_same(pixels(found.pop("image")), pixels(expected.pop("image")))
            assert_same(found, expected)
        columns = {"signal", "image", "text", "words"}
        assert set(ours.manifest.columns) == columns

    def test_the_part_before_the_first_random_step(self, folder: Path, tmp_path: Path) -> None:
        dataset = Photos(folder, augmented())
        ours = prepare(dataset, tmp_path / "out", format="raw")
        for index, (expected, label) in enumerate(Photos(folder, Resize(20))):
            assert_same((ours[index][0].contiguous(), ours[index][1]), (pixels(expected), label))
        assert ours.path(0) == "cats/000.jpg"
        assert ours.classes == ["even", "odd"]
        (cut,) = ours.manifest.order.source["pipeline"]
        assert cut["kept"] == ["Resize"]
        assert cut["left to do"] == ["RandomCrop", "RandomHorizontalFlip", "ToTensor"]

    def test_cut_by_hand(self, folder: Path, tmp_path: Path) -> None:
        dataset = Photos(folder, Compose([Resize(20), PILToTensor()]))
        whole = prepare(dataset, tmp_path / "whole")
        cut = prepare(dataset, tmp_path / "cut", until="PILToTensor", format="png")
        assert isinstance(whole[0][0], torch.Tensor)
        assert_same(pixels(cut[0][0]), whole[0][0].contiguous())
        assert [cut.transform, whole.transform] == [None, None]

    def test_wrapped_and_in_memory(self, folder: Path, tmp_path: Path) -> None:
        tensors = TensorDataset(torch.arange(12).reshape(4, 3), torch.arange(4))
        both = ConcatDataset([tensors, Subset(tensors, [2, 0])])
        ours = prepare(both, tmp_path / "out")
        assert_same([ours[i] for i in range(6)], [both[i] for i in range(6)])
        subset = prepare(Subset(Photos(folder), [5, 3]), tmp_path / "subset", format="raw")
        assert [Path(str(subset.path(index))).name for index in range(2)] == ["005.png", "003.png"]

    def test_random_samples_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(NotRepeatableError, match="Noisy"):
            prepare(Noisy(), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["made", "make", "Made", "inside.it"])
    def test_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        (tmp_path / "my_data.py").write_text(
            "from types import SimpleNamespace\nfrom tests.preparing import Rows as Made\n"
            "made = Made(3)\ndef make(): return made\ninside = SimpleNamespace(it=made)\n"
        )
        monkeypatch.chdir(tmp_path)
        before = list(sys.path)
        ours = prepare(f"my_data:{name}", tmp_path / "out")
        del sys.modules["my_data"]
        assert sys.path == before
        assert ours[1]["text"] == "row 1"

    def test_images_that_a_format_cannot_hold(self, tmp_path: Path) -> None:
        transparent = [photo(0).convert("RGBA")] * 3
        assert prepare(transparent, tmp_path / "png", format="png")[0].mode == "RGBA"
        assert prepare(transparent, tmp_path / "raw", format="raw")[0].shape == (4, 30, 40)
        with pytest.raises(PrepareError, match="an image of mode RGBA can't be stored as jpeg"):
            prepare(transparent, tmp_path / "jpeg")
        with pytest.raises(PrepareError, match="an image of mode F can't be stored raw"):
            prepare([photo(0).convert("F")], tmp_path / "float", format="raw")


class TestSameBytes:
    def test_for_any_number_of_workers(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 30, bad=(4, 17, 58))
        found = []
        for workers in 0, 1, 2:
            dest = tmp_path / f"out{workers}"
            prepare(tmp_path / "in", dest, resize_short=16, shard_size=9, workers=workers, on_error="skip")
            found.append(files_of(dest))
        assert len(found[0]) == 8
        assert found[0] == found[1] == found[2]

    def test_of_a_dataset(self, tmp_path: Path) -> None:
        for workers in 0, 2:
            prepare(Rows(), tmp_path / f"out{workers}", shard_size=3, workers=workers)
        assert files_of(tmp_path / "out0") == files_of(tmp_path / "out2")


class TestManifest:
    def test_it_tells_all(self, folder: Path, tmp_path: Path) -> None:
        ours = prepare(folder, tmp_path / "out", resize_short=16, shard_size=8)
        told = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert (told["samples"], told["bytes"]) == (
            20,
            sum(f.stat().st_size for f in ours.dest.glob("*.arrow")),
        )
        assert told["order"]["done"] == {
            "resize_short": 16,
            "format": "jpeg",
            "quality": None,
            "shard_samples": 8,
            "shard_bytes": None,
            "until": None,
        }
        assert told["order"]["versions"]["penstock"] == penstock.__version__
        assert told["classes"] == ["cats", "dogs"]
        assert [(each["first"], each["stop"]) for each in told["shards"]] == [(0, 8), (8, 16), (16, 20)]
        about = Shard(ours.dest / told["shards"][1]["name"]).about
        assert about["done"] == told["order"]["done"]
        assert about["versions"] == told["order"]["versions"]

    def test_progress(self, folder: Path, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        prepare(folder, tmp_path / "out", progress=lambda *figures: seen.append(figures))
        assert seen == [(0, 20), (16, 20), (20, 20)]


class TestBadSamples:
    def test_raise(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 10, bad=(4, 9))
        with pytest.raises(
            PrepareError, match=r"sample 4 \(cats/004.jpg\): OSError: image file is truncated.*skip"
        ):
            prepare(tmp_path / "in", tmp_path / "out")

    def test_skip(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 10, bad=(0, 4, 9, 19))
        ours = prepare(tmp_path / "in", tmp_path / "out", on_error="skip", shard_size=5)
        assert len(ours) == 16
        assert [(bad["index"], bad["path"], bad["type"]) for bad in ours.manifest.bad] == [
            (0, "cats/000.jpg", "OSError"),
            (4, "cats/004.jpg", "OSError"),
            (9, "cats/009.png", "OSError"),
            (19, "dogs/019.png", "OSError"),
        ]
        assert [ours.path(i) for i in (0, 3, -1)] == ["cats/001.png", "cats/005.png", "dogs/018.jpg"]

    @pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
    def test_more_than_8_bits(self, tmp_path: Path, kind: Any) -> None:
        make_folder(tmp_path / "in", 2)
        pixels = np.arange(30 * 40).reshape(30, 40).astype(kind) * 50
        Image.fromarray(pixels).save(tmp_path / "in" / "cats" / "x.tiff")
        with pytest.raises(PrepareError, match=r"x.tiff\): ValueError: it has more than 8 bits a channel"):
            prepare(tmp_path / "in", tmp_path / "out")
        ours = prepare([pixels], tmp_path / "arrays")
        assert_same(ours[0], pixels)

    @pytest.mark.parametrize("kind", ["png", "tiff", "ppm", "plain"])
    def test_more_than_8_bits_in_colour(self, tmp_path: Path, kind: str) -> None:
        """Pillow would give the upper 8 of them."""
        (tmp_path / "in").mkdir()
        pixels = (np.arange(4 * 5 * 3).reshape(4, 5, 3) * 1000).astype(np.uint16)
        path = tmp_path / "in" / f"x.{'ppm' if kind == 'plain' else kind}"
        if kind == "plain":
            path.write_text("P3\n2 1\n1023\n1000 2 3 4 5 6\n")
        else:
            cv2.imwrite(str(path), pixels)
        with pytest.raises(PrepareError, match="ValueError: it has more than 8 bits a channel"):
            prepare(tmp_path / "in", tmp_path / "out")

    @pytest.mark.parametrize("kind", ["png", "tiff", "ppm", "bmp", "gif", "webp", "jpg", "plain"])
    def test_8_bits(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "in").mkdir()
        path = tmp_path / "in" / f"x.{'ppm' if kind == 'plain' else kind}"
        photo(0).save(path)
        if kind == "plain":
            path.write_text("P3\n2 1\n15\n10 2 3 4 5 6\n")
        ours = prepare(tmp_path / "in", tmp_path / "out", format="png")
        with Image.open(path) as file:
            assert_same(pixels(ours[0]), pixels(file.convert("RGB")))

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 2)
        (tmp_path / "in" / "cats" / "gone.jpg").symlink_to("nowhere")
        os.mkfifo(tmp_path / "in" / "dogs" / "pipe.png")
        with pytest.raises(PrepareError, match=r"sample 2 \(cats/gone.jpg\): FileNotFoundError"):
            prepare(tmp_path / "in", tmp_path / "out")
        ours = prepare(tmp_path / "in", tmp_path / "out", on_error="skip")
        assert len(ours) == 4
        told = [(bad["path"], bad["message"].split(": ")[0]) for bad in ours.manifest.bad]
        assert told[0] == ("cats/gone.jpg", "[Errno 2] No such file or directory")
        assert told[1][0] == "dogs/pipe.png"
        assert told[1][1].endswith("is a pipe, not a file")

    def test_a_limit(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 10, bad=(0, 4, 9))
        with pytest.raises(PrepareError, match=r"more samples .* max_errors=0 allows; the last: sample"):
            prepare(tmp_path / "in", tmp_path / "out", on_error="skip", max_errors=0)
        with pytest.raises(PrepareError, match=r"more samples .* max_errors=2 allows; the last: sample 9"):
            prepare(tmp_path / "in", tmp_path / "out", on_error="skip", max_errors=2)
        assert len(prepare(tmp_path / "in", tmp_path / "out", on_error="skip", max_errors=3)) == 17

    def test_of_nothing_other_settings_may_be_tried(self, tmp_path: Path) -> None:
        with pytest.raises(PrepareError, match="can't be stored raw"):
            prepare([photo(0).convert("P")], tmp_path / "out", format="raw")
        assert len(prepare([photo(0).convert("P")], tmp_path / "out", format="png")) == 1

    def test_all(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 2, bad=(0, 1, 2, 3))
        with pytest.raises(PrepareError, match="none of the 4 samples could be made; the first: sample 0"):
            prepare(tmp_path / "in", tmp_path / "out", on_error="skip")

    def test_nothing_to_resize(self, tmp_path: Path) -> None:
        with pytest.raises(PrepareError, match="no image of Pillow's in this sample to resize"):
            prepare([torch.ones(2)] * 3, tmp_path / "out", resize_short=8)

    @pytest.mark.parametrize(("form", "told"), [("jpeg", True), ("png", False)])
    def test_a_mask_beside_an_image(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str, told: bool
    ) -> None:
        prepare([(photo(0), photo(1).convert("L"))], tmp_path / "out", format=form)
        assert ("change the numbers of a mask" in caplog.text) is told

    def test_what_cannot_be_stored(self, tmp_path: Path) -> None:
        with pytest.raises(PrepareError, match="sample 2: a sample holds a slice, which can't be stored"):
            prepare([1, 2, slice(3)], tmp_path / "out")
        with pytest.raises(PrepareError, match=r"sample 1: a sample holds a torch.Tensor, .* sparse"):
            prepare([torch.eye(2), torch.eye(2).to_sparse()], tmp_path / "other")


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"format": "gif"}, "format should be"),
            ({"resize_short": 0}, "resize_short should be 1"),
            ({"quality": 0}, "quality should be from 1"),
            ({"quality": 90, "format": "raw"}, "quality is of JPEG alone"),
            ({"shard_size": "much"}, "shard_size should be"),
            ({"shard_size": 0}, "shard_size should be"),
            ({"on_error": "replace"}, "on_error should be 'raise' or 'skip'"),
            ({"max_errors": 3}, "max_errors is for on_error='skip'"),
            ({"max_errors": float("nan"), "on_error": "skip"}, "max_errors should be a whole number"),
            ({"max_errors": 1.5, "on_error": "skip"}, "max_errors should be a whole number, or a share"),
            ({"max_errors": float("inf"), "on_error": "skip"}, "max_errors should be a whole number"),
            ({"max_errors": -1, "on_error": "skip"}, "max_errors should be a whole number"),
            ({"workers": 100_000}, "workers should be from 0 to"),
            ({"workers": -1}, "workers should be from 0 to"),
            ({"until": 1}, "until is for the transform of a dataset"),
        ],
        ids=str,
    )
    def test_settings(self, folder: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
        with pytest.raises(PrepareError, match=words):
            prepare(folder, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    def test_sources(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "nothing").mkdir()
        (tmp_path / "beside" / "cats").mkdir(parents=True)
        photo(0).save(tmp_path / "beside" / "x.png")
        photo(0).save(tmp_path / "beside" / "cats" / "x.png")
        (tmp_path / "empty" / "cats").mkdir(parents=True)
        (tmp_path / "empty" / "dogs").mkdir()
        photo(0).save(tmp_path / "empty" / "cats" / "x.png")
        for source, words in [
            (tmp_path / "nothing", "there are no images in .*nothing: no file's name ends in one of .*jpg"),
            (tmp_path / "beside", r"both in subfolders and beside them \(x.png\)"),
            (tmp_path / "empty", "the class dogs has no images"),
            (tmp_path / "missing", "missing does not exist"),
            (tmp_path / "beside" / "x.png", "x.png is a file"),
            ("no.such.module:thing", "no.such.module:thing can't be had: ModuleNotFoundError"),
            ("json:thing", "json:thing can't be had: AttributeError"),
            ("json:dumps", "json:dumps can't be had: TypeError"),
            ("tests.preparing:leaving", "tests.preparing:leaving can't be had: SystemExit: no data here"),
            (iter([1]), "a map-style dataset is needed"),
            ([], "the dataset is empty"),
        ]:
            with pytest.raises(PrepareError, match=words):
                prepare(source, tmp_path / "out")
            assert not (tmp_path / "out").exists()
        with pytest.raises(PrepareError, match=r"is in .* itself"):
            prepare(folder, folder / "out")

    def test_destinations(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "mine.txt").write_text("keep me")
        (tmp_path / "full" / ".x.tmp").write_text("me too")
        with pytest.raises(PrepareError, match=r"full is not empty \(.x.tmp\)"):
            prepare(folder, tmp_path / "full")
        assert len(list((tmp_path / "full").iterdir())) == 2
        with pytest.raises(PrepareError, match=r"mine.txt is a file: give a folder"):
            prepare(folder, tmp_path / "full" / "mine.txt")
        with pytest.raises(PrepareError, match=r"can't write to .*mine.txt/out: Not a directory"):
            prepare(folder, tmp_path / "full" / "mine.txt" / "out")

    def test_the_arrays_of_numpy_too(self, tmp_path: Path) -> None:
        ours = prepare([np.arange(3.0) + n for n in range(4)], tmp_path / "out")
        assert_same(ours[2], np.arange(3.0) + 2)
