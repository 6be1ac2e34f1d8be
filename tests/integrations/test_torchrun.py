"""Two processes under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("program", "needs"),
    [
        ("classification", "torchvision"),
        ("lightning_ddp", "lightning"),
        ("accelerate_dispatch", "accelerate"),
    ],
)
def test_two_processes(program: str, needs: str) -> None:
    pytest.importorskip(needs, reason="pip install penstock[integrations]")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", f"tests.integrations.programs.{program}"],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
