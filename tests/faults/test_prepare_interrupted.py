"""Preparing that is killed, runs out of disk or finds damage: nothing half done is taken for whole."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import DamagedShardError, PreparedDataset, PrepareError
from tests.preparing import files_of, make_folder, photo

OPTIONS: dict[str, Any] = {"format": "raw", "shard_size": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), 24, alike=41)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    dest = tmp_path_factory.mktemp("whole") / "out"
    prepare(folder, dest)
    return files_of(dest)


def prepare(source: Path, dest: Path, **options: Any) -> PreparedDataset:
    return penstock.prepare(source, dest, **{**OPTIONS, "workers": 0, **options})


def start(source: Path, dest: Path, workers: int = 0, after: int = 10**9) -> Any:
    """Prepare in a process of its own, which kills itself when so many samples are done."""

    def progress(done: int, _total: int) -> None:
        if done >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        prepare(source, dest, workers=workers, progress=progress)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def join(process: Any) -> int | None:
    process.join()
    code: int | None = process.exitcode
    process.close()
    return code


@contextmanager
def files_no_larger_than(nbytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


class TestKilled:
    @pytest.mark.parametrize(("workers", "after"), [(0, 0), (2, 16), (1, 40), (0, 48)])
    def test_between_samples(
        self, folder: Path, whole: dict[str, bytes], tmp_path: Path, workers: int, after: int
    ) -> None:
        dest = tmp_path / "out"
        assert join(start(folder, dest, workers, after)) == -signal.SIGKILL
        with pytest.raises(PrepareError, match="is unfinished: prepare it again in the same way"):
            PreparedDataset(dest)
        prepare(folder, dest)
        assert files_of(dest) == whole

    @pytest.mark.slow
    def test_while_a_shard_is_written(self, tmp_path: Path) -> None:
        """The source's images are larger, so that writing takes long enough to be met."""
        source = tmp_path / "in"
        source.mkdir()
        for number in range(12):
            photo(number, (1500, 1000 + number % 2)).save(source / f"{number:02d}.jpg")
        prepare(source, tmp_path / "whole")
        dest, met = tmp_path / "out", 0
        for _ in range(20):
            process = start(source, dest)
            met += self._kill_when(process, lambda: any(dest.glob(".shard*.tmp")))
            if (dest / "manifest.json").exists():
                break
        assert met > 0
        prepare(source, dest)
        assert files_of(dest) == files_of(tmp_path / "whole")

    @staticmethod
    def _kill_when(process: Any, condition: Callable[[], bool]) -> bool:
        met = False
        while process.is_alive() and not met:
            met = condition()
        process.kill()
        join(process)
        return met


