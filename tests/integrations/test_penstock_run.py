"""Programs of the frameworks' users under `penstock run`, which don't know of us."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.parametrize(
    ("program", "needs", "batches"),
    [("timm_train", "timm", 24), ("monai_load", "monai", 30), ("trainer", "transformers", 32)],
)
def test_the_same_output(program: str, needs: str, batches: int, tmp_path: Path) -> None:
    pytest.importorskip(needs, reason="pip install penstock[integrations]")
    script = str(PROGRAMS / f"{program}.py")
    both = []
    for name, runner in (("plain", []), ("ours", ["-m", "penstock", "run"])):
        folder = tmp_path / name
        folder.mkdir()
        both.append(
            subprocess.Popen(
                [sys.executable, *runner, script, str(folder)],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=110) for process in both]
    for process, (_, errors) in zip(both, outputs, strict=True):
        assert process.returncode == 0, errors
    assert outputs[1][0] == outputs[0][0] != ""
    told = re.search(r"^penstock: waited [\d.]+ s for (\d+) batches", outputs[1][1], re.MULTILINE)
    assert told is not None, outputs[1][1]
    assert int(told[1]) == batches
