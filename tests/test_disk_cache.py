"""`penstock.cache(disk=...)`: what was made once is read by later runs, and never when it is out of date."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torchvision import transforms as v1
from torchvision import tv_tensors

import penstock
from penstock.caching.fingerprint import fingerprint
from tests.datasets import Mixed, Named, Squares
from tests.equality import difference
from tests.test_cache import collate, same_batches
from tests.unit.test_pipeline import Pictures, darker, noisy

pytest.importorskip("pyarrow")


class Told(Pictures):
    """Notes in a file, which isn't known to the object, how often a picture was made."""

    def picture(self, index: int) -> Any:
        with open(os.environ["TOLD"], "ab") as file:
            file.write(b".")
        return super().picture(index)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many pictures were made since it was asked last."""
    file = tmp_path / "told"
    file.touch()
    monkeypatch.setenv("TOLD", str(file))

    def count() -> int:
        made = file.stat().st_size
        file.write_bytes(b"")
        return made

    return count


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.arrow"))


def fill(dataset: Any, folder: Path, **options: Any) -> Any:
    cached = penstock.cache(dataset, disk=folder, **options)
    for index in range(len(dataset)):
        cached[index]
    cached.flush()
    return cached


def told_dataset() -> Told:
    return Told(v1.Compose([darker, v1.Resize(9), noisy]))


@pytest.mark.parametrize("memory", [None, "1MB"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_run_makes_nothing_again(
    tmp_path: Path, told: Callable[[], int], workers: int, memory: str | None
) -> None:
    plain = penstock.DataLoader(Pictures(told_dataset().transform), batch_size=4, seed=1)
    for run in range(2):
        cached = penstock.cache(told_dataset(), disk=tmp_path / "cache", memory=memory)
        told()
        with penstock.DataLoader(cached, batch_size=4, seed=1, num_workers=workers) as loader:
            same_batches(loader, plain, epochs=1)
        cached.flush()
        assert told() == (0 if run else 12)
        stats = cached.stats()
        assert (stats.on_disk, stats.hits, stats.misses) == (12, 12 * run, 12 - 12 * run)
        assert bool(run) == (stats.saved_s > 0)
        assert stats.disk_bytes == sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.arrow"))
        plain = penstock.DataLoader(Pictures(told_dataset().transform), batch_size=4, seed=1)
    assert "12 of 12 samples" in cached.explain()


@pytest.mark.parametrize("make", [Squares, Mixed, Named, lambda: Pictures(darker, pillow=False)])
def test_samples_of_all_kinds_come_back(tmp_path: Path, make: Callable[[], Any]) -> None:
    dataset = make()
    fill(dataset, tmp_path)
    cached = penstock.cache(dataset, disk=tmp_path)
    assert cached.stats().on_disk == len(dataset)
    for index in reversed(range(len(dataset))):
        first, again = cached[index], cached[index]
        assert difference(first, dataset[index]) is None
        if isinstance(first, tuple):
            first[0].fill_(0)
        assert difference(again, dataset[index]) is None
        assert difference(cached[index], dataset[index]) is None


def test_memory_and_disk_count_together(tmp_path: Path) -> None:
    fill(Squares(8), tmp_path)
    cached = penstock.cache(Squares(8), disk=tmp_path, memory="1MB")
    for index in [*range(8), *range(8)]:
        cached[index]
    stats = cached.stats()
    assert (stats.hits, stats.misses, stats.stored, stats.on_disk) == (16, 0, 8, 8)


def test_what_waits_to_be_written_is_not_made_again(tmp_path: Path) -> None:
    cached = penstock.cache(Squares(8), disk=tmp_path)
    for _ in range(2):
        for index in range(8):
            assert difference(cached[index], Squares(8)[index]) is None
    stats = cached.stats()
    assert (stats.misses, stats.hits, stats.on_disk) == (8, 8, 0)


def test_in_a_process_that_cannot_reach_the_memory(tmp_path: Path) -> None:
    cached = fill(Squares(8), tmp_path)
    pickled = pickle.dumps(cached)
    del cached
    gc.collect()  # its segment is gone
    again = pickle.loads(pickled)
    assert [difference(again[index], Squares(8)[index]) for index in range(8)] == [None] * 8
    stats = again.stats()
    assert (stats.misses, stats.hits, stats.on_disk) == (0, 8, 8)


def test_a_folder_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="disk should be a folder, but got ''"):
        penstock.cache(Squares(8), disk="")


class Odd:
    """Nothing that can be put into columns."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd)

    __hash__ = None  # type: ignore[assignment]


class OddSamples(Squares):
    def __getitem__(self, index: int) -> Any:
        return Odd() if index == 3 else index


