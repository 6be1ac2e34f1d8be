"""However a run ends, nothing of it is left, and soon."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock import ClosedError, DataLoader
from penstock.backends.base import GRACE_S
from tests.datasets import Squares

ROOT = Path(__file__).parents[2]
SOON = 5.0

PREAMBLE = """
import os, psutil, signal, sys, time
from penstock import DataLoader
from tests.datasets import Hooked, Squares

def slow(index):
    if index >= 40:
        time.sleep(1000)

def open_loader(method="fork", hook=None, **arguments):
    dataset = Squares(10_000) if hook is None else Hooked(hook, size=10_000)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=method, **arguments)
    iterator = iter(loader)
    next(iterator)
    while len(psutil.Process().children(recursive=True)) < 3:  # the last worker may come after the batch
        os.sched_yield()
    return loader, iterator

def ready():
    print("ready", flush=True)
"""


class Program:
    """A program in a process of its own, that says when it is ready; knows all its descendants."""

    def __init__(self, body: str) -> None:
        text = PREAMBLE + textwrap.dedent(body)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", text],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready", self.process.communicate()[1]
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def assert_all_gone(self, minimum: int = 3) -> None:
        assert len(self.family) >= minimum, "there was something to end"
        start = time.monotonic()
        _, alive = psutil.wait_procs(self.family, timeout=SOON)
        assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
        assert time.monotonic() - start < SOON


@pytest.fixture
def run() -> Iterator[type[Program]]:
    programs: list[Program] = []

    class Kept(Program):
        def __init__(self, body: str) -> None:
            super().__init__(body)
            programs.append(self)

    yield Kept
    for program in programs:
        program.process.kill()
        program.process.communicate()
        for process in program.family:
            if process.is_running():
                process.kill()


@pytest.mark.parametrize(
    ("number", "where"),
    [
        pytest.param(signal.SIGINT, "in the step", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "in next()", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "in the step", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "in next()", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "in the step", marks=pytest.mark.slow),
        (signal.SIGKILL, "in next()"),
    ],
)
def test_a_signal_to_the_main_process(run: type[Program], number: int, where: str) -> None:
    if where == "in the step":
        program = run("loader, iterator = open_loader()\nready()\ntime.sleep(1000)")
    else:
        program = run(
            """
            loader, iterator = open_loader(hook=slow)
            ready()
            for batch in iterator:
                pass
            """
        )
    program.process.send_signal(number)
    _, stderr = program.process.communicate(timeout=60)
    program.assert_all_gone()
    assert program.process.returncode == -number or number == signal.SIGINT
    if number == signal.SIGINT:
        assert stderr.count("Traceback") == 1
        assert "KeyboardInterrupt" in stderr
    else:
        assert stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_sigkill_under_other_start_methods(run: type[Program], method: str) -> None:
    program = run(f"loader, iterator = open_loader({method!r})\nready()\ntime.sleep(1000)")
    program.process.kill()
    program.process.communicate(timeout=60)
    program.assert_all_gone()


def test_ctrl_c_to_the_whole_group_prints_one_traceback() -> None:
    program = PREAMBLE + textwrap.dedent(
        """
        loader, iterator = open_loader(hook=slow)
        ready()
        for batch in iterator:
            pass
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert stderr.count("Traceback") == 1
    _, alive = psutil.wait_procs(family, timeout=SOON)
    assert alive == []


def maps_of(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/maps").read_text()


def template_that_maps(file: str, main: psutil.Process, method: str) -> psutil.Process:
    """Wait for the fresh process that becomes the template, and then until it has loaded a library."""
    words = "spawn_main" if method == "spawn" else "forkserver import main"
    while True:
        for process in main.children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                ours = method == "spawn" or process.ppid() != main.pid  # a child of the fork server
                if ours and words in " ".join(process.cmdline()) and file in maps_of(process):
                    return process
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "moment"),
    [("spawn", "begins"), ("spawn", "imports torch"), ("forkserver", "imports torch")],
)
def test_ctrl_c_while_the_template_starts_prints_one_traceback(method: str, moment: str) -> None:
    program = PREAMBLE + f"open_loader({method!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    library = "libc.so" if moment == "begins" else "libtorch"
    template = template_that_maps(library, psutil.Process(process.pid), method)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert stderr.count("Traceback") == 1
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert psutil.wait_procs([template], timeout=SOON)[1] == []


class SlowlyUnpickled(Squares):
    """Its template takes long to start."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        os.read(os.pipe()[0], 1)


def test_closed_before_a_worker_has_started() -> None:
    """The template, which can't hear, isn't waited for; no user's code has begun."""
    loader = DataLoader(SlowlyUnpickled(), num_workers=1, multiprocessing_context="forkserver")
    iterator = iter(loader)
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < GRACE_S
    with pytest.raises(ClosedError):
        next(iterator)