class TestResumed:
    def test_from_the_first_missing_shard(
        self, folder: Path, whole: dict[str, bytes], tmp_path: Path
    ) -> None:
        for damage in (self._gone, self._cut, self._flipped):
            dest = tmp_path / damage.__name__
            self._interrupted(folder, dest)
            before = {path.name: path.stat().st_mtime_ns for path in dest.glob("*.arrow")}
            damage(dest / "shard-00002.arrow")
            seen: list[int] = []
            prepare(folder, dest, progress=lambda done, _total, seen=seen: seen.append(done))
            assert seen[:3] == [4, 8, 8]  # two shards looked at, then on from there
            assert files_of(dest) == whole
            assert len(before) == 8

    @staticmethod
    def _interrupted(folder: Path, dest: Path) -> None:
        class Stop(Exception):
            pass

        def progress(done: int, _total: int) -> None:
            if done >= 32:
                raise Stop

        with pytest.raises(Stop):
            prepare(folder, dest, progress=progress)

    @staticmethod
    def _gone(path: Path) -> None:
        path.unlink()

    @staticmethod
    def _cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-7])

    @staticmethod
    def _flipped(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def test_not_under_other_settings(self, folder: Path, tmp_path: Path) -> None:
        dest = tmp_path / "out"
        self._interrupted(folder, dest)
        before = files_of(dest)
        with pytest.raises(
            PrepareError, match=r"begun otherwise: resize_short is 8, was None; format is 'png', was"
        ):
            prepare(folder, dest, resize_short=8, format="png")
        assert files_of(dest) == before
        prepare(folder, dest)
        with pytest.raises(PrepareError, match="prepared otherwise: shard_samples is 5, was 4"):
            prepare(folder, dest, shard_size=5)

    def test_not_from_another_source(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 20)
        self._interrupted(tmp_path / "in", tmp_path / "out")
        (tmp_path / "in" / "cats" / "000.jpg").unlink()
        with pytest.raises(
            PrepareError, match=r"begun otherwise: samples is 39, was 40; the names and sizes of"
        ):
            prepare(tmp_path / "in", tmp_path / "out")

    def test_what_is_finished_is_left_alone(self, folder: Path, tmp_path: Path) -> None:
        prepare(folder, tmp_path / "out")
        before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        again = prepare(folder, tmp_path / "out", workers=2)
        assert len(again) == 48
        assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before

    def test_a_limit_counts_those_before(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "in", 20, bad=(1, 2, 35))
        options = {"on_error": "skip", "max_errors": 2}
        for _ in range(2):  # the second time, it goes on behind the first two
            with pytest.raises(PrepareError, match="max_errors=2 allows; the last: sample 35"):
                prepare(tmp_path / "in", tmp_path / "out", **options)
        ours = prepare(tmp_path / "in", tmp_path / "out", on_error="skip")
        assert [bad["index"] for bad in ours.manifest.bad] == [1, 2, 35]

    def test_two_at_once(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        lock = os.open(tmp_path / "out", os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PrepareError, match="another process is preparing into"):
            prepare(folder, tmp_path / "out")
        os.close(lock)


class TestFullDisk:
    def test_it_is_told_and_gone_on_after(
        self, folder: Path, whole: dict[str, bytes], tmp_path: Path
    ) -> None:
        with files_no_larger_than(12_000), pytest.raises(PrepareError) as caught:
            prepare(folder, tmp_path / "out")
        said = str(caught.value)
        assert said.startswith(f"can't write to {tmp_path / 'out'}: File too large")
        assert said.endswith("prepare again, and it goes on")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["unfinished.json"]
        prepare(folder, tmp_path / "out")
        assert files_of(tmp_path / "out") == whole

    def test_a_small_file_system(self, folder: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "penstock-test", str(small)],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            pytest.skip("a file system can't be mounted here")
        try:
            with pytest.raises(PrepareError, match="No space left on device"):
                prepare(folder, small / "out")
            assert "manifest.json" not in os.listdir(small / "out")
            assert not any(name.endswith(".tmp") for name in os.listdir(small / "out"))
            subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
            prepare(folder, small / "out")
            assert files_of(small / "out") == whole
        finally:
            subprocess.run(["umount", "-l", str(small)], check=True)


class TestFinished:
    def test_on_a_disk_that_can_only_be_read(
        self, folder: Path, whole: dict[str, bytes], tmp_path: Path
    ) -> None:
        prepare(folder, tmp_path / "out")
        (seen := tmp_path / "seen").mkdir()
        mounted = subprocess.run(["mount", "--bind", "-o", "ro", str(tmp_path), str(seen)], check=False)
        if mounted.returncode:
            pytest.skip("a file system can't be mounted here")
        try:
            with pytest.raises(OSError, match="Read-only"):
                (seen / "out" / "new").touch()
            assert len(prepare(folder, seen / "out")) == 48
        finally:
            subprocess.run(["umount", "-l", str(seen)], check=True)
        assert files_of(tmp_path / "out") == whole


class TestDamaged:
    def test_a_shard_of_another_size(self, folder: Path, tmp_path: Path) -> None:
        prepare(folder, tmp_path / "out")
        path = tmp_path / "out" / "shard-00001.arrow"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(
            DamagedShardError, match=r"shard-00001.arrow is damaged: it has \d+ bytes, not \d+"
        ):
            PreparedDataset(tmp_path / "out")
        path.unlink()
        with pytest.raises(DamagedShardError, match="it is gone"):
            PreparedDataset(tmp_path / "out")
        with pytest.raises(
            PrepareError, match=r"it is gone\. To have all of it made again, remove .*out first"
        ):
            prepare(folder, tmp_path / "out")

    def test_no_shard_at_all(self, folder: Path, tmp_path: Path) -> None:
        prepare(folder, tmp_path / "out")
        path = tmp_path / "out" / "shard-00001.arrow"
        path.write_bytes(bytes(path.stat().st_size))
        ours = PreparedDataset(tmp_path / "out")
        assert ours[3][1] == 0
        with pytest.raises(DamagedShardError, match="cut short, or no shard at all"):
            ours[4]

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '{"manifest": 99}', '{"manifest": 1, "shards": [{}]}']
    )
    def test_the_manifest(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(PrepareError, match=r"is damaged|by a later Penstock"):
            PreparedDataset(tmp_path)
        with pytest.raises(PrepareError, match="no prepared data"):
            PreparedDataset(tmp_path.parent)


def test_a_clock_that_goes_back_makes_no_difference(
    folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    TestResumed._interrupted(folder, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        os.utime(path, (2**32, 2**32))
    prepare(folder, tmp_path / "out")
    assert files_of(tmp_path / "out") == whole
