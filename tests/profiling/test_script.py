"""`penstock profile`: scripts as they are, with torch's loader and ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from PIL import Image

from penstock.profiling import figures
from penstock.profiling.diagnose import Cause
from penstock.profiling.report import Report

PROGRAMS = Path(__file__).parent.parent / "programs"

TRAINING = """
    import sys, time
    import torch
    from {module} import DataLoader

    class Slow(torch.utils.data.Dataset):
        def __init__(self, size): self.size = size
        def __len__(self): return self.size
        def __getitem__(self, index):
            time.sleep(0.005)
            return torch.zeros(4)

    def main():
        train = DataLoader(Slow(100_000), batch_size=4, num_workers=1)
        valid = DataLoader(Slow(24), batch_size=8)
        try:
            for batch in valid:
                time.sleep(0.001)
            for batch in train:  # the training loop
                time.sleep(0.004)
        finally:
            print("cleaned up", sys.argv[1:])

    if __name__ == "__main__":
        main()
        print("never")
"""

CROPS = """
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import Compose, RandomCrop, ToTensor

    class Images(Dataset):
        def __init__(self): self.transform = Compose([RandomCrop(32), ToTensor()])
        def __len__(self): return 4000
        def __getitem__(self, index):
            with Image.open(f"{index % 8}.jpg") as file:
                return self.transform(file.convert("RGB"))

    for batch in DataLoader(Images(), batch_size=8, num_workers=1):
        pass
"""


class Ran:
    """What came of the command."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        line = [sys.executable, "-m", "penstock", "profile", *arguments]
        done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)
        self.status, self.out, self.errors = done.returncode, done.stdout, done.stderr


def write(folder: Path, source: str) -> None:
    (folder / "train.py").write_text(dedent(source))


@pytest.mark.slow
def test_a_training_script_is_ended_when_enough_was_seen(tmp_path: Path) -> None:
    write(tmp_path, TRAINING.format(module="torch.utils.data"))
    files = "--json", "report.json", "--trace", "trace.json"
    ran = Ran("--seconds", "1", *files, "train.py", "--lr", "3", cwd=tmp_path)
    assert ran.status == 0, ran.errors
    assert "cleaned up ['--lr', '3']" in ran.out
    assert "never" not in ran.out
    assert re.search(r"penstock: the script was ended after 1 s of train.py:\d+ \(--seconds for", ran.errors)
    report = Report.load(tmp_path / "report.json")
    assert report.verdict.cause is Cause.STORAGE
    assert report.verdict.text.split(".")[0] in " ".join(ran.out.split())
    assert report.data.setting.loader == "torch"
    assert report.stall == pytest.approx(0.8, abs=0.1)
    assert report.data.ceiling is not None
    assert report.data.ceiling.batch_s == pytest.approx(0.004, rel=0.4)
    line = next(n for n, text in enumerate(dedent(TRAINING).splitlines(), 1) if "the training loop" in text)
    assert report.data.setting.where == f"train.py:{line}"
    assert f"train.py:{line - 2}" in ran.out, "the validation's loop is told apart"
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {"wait", "step"} <= {event["name"] for event in events}


@pytest.mark.slow
def test_the_advice_is_checked_by_another_run(tmp_path: Path) -> None:
    write(tmp_path, TRAINING.format(module="penstock"))
    ran = Ran("--seconds", "1", "--check", "--json", "report.json", "train.py", cwd=tmp_path)
    assert ran.status == 0, ran.errors
    report = Report.load(tmp_path / "report.json")
    assert report.data.setting.loader == "penstock"
    checked = report.checked
    assert checked is not None
    assert checked.setting.startswith("num_workers=")
    assert checked.predicted is not None
    assert checked.samples_per_s > checked.predicted.low * 0.8
    assert f"Checked with {checked.setting}" in ran.out


def test_a_script_that_fails_does_so_as_always(tmp_path: Path) -> None:
    write(tmp_path, "def f():\n    raise KeyError('its own')\n\nf()\n")
    ran = Ran("train.py", cwd=tmp_path)
    plain = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = "penstock: the script failed: there was no loop to be seen until then.\n"
    assert (ran.status, ran.errors) == (plain.returncode, plain.stderr + said)


