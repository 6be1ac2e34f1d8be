"""`penstock prepare` and `penstock inspect` as they are typed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import penstock
from penstock.cli import main
from penstock.preparing import PreparedDataset
from tests.preparing import files_of, make_folder, photo


def run(*line: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(part) for part in line])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), 6, bad=(3,))


@pytest.fixture
def dest(folder: Path, tmp_path: Path) -> Path:
    penstock.prepare(folder, tmp_path / "out", workers=0, shard_size=4, on_error="skip")
    return tmp_path / "out"


class TestPrepare:
    def test_a_folder(self, folder: Path, tmp_path: Path) -> None:
        options = "--resize-short 16 --format jpeg --quality 80 --workers 1 --shard-size 4 --on-error skip"
        result = run("prepare", folder, tmp_path / "out", *options.split())
        assert result.exit_code == 0
        assert "11 samples, " in result.stdout
        assert f" 3 shards: {tmp_path / 'out'}" in result.stdout
        assert "1 sample could not be made: it is listed in" in result.stdout
        assert "bad sample: dataset[3] (cats/003.png)" in result.stderr
        penstock.prepare(
            folder, tmp_path / "same", resize_short=16, quality=80, workers=0, shard_size=4, on_error="skip"
        )
        assert files_of(tmp_path / "out") == files_of(tmp_path / "same")

    def test_a_dataset(self, tmp_path: Path) -> None:
        result = run("prepare", "tests.preparing:Rows", tmp_path / "out", "--workers", "0", "--format", "png")
        assert result.exit_code == 0
        assert penstock.PreparedDataset(tmp_path / "out")[2]["text"] == "row 2"

    @pytest.mark.parametrize(
        ("line", "status", "words"),
        [
            (["missing", "out"], 1, "Error: missing does not exist: give a folder of images"),
            (["{folder}", "{folder}/out"], 1, "is in"),
            (["{folder}", "{folder}/cats/000.jpg"], 1, "give a folder elsewhere"),
            (["{folder}", "{tmp}/file/out"], 1, "can't write to {tmp}/file/out: Not a directory"),
            (["{folder}", "{tmp}"], 1, "{tmp} is not empty (file): give a new folder"),
            (["{folder}", "{tmp}/out", "--workers", "0"], 1, "sample 3 (cats/003.png): OSError"),
            (["{folder}", "{tmp}/out", "--until", "2"], 1, "until is for the transform of a dataset"),
            (["tests.preparing:Noisy", "{tmp}/out"], 1, "Noisy"),
            (["tests.preparing:Rows", "{tmp}/out", "--until", "Crop"], 1, "until='Crop' is no step"),
            (["{folder}", "{tmp}/out", "--format", "gif"], 2, "'gif' is not one of 'jpeg', 'png', 'raw'"),
            (["{folder}", "{tmp}/out", "--quality", "101"], 2, "101 is not in the range"),
            (["{folder}", "{tmp}/out", "--shard-size", "big"], 1, "shard_size should be"),
            (["{folder}", "{tmp}/out", "--workers", "100000"], 1, "Error: workers should be from 0 to"),
        ],
        ids=str,
    )
    def test_mistakes(self, folder: Path, tmp_path: Path, line: list[str], status: int, words: str) -> None:
        (tmp_path / "file").write_text("mine")
        known = {"folder": folder, "tmp": tmp_path}
        result = run("prepare", *(part.format(**known) for part in line))
        assert result.exit_code == status
        assert words.format(**known) in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.slow
    def test_a_bar_on_a_terminal(self, tmp_path: Path) -> None:
        """The real command, in a terminal of its own."""
        make_folder(tmp_path / "in", 20, bad=(3,))
        command = [sys.executable, "-m", "penstock", "prepare", str(tmp_path / "in"), str(tmp_path / "out")]
        master, slave = os.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        process = subprocess.Popen(
            [*command, "--on-error", "skip", "--workers", "1"], stdout=slave, stderr=slave, env=environment
        )
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # the other end is closed
                break
            shown += part
        os.close(master)
        assert process.wait() == 0
        text = shown.decode()
        for words in ("Preparing", "40/40", "samples/s", "left", "bad sample: dataset[3]", "39 samples"):
            assert words in text

    @pytest.mark.slow
    def test_interrupted(self, folder: Path, tmp_path: Path) -> None:
        """The last file is a pipe that nobody writes to: reading it takes for ever."""
        shutil.copytree(folder, tmp_path / "in")
        os.mkfifo(tmp_path / "in" / "dogs" / "999.jpg")
        command = [sys.executable, "-m", "penstock", "prepare", str(tmp_path / "in"), str(tmp_path / "out")]
        more = ["--on-error", "skip", "--workers", "1", "--shard-size", "4"]
        process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
        while not (tmp_path / "out" / "unfinished.json").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        assert process.returncode == 130
        assert said.endswith("Interrupted: the same command goes on with it.\n")
        assert "Traceback" not in said

    def test_interrupted_at_once(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """While what it needs is imported."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(sys.modules["penstock.cli.prepare"], "needing", interrupted)
        result = run("prepare", folder, tmp_path / "out")
        assert (result.exit_code, result.stderr) == (130, "Interrupted: the same command goes on with it.\n")

    def test_what_is_left_to_do(self, tmp_path: Path) -> None:
        result = run("prepare", "tests.preparing:fake", tmp_path / "out", "--workers", "0")
        assert result.exit_code == 0
        left = "RandomCrop, RandomHorizontalFlip, ToTensor"
        assert f"Left to do, by PreparedDataset's transform: {left}\n" in result.stdout

    def test_a_profile_that_tells_the_time_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        image = photo(0)
        image.save(tmp_path / "in" / "0.jpg", icc_profile=b"a profile of the file's")
        assert run("prepare", tmp_path / "in", tmp_path / "out", "--format", "png").exit_code == 0
        assert "icc_profile" not in PreparedDataset(tmp_path / "out")[0].info

    def test_a_folder_that_cannot_be_read_is_not_passed_by(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_folder(tmp_path / "in", 2)
        (tmp_path / "in" / "cats" / "more").mkdir()
        scandir = os.scandir

        def refused(path: str) -> object:
            if os.fspath(path).endswith("more"):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr("os.scandir", refused)
        result = run("prepare", tmp_path / "in", tmp_path / "out")
        assert result.exit_code == 1
        assert "more can't be read: Permission denied" in result.stderr

    def test_trouble_with_a_path_is_told_by_its_name(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "is_dir", refused)
        result = run("prepare", folder, tmp_path / "out")
        assert (result.exit_code, result.stderr) == (1, f"Error: {folder}: Permission denied\n")


class TestInspect:
    def test_a_sheet_that_cannot_be_written_is_named(self, dest: Path) -> None:
        result = run("inspect", dest, "--sheet", dest.parent / "none" / "sheet.png")
        assert result.exit_code == 1
        assert "sheet.png" in result.stderr

    def test_of_damaged_data_there_is_no_sheet(self, dest: Path, tmp_path: Path) -> None:
        (dest / "shard-00001.arrow").unlink()
        result = run("inspect", dest, "--sheet", tmp_path / "sheet.png")
        assert result.exit_code == 1
        assert "No sheet is made of damaged data." in result.stderr

    def test_what_is_there(self, dest: Path) -> None:
        result = run("inspect", dest)
        assert result.exit_code == 0
        for words in (
            "11 of 12",
            "in 3 shards",
            "a folder of images",
            "2: cats, dogs",
            "format jpeg, shard_samples 4",
            "large_binary",
            "shard-00002.arrow",
            "cats/003.png",
            "All shards are whole.",
        ):
            assert words in result.stdout

    def test_damaged_shards(self, dest: Path) -> None:
        for name, damage in ("shard-00000.arrow", self._flip), ("shard-00002.arrow", self._cut):
            damage(dest / name)
        result = run("inspect", dest, "--sheet", dest.parent / "sheet.png")
        assert result.exit_code == 1
        assert "shard-00000.arrow is damaged: its checksum is" in result.stdout
        assert "shard-00002.arrow is damaged: it is cut short" in result.stdout
        assert "shard-00001.arrow is damaged" not in result.stdout
        assert not (dest.parent / "sheet.png").exists()
        (dest / "shard-00002.arrow").unlink()
        result = run("inspect", dest, "--no-verify")
        assert result.exit_code == 1
        assert "shard-00002.arrow is damaged: it is gone" in result.stdout
        assert "shard-00000.arrow is damaged" not in result.stdout

    def test_a_shard_of_another_place(self, dest: Path) -> None:
        (dest / "shard-00001.arrow").write_bytes((dest / "shard-00000.arrow").read_bytes())
        result = run("inspect", dest)
        assert result.exit_code == 1
        assert "shard-00001.arrow is damaged: it isn't the file that the manifest tells of" in result.stdout

    @staticmethod
    def _flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 16
        path.write_bytes(data)

    @staticmethod
    def _cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-100])

    def test_a_sheet(self, dest: Path, tmp_path: Path) -> None:
        assert run("inspect", dest, "--sheet", tmp_path / "sheet.png").exit_code == 0
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert sheet.size == (6 * 168 + 8, 2 * 182 + 8)
            assert len(np.unique(np.asarray(sheet))) > 200
        assert run("inspect", dest, "--sheet", tmp_path / "sheet.html").exit_code == 0
        page = (tmp_path / "sheet.html").read_text()
        assert page.count('<img src="data:image/png;base64,') == 11
        assert "<figcaption>10: dogs</figcaption>" in page
        assert "out: 11 of 11 samples" in page

    def test_a_sheet_of_oddly_named_classes(self, tmp_path: Path) -> None:
        for name in (b"two\nlines", b"no text \xff", "学".encode()):
            folder = tmp_path / "in" / os.fsdecode(name)
            folder.mkdir(parents=True)
            photo(0).save(folder / "0.png")
            (folder / os.fsdecode(b"\xfe.png")).touch()
        line = ["prepare", tmp_path / "in", tmp_path / "out", "--workers", "0", "--on-error", "skip"]
        assert run(*line).exit_code == 0
        assert PreparedDataset(tmp_path / "out").classes == ["no text \\xff", "two\nlines", "学"]
        for name in ("sheet.png", "sheet.html"):
            assert run("inspect", tmp_path / "out", "--sheet", tmp_path / name).exit_code == 0

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (["{tmp}"], "{tmp} holds no prepared data"),
            (["{tmp}/missing"], "missing is no folder"),
            (["{dest}", "--sheet", "{tmp}/sheet.gif"], "a sheet is a .png or a .html file, not sheet.gif"),
            (["{dest}", "--sheet", "{tmp}/no/sheet.png"], "no/sheet.png: No such file or directory"),
        ],
        ids=str,
    )
    def test_mistakes(self, dest: Path, tmp_path: Path, line: list[str], words: str) -> None:
        known = {"dest": dest, "tmp": tmp_path}
        result = run("inspect", *(part.format(**known) for part in line))
        assert result.exit_code == 1
        assert words.format(**known) in result.stderr
        assert "Traceback" not in result.output

    def test_no_images(self, tmp_path: Path) -> None:
        penstock.prepare([1, 2, 3], tmp_path / "out", workers=0)
        result = run("inspect", tmp_path / "out", "--sheet", tmp_path / "sheet.png")
        assert result.exit_code == 1
        assert "there are no images in these samples" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("package", ["pyarrow", "PIL"])
def test_a_package_that_is_missing(package: str, tmp_path: Path) -> None:
    """The real command, where the package can't be imported."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(
        f"raise ModuleNotFoundError('No module named {package}', name={package!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "penstock", "prepare", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f'Error: penstock prepare needs {package}, which isn\'t here: pip install "penstock[prepare]"\n'
    )