def test_what_cannot_be_stored_is_made_again(tmp_path: Path) -> None:
    cached = fill(OddSamples(8), tmp_path)
    assert cached.stats().on_disk == 7
    assert [cached[index] for index in range(8)] == [OddSamples()[index] for index in range(8)]


# -- keys --------------------------------------------------------------------------------------------


def scaled(by: float) -> Callable[[Any], Any]:
    return lambda value: value * by


def key(dataset: Any) -> str:
    return fingerprint(dataset, {})


class OfArray(Dataset[Any]):
    def __init__(self, array: Any, **more: Any) -> None:
        self.array = array
        vars(self).update(more)


class OfArrayToo(OfArray):
    """Another class with the same attributes."""


KEYS: dict[str, Callable[[], Any]] = {
    "an array": lambda: OfArray(np.arange(5)),
    "other content": lambda: OfArray(np.array([0, 1, 2, 3, 5])),
    "another dtype": lambda: OfArray(np.arange(5, dtype=np.int32)),
    "a tensor": lambda: OfArray(torch.arange(5)),
    "another class": lambda: OfArrayToo(np.arange(5)),
    "another attribute": lambda: OfArray(np.arange(5), size=3),
    "a set": lambda: OfArray({"a", "b", "c"}),
    "a function": lambda: OfArray(darker),
    "another function": lambda: OfArray(noisy),
    "a closure": lambda: OfArray(scaled(2.0)),
    "another closure": lambda: OfArray(scaled(3.0)),
    "a partial": lambda: OfArray(functools.partial(scaled, 2.0)),
    "a transform": lambda: OfArray(v1.Resize(9)),
    "another parameter": lambda: OfArray(v1.Resize(10)),
    "nested": lambda: OfArray([{"a": (1, 2)}, {"a": (1, "2")}]),
}


def test_every_change_makes_another_key() -> None:
    keys = {name: key(make()) for name, make in KEYS.items()}
    assert len(set(keys.values())) == len(keys)
    assert keys == {name: key(make()) for name, make in KEYS.items()}


@pytest.mark.slow
def test_a_key_is_the_same_in_every_process() -> None:
    code = "from tests.test_disk_cache import *; print([key(make()) for make in KEYS.values()])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == str([key(make()) for make in KEYS.values()])


def test_random_generators_do_not_count() -> None:
    def made(seed: int) -> Any:
        return OfArray(random.Random(seed), own=torch.Generator().manual_seed(seed))

    assert key(made(1)) == key(made(2))


def test_a_changed_function_makes_another_key() -> None:
    def dataset(body: str) -> Any:
        scope: dict[str, Any] = {"__name__": "my_code"}
        exec(f"def helper(x): return {body}\ndef transform(x): return helper(x)", scope)
        return OfArray(scope["transform"])

    assert key(dataset("x + 1")) == key(dataset("x + 1"))
    assert key(dataset("x + 1")) != key(dataset("x + 2"))


@pytest.mark.parametrize("how", ["size", "time", "new file"])
def test_a_changed_file_makes_another_key(tmp_path: Path, how: str) -> None:
    file = tmp_path / "images" / "a.txt"
    file.parent.mkdir()
    file.write_text("one")
    os.utime(file, ns=(10**18, 10**18))
    datasets = [OfArray(str(file)), OfArray(file.parent)]
    before = [key(each) for each in datasets]
    assert before == [key(each) for each in datasets]
    if how == "size":
        file.write_text("three")
        os.utime(file, ns=(10**18, 10**18))
    elif how == "time":
        os.utime(file, ns=(10**18, 10**18 - 1))  # a clock that goes back
    else:
        (tmp_path / "images" / "b.txt").touch()
        datasets, before = datasets[1:], before[1:]
    assert all(a != b for a, b in zip(before, [key(each) for each in datasets], strict=True))


def test_random_steps_may_change_and_kept_ones_not(tmp_path: Path, told: Callable[[], int]) -> None:
    fill(Told(v1.Compose([v1.Resize(9), v1.RandomCrop(5)])), tmp_path / "cache")
    for transform, again in (([v1.Resize(9), v1.RandomCrop(4)], 0), ([v1.Resize(8), v1.RandomCrop(5)], 12)):
        cached = penstock.cache(Told(v1.Compose(transform)), disk=tmp_path / "cache")
        told()
        for index in range(12):
            cached[index]
        assert told() == again


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    with (
        open(os.devnull) as file,
        pytest.raises(penstock.NotFingerprintableError, match=r"dataset.array, a TextIOWrapper"),
    ):
        key(OfArray(file))
    assert not list(tmp_path.iterdir())


# -- faults ------------------------------------------------------------------------------------------


