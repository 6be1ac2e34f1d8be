"""Libraries have one thread in a worker, as torch has, unless the user says otherwise there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from penstock import DataLoader
from penstock.backends.processes.threads import VARIABLES

ROOT = Path(__file__).parent.parent
METHODS = ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in ("forkserver", "spawn"))]


def pools() -> dict[str, int]:
    """The number of threads of each library that is loaded, by its file."""
    return {each["filepath"]: each["num_threads"] for each in threadpool_info()}


class Counts:
    """Samples are what a worker has of threads, after `prepare` and some work."""

    def __init__(self, prepare: Callable[[], Any] = int) -> None:
        self.prepare = prepare

    def __len__(self) -> int:
        return 2

    def __getitem__(self, _: int) -> dict[str, Any]:
        self.prepare()
        torch.mm(torch.ones(300, 300), torch.ones(300, 300))
        (torch.ones(300, 300).numpy() @ torch.ones(300, 300).numpy()).sum()
        cv2 = sys.modules.get("cv2")
        return {
            "pools": pools(),
            "torch": torch.get_num_threads(),
            "cv2": cv2.getNumThreads() if cv2 else None,
            "variables": {name: os.environ.get(name) for name in VARIABLES},
            "alive": len(os.listdir("/proc/self/task")),
        }


def first(dataset: Any, **options: Any) -> dict[str, Any]:
    with DataLoader(dataset, batch_size=None, num_workers=1, **options) as loader:
        sample: dict[str, Any] = next(iter(loader))
        return sample


def import_cv2() -> None:
    """As datasets do that open files by it."""
    if importlib.util.find_spec("cv2"):
        importlib.import_module("cv2")


@pytest.mark.parametrize("method", METHODS)
def test_one_thread_in_a_worker_and_as_many_as_before_in_the_main_process(method: str) -> None:
    environment = dict(os.environ)
    with threadpool_limits(limits=2):
        before = pools()
        assert 2 in before.values()
        found = first(Counts(import_cv2), multiprocessing_context=method)
        assert pools() == before
    assert set(found["pools"].values()) == {1}
    assert set(found["pools"]) >= {path for path in before if "torch" in path or "numpy" in path}
    assert found["torch"] == 1
    assert found["cv2"] in (1, None)
    assert found["variables"] == VARIABLES
    assert found["alive"] == 1 if method == "fork" else found["alive"] >= 1
    assert dict(os.environ) == environment


def test_opencv_with_threads_before_the_fork() -> None:
    """In a process of its own: OpenCV's threads, once started, stay."""
    pytest.importorskip("cv2")
    program = """
import cv2, numpy
from tests.test_threads import Counts, first
image = numpy.ones((2000, 2000, 3), numpy.uint8)
def work():
    assert cv2.resize(image, (500, 500)).mean() == 1
cv2.setNumThreads(3)
work()
def two(_):
    cv2.setNumThreads(2)
if __name__ == "__main__":
    assert first(Counts(work))["cv2"] == 1
    assert first(Counts(work), worker_init_fn=two)["cv2"] == 2
    assert cv2.getNumThreads() == 3
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stderr) == (0, "")


def two_threads(_: int) -> None:
    torch.set_num_threads(2)
    threadpool_limits(limits=2)
    os.environ["OPENCV_FOR_THREADS_NUM"] = "2"


def test_what_worker_init_fn_sets_counts() -> None:
    """By spawn: forked from a process that had used them, OpenMP's threads wait for ever, as under torch."""
    found = first(Counts(), worker_init_fn=two_threads, multiprocessing_context="spawn")
    assert set(found["pools"].values()) == {2}
    assert found["torch"] == 2