NAMES = """
    import os, time
    from torch.utils.data import DataLoader, Dataset

    class Files(Dataset):
        def __init__(self): self.samples = [os.fsdecode(b"/data/caf\\xe9_%d.jpg" % i) for i in range(200)]
        def __len__(self): return 200
        def __getitem__(self, index):
            time.sleep(0.1 if index % 10 == 3 else 0.001)
            return index

    for batch in DataLoader(Files(), batch_size=4):
        pass
"""


def test_names_that_are_no_text_and_a_file_that_cannot_be_written_lose_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, NAMES)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    files = "--html", "report.html", "--trace", "/proc/nowhere", "--json", "report.json"
    ran = Ran("--seconds", "1", *files, "train.py", cwd=tmp_path)
    assert "Traceback" not in ran.errors
    assert "penstock: can't write /proc/nowhere: " in ran.errors
    assert (ran.status, "Your loop" in ran.out) == (1, True)
    samples = Report.load(tmp_path / "report.json").data.samples
    assert samples is not None
    assert "caf\udce9_" in str(samples.slowest[0].path)
    assert "caf?_" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_script_that_is_interrupted_did_not_fail(tmp_path: Path) -> None:
    write(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ran = Ran("train.py", cwd=tmp_path)
    assert ran.status == 130
    assert "penstock: the script was interrupted: there was no loop" in ran.errors


def test_a_script_without_a_loader_is_told_so(tmp_path: Path) -> None:
    write(tmp_path, "import sys\nprint('hello')\nsys.exit(7)\n")
    ran = Ran("train.py", cwd=tmp_path)
    assert (ran.status, ran.out) == (7, "hello\n")
    assert "no loop over a DataLoader" in ran.errors


def test_files_that_are_not_written_are_named(tmp_path: Path) -> None:
    write(tmp_path, "import sys\nsys.exit(7)\n")
    (tmp_path / "old.json").write_text("{}")
    ran = Ran("--json", "old.json", "--trace", "new.json", "train.py", cwd=tmp_path)
    assert ran.status == 7
    assert "old.json was not written, as nothing was profiled; the one there is older.\n" in ran.errors
    assert "penstock: new.json was not written, as nothing was profiled.\n" in ran.errors
    assert (tmp_path / "old.json").read_text() == "{}"


@pytest.mark.parametrize("arguments", [["-m", "nosuch.module"], ["train.py", "--wrong"]])
def test_a_script_that_could_not_begin_says_so_itself(tmp_path: Path, arguments: list[str]) -> None:
    write(tmp_path, "import argparse\nargparse.ArgumentParser().parse_args()\n")
    ran = Ran(*arguments, cwd=tmp_path)
    assert ran.status in (1, 2)
    assert "no loop over a DataLoader" not in ran.errors


@pytest.mark.slow
def test_a_script_that_imports_torch_in_vain(tmp_path: Path) -> None:
    write(tmp_path, "import torch.utils.data\nprint('hello')\n")
    ran = Ran("train.py", cwd=tmp_path)
    assert (ran.status, ran.out) == (0, "hello\n")
    assert "no loop over a DataLoader" in ran.errors


@pytest.mark.slow
def test_a_dataset_made_anew_for_each_epoch_is_one_loop(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import torch
        from torch.utils.data import DataLoader, TensorDataset
        for epoch in range(1000):
            print("epoch", epoch)
            for batch in DataLoader(TensorDataset(torch.arange(40)), batch_size=4):
                pass
        print("never")
        """,
    )
    ran = Ran("--batches", "25", "--seconds", "1", "--json", "report.json", "train.py", cwd=tmp_path)
    assert ran.status == 0, ran.errors
    assert "never" not in ran.out
    assert "train.py:6 (2)" not in ran.out
    assert "ended after 25 batches of train.py:6 (--batches for more)" in ran.errors
    assert Report.load(tmp_path / "report.json").data.loop.epochs > 1


@pytest.mark.slow
def test_an_iterable_dataset_made_anew_for_each_epoch_is_one_loop(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import torch
        from torch.utils.data import DataLoader, IterableDataset

        class Stream(IterableDataset):
            def __iter__(self): return iter(torch.arange(40))

        for epoch in range(4):
            for batch in DataLoader(Stream(), batch_size=4):
                pass
        """,
    )
    ran = Ran("--seconds", "1", "--json", "report.json", "train.py", cwd=tmp_path)
    assert ran.status == 0, ran.errors
    assert "(2)" not in ran.out
    assert "was ended" not in ran.errors
    assert Report.load(tmp_path / "report.json").data.loop.epochs == 4


@pytest.mark.slow
def test_loops_of_one_line_are_told_apart_and_the_right_one_is_checked(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import time, torch
        from torch.utils.data import DataLoader, Dataset

        class Slow(Dataset):
            def __init__(self, size, seconds): self.size, self.seconds = size, seconds
            def __len__(self): return self.size
            def __getitem__(self, index):
                time.sleep(self.seconds)
                return torch.zeros(4)

        def run(loader):
            for batch in loader: pass

        valid = DataLoader(Slow(200, 0.001), batch_size=4)
        train = DataLoader(Slow(100, 0.01), batch_size=4)
        run(valid)
        run(train)
        """,
    )
    ran = Ran("--seconds", "2", "--check", "--json", "report.json", "train.py", cwd=tmp_path)
    assert ran.status == 0, ran.errors
    report = Report.load(tmp_path / "report.json")
    assert report.data.setting.where == "train.py:13 (2)"
    assert report.checked is not None
    assert report.checked.samples_per_s > 2 * report.samples_per_s
    assert "will create" not in ran.errors, "more workers than cores, on purpose"


@pytest.mark.slow
def test_threads_of_a_library_are_no_wait_for_the_interpreter_lock(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import torch
        from torch.utils.data import DataLoader, Dataset

        class Multiplied(Dataset):
            def __len__(self): return 4000
            def __getitem__(self, index):
                torch.set_num_threads(4)
                block = torch.randn(400, 400)
                for _ in range(6):
                    block = block @ block / 400
                return block[0]

        for batch in DataLoader(Multiplied(), batch_size=8, num_workers=2):
            pass
        """,
    )
    ran = Ran("--seconds", "5", "--json", "report.json", "train.py", cwd=tmp_path)
    assert ran.status == 0, ran.errors
    assert "hangs" not in ran.out, "where the loader doesn't: after OpenMP, nothing may be forked"
    report = Report.load(tmp_path / "report.json")
    assert report.data.samples is not None
    assert figures.interpreter_share(report.data.samples) < 0.05
    assert report.verdict.cause is Cause.THREADS


@pytest.mark.slow
def test_loaders_that_a_script_compares_are_told_apart(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import time, torch
        from torch.utils.data import DataLoader, Dataset

        class Slow(Dataset):
            def __len__(self): return 60
            def __getitem__(self, index):
                time.sleep(0.005)
                return torch.zeros(4)

        slow = Slow()
        for workers, size in (0, 4), (2, 4), (2, 8), (0, 4):
            for epoch in range(2):
                for batch in DataLoader(slow, batch_size=size, num_workers=workers):
                    time.sleep(0.001)
        """,
    )
    ran = Ran("--seconds", "5", "train.py", cwd=tmp_path)
    assert ran.status == 0, ran.errors
    shown = [line for line in ran.out.splitlines() if line.startswith("Slow, ")]
    assert sorted(shown) == [
        "Slow, num_workers=0 train.py:14",
        "Slow, num_workers=2 train.py:14 (2)",
        "Slow, num_workers=2 train.py:14 (3)",
    ]


@pytest.mark.slow
def test_a_loop_too_short_to_tell_of(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        from torch.utils.data import DataLoader
        for batch in DataLoader(range(4), batch_size=4):
            pass
        """,
    )
    ran = Ran("--seconds", "1", "train.py", cwd=tmp_path)
    assert ran.status == 0
    assert "not profiled: train.py:3: the loop took 1 batch" in ran.errors


def test_a_script_that_is_killed(tmp_path: Path) -> None:
    write(tmp_path, "import os\nos.kill(os.getpid(), 9)\n")
    ran = Ran("train.py", cwd=tmp_path)
    assert ran.status == 128 + 9
    assert "ended (status 137) before" in ran.errors


@pytest.mark.slow
def test_what_the_script_starts_is_left_alone(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import subprocess, sys
        code = "import torch.utils.data as d; print(d.DataLoader.__iter__.__qualname__)"
        print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
        """,
    )
    assert Ran("train.py", cwd=tmp_path).out.strip() == "DataLoader.__iter__"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--batches", "1", "train.py"], "--batches"),
        (["--seconds", "0", "train.py"], "--seconds"),
        (["--seconds", "nan", "train.py"], "--seconds"),
        (["--json", "nowhere/report.json", "train.py"], "there is no folder"),
        (["--html", "same", "--json", "same", "train.py"], "need files of their own"),
        (["nowhere.py"], "there is no file nowhere.py"),
        ([], "Missing argument"),
    ],
)
def test_mistakes_are_told_without_a_traceback(tmp_path: Path, arguments: list[str], match: str) -> None:
    ran = Ran(*arguments, cwd=tmp_path)
    assert ran.status == 2
    assert match in ran.errors
    assert "Traceback" not in ran.errors


@pytest.mark.slow
class TestTheArticlesPrograms:
    @pytest.mark.parametrize("number", [1, 3])
    def test_cheap_samples_want_no_workers(self, tmp_path: Path, number: int) -> None:
        path = PROGRAMS / f"example{number}.py"
        ran = Ran("--seconds", "2", "--json", "report.json", str(path), cwd=tmp_path)
        assert ran.status == 0, ran.errors
        report = Report.load(tmp_path / "report.json")
        assert report.data.setting.num_workers == 4
        assert report.verdict.cause is Cause.CHEAP
        assert report.verdict.advice[0].setting == "num_workers=0"

    def test_decoding_is_seen_and_may_be_cached_before_a_random_step(self, tmp_path: Path) -> None:
        """Pillow imports what decodes with the first image, which the program itself never opens."""
        for number in range(8):
            pixels = np.random.default_rng(number).integers(0, 255, (300, 400, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
        write(tmp_path, CROPS)
        ran = Ran("--seconds", "1", "--json", "report.json", "train.py", cwd=tmp_path)
        assert ran.status == 0, ran.errors
        report = Report.load(tmp_path / "report.json")
        samples = report.data.samples
        assert samples is not None
        before, after = dict.fromkeys(("reading", "decoding", "dataset"), True), ("RandomCrop", "ToTensor")
        known = {part.name: part.deterministic for part in samples.parts}
        assert known == {**before, **dict.fromkeys(after, False)}
        decoding = next(part for part in samples.parts if part.name == "decoding")
        assert decoding.wall_s > 0.5 * samples.wall_s
        assert any("penstock.cache(dataset)" in advice.setting for advice in report.verdict.advice)

    def test_the_images_want_no_more_workers_than_cores(self, tmp_path: Path) -> None:
        """As it stands the program fails, as it never imports `time`."""
        (tmp_path / "example2.py").write_text("import time\n" + (PROGRAMS / "example2.py").read_text())
        ran = Ran("--seconds", "2", "--json", "report.json", "example2.py", cwd=tmp_path)
        assert ran.status == 0, ran.errors
        report = Report.load(tmp_path / "report.json")
        assert report.verdict.cause in (Cause.CPU, Cause.STARTUP)
        samples = report.data.samples
        assert samples is not None
        assert [part.name for part in samples.parts if part.kind == "transform"] == [
            "Resize",
            "ToTensor",
            "Normalize",
        ]
        assert {"reading", "decoding"} <= {part.kind for part in samples.parts}
        assert samples.deterministic is True
        settings = [advice.setting for advice in report.verdict.advice]
        workers = [int(each.partition("=")[2]) for each in settings if each.startswith("num_workers=")]
        assert settings, report.verdict
        assert max(workers, default=0) <= len(os.sched_getaffinity(0)), report.verdict