def fill_and_be_killed(folder: Path) -> None:
    """In a process of its own: the second file's writing ends in SIGKILL."""
    fsync, files = os.fsync, []

    def deadly(descriptor: int) -> None:
        files.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if sum(name.endswith(".tmp") for name in files) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    cached = penstock.cache(Squares(20), disk=folder)
    os.fsync = deadly
    for index in range(20):
        cached[index]
        if index in (7, 15):
            cached.flush()


def apart(work: Callable[[], None]) -> int:
    """Have a forked process do it; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_what_a_killed_process_has_written_stays_whole(tmp_path: Path) -> None:
    pid = apart(lambda: fill_and_be_killed(tmp_path))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    cached = penstock.cache(Squares(20), disk=tmp_path)
    assert cached.stats().on_disk == 8
    fill(Squares(20), tmp_path)
    assert cached.stats().on_disk == 20
    assert all(difference(cached[index], Squares()[index]) is None for index in range(20))


def damages(size: int) -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    yield "empty", lambda _: b""
    yield "cut short", lambda data: data[: size // 2]
    yield "without its end", lambda data: data[:-1]
    for place in (0, size // 3, size // 2, size - 20, size - 5):
        flip = bytes([1 << place % 8])
        yield (
            f"bit of byte {place}",
            lambda data, at=place, flip=flip: data[:at] + bytes([data[at] ^ flip[0]]) + data[at + 1 :],
        )


def test_a_damaged_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(Squares(20), tmp_path)
    (file,) = shards(tmp_path)
    data = file.read_bytes()
    for name, damage in damages(len(data)):
        for path in shards(tmp_path):
            path.unlink()
        file.write_bytes(damage(data))
        cached = penstock.cache(Squares(20), disk=tmp_path)
        assert all(difference(cached[index], Squares()[index]) is None for index in range(20)), name
        assert cached.stats().on_disk == 0, name
        assert not file.exists()
        assert "damaged" in caplog.text
        caplog.clear()
        del cached  # which writes what it made


def test_two_processes_fill_one_folder_at_once(tmp_path: Path) -> None:
    pids = [apart(lambda: fill(Squares(60), tmp_path) and None) for _ in range(2)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    cached = penstock.cache(Squares(60), disk=tmp_path)
    assert cached.stats().on_disk == 60
    assert all(difference(cached[index], Squares()[index]) is None for index in range(60))


def test_what_another_process_writes_is_found(tmp_path: Path) -> None:
    cached = penstock.cache(Squares(20), disk=tmp_path)
    assert cached.stats().on_disk == 0
    os.waitpid(apart(lambda: fill(Squares(20), tmp_path) and None), 0)
    assert cached.stats().on_disk == 20


def test_workers_write_what_they_made_when_they_end(tmp_path: Path) -> None:
    cached = penstock.cache(Named(30), disk=tmp_path)
    with penstock.DataLoader(cached, batch_size=4, num_workers=2, collate_fn=collate) as loader:
        list(loader)
    assert cached.stats().on_disk == 30
    assert 1 <= len(shards(tmp_path)) <= 2


def test_a_full_disk_leaves_the_samples_unharmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cached = penstock.cache(Squares(20), disk=tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        cached[3]
        cached.flush()
    assert "No space left on device" in caplog.text
    assert difference(cached[3], Squares()[3]) is None
    assert shards(tmp_path) == []
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_is_removed_leaves_the_samples_unharmed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached = penstock.cache(Squares(20), disk=tmp_path / "cache")
    for index in range(10):
        cached[index]
    cached.flush()
    shutil.rmtree(tmp_path / "cache")
    for index in range(20):
        assert difference(cached[index], Squares(20)[index]) is None
    cached.flush()
    assert "nothing more is cached" in caplog.text


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        penstock.cache(Squares(20), disk=tmp_path / "file")


class Detection(Dataset[Any]):
    """Of torchvision's classes, lying in memory in other orders than their dimensions."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        numbers = torch.arange(24) + index
        boxes: Any = tv_tensors.BoundingBoxes(
            numbers[:8].reshape(4, 2).t(), format="XYXY", canvas_size=(20, 20)
        )
        return {"image": tv_tensors.Image(numbers.reshape(2, 4, 3).permute(2, 0, 1)), "boxes": boxes}


def test_tensors_of_torchvisions_classes_stay_that_in_any_order(tmp_path: Path) -> None:
    fill(Detection(), tmp_path)
    again = penstock.cache(Detection(), disk=tmp_path)
    assert again.stats().on_disk == 12
    for index in range(12):
        made, kept = Detection()[index], again[index]
        for name, value in made.items():
            assert type(kept[name]) is type(value)
            assert (kept[name].stride(), vars(kept[name])) == (value.stride(), vars(value))
            assert torch.equal(kept[name], value)


def test_what_cannot_be_stored_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(OddSamples(12), tmp_path)
    told = [record for record in caplog.records if "can't be kept on disk" in record.message]
    assert len(told) == 1