@pytest.mark.parametrize("workers", [pytest.param("idle", marks=pytest.mark.slow), "on a slow sample"])
def test_interpreter_exit_with_an_open_iterator(run: type[Program], workers: str) -> None:
    hook = "slow" if workers == "on a slow sample" else "None"
    program = run(f"loader, iterator = open_loader(hook={hook})\nready()")
    _, stderr = program.process.communicate(timeout=60)
    program.assert_all_gone(minimum=0)
    assert program.process.returncode == 0
    assert stderr == ""


IN_A_THREAD = """
import threading
opened = []
thread = threading.Thread(target=lambda: opened.append(open_loader()))
thread.start()
thread.join()
ready()
"""
WHILE_A_THREAD_WAITS = """
import threading
loader, iterator = open_loader(hook=slow)
taken = []
def take():
    for batch in iterator:
        taken.append(batch)
threading.Thread(target=take, daemon=True).start()
while len(taken) < 9:
    os.sched_yield()
ready()
"""
IN_A_CHILD = """
def leave_it_open():
    global opened
    opened = open_loader()
def child():
    leave_it_open()
    sys.exit(0)
first = open_loader()
def run_both():
    import multiprocessing
    process = multiprocessing.get_context("fork").Process(target=leave_it_open)
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode
    pid = os.fork()
    if pid == 0:
        child()
    assert os.waitpid(pid, 0)[1] == 0
run_both()
children = [p.pid for p in psutil.Process().children(recursive=True)]
assert len(children) == 3, children
assert len(next(first[1])) == 2
ready()
"""


@pytest.mark.slow
@pytest.mark.parametrize("body", [IN_A_THREAD, WHILE_A_THREAD_WAITS, IN_A_CHILD])
def test_interpreter_exit_with_an_iterator_open_elsewhere(run: type[Program], body: str) -> None:
    program = run(body)
    _, stderr = program.process.communicate(timeout=60)
    program.assert_all_gone(minimum=0)
    assert program.process.returncode == 0
    assert stderr == ""


@pytest.mark.slow
def test_under_pytest_xdist_with_loaders_left_open(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "test_open.py").write_text(
        textwrap.dedent(
            """
            import psutil, pytest
            from penstock import DataLoader
            from tests.datasets import Squares

            kept = []

            @pytest.mark.parametrize("number", range(4))
            def test_open(number, request):
                iterator = iter(DataLoader(Squares(100), batch_size=4, num_workers=2))
                assert next(iterator)[1].tolist() == [0, 1, 2, 3]
                kept.append(iterator)
                assert all(worker.pid for worker in iterator._workers)  # it waits until they have started
                pids = [process.pid for process in psutil.Process().children(recursive=True)]
                (request.path.parent / f"pids{number}").write_text(" ".join(map(str, pids)))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert "4 passed" in done.stdout, done.stdout
    pids = {int(pid) for number in range(4) for pid in (tmp_path / f"pids{number}").read_text().split()}
    assert len(pids) >= 12
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.slow
def test_exit_with_kept_batches_and_persistent_workers(run: type[Program]) -> None:
    program = run(
        """
        loader, iterator = open_loader(persistent_workers=True)
        kept = [next(iterator) for _ in range(50)]
        ready()
        """
    )
    _, stderr = program.process.communicate(timeout=60)
    program.assert_all_gone(minimum=0)
    assert stderr == ""
    assert program.process.returncode == 0


@pytest.mark.slow
def test_a_second_loader_does_not_keep_the_first_ones_workers(run: type[Program]) -> None:
    """Its template is forked with the first one's sockets open, and must let go of them."""
    program = run(
        """
        first = open_loader()
        second = open_loader()
        if os.fork() == 0:
            time.sleep(4)
            os._exit(0)
        ready()
        time.sleep(1000)
        """
    )
    program.process.kill()
    program.process.communicate(timeout=60)
    templates = [p for p in program.family if p.is_running()]
    start = time.monotonic()
    _, alive = psutil.wait_procs(templates, timeout=3)
    assert len(alive) <= 1, "only the user's own forked child may still be there"
    assert time.monotonic() - start < SOON


@pytest.mark.slow
def test_leaving_early_waits_for_the_sample_in_hand_at_most(run: type[Program]) -> None:
    program = run(
        """
        reader, writer = os.pipe()
        def half_a_second(index):
            if index >= 8:
                os.write(writer, b".")
                time.sleep(0.5)
        loader, iterator = open_loader(hook=half_a_second)
        os.read(reader, 1)
        start = time.monotonic()
        del iterator
        took = time.monotonic() - start
        ready()
        print(took, file=sys.stderr)
        """
    )
    _, stderr = program.process.communicate(timeout=60)
    assert float(stderr) < 1.0, "a batch of four takes two seconds"


@pytest.mark.slow
def test_a_worker_that_ignores_sigterm_is_killed(run: type[Program]) -> None:
    program = run(
        """
        def stubborn(index):
            if index >= 8:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    time.sleep(1000)
        loader, iterator = open_loader(hook=stubborn)
        ready()
        sys.stdin.read()
        """
    )
    program.process.communicate(timeout=60)
    program.assert_all_gone(minimum=0)
    assert program.process.returncode == 0
