"""What goes wrong in a worker reaches the caller, named; the rest of the epoch can still be had."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from penstock import (
    BatchNotSendableError,
    BatchTimeoutError,
    BatchTooLargeError,
    DataLoader,
    DatasetNotSendableError,
    WorkerDiedError,
    WorkerError,
)
from tests.conftest import our_children
from tests.datasets import Fails, Hooked, Kills, Squares


class TwoArguments(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} because of {reason}")
        self.code, self.reason = code, reason


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad value"),
        KeyError("missing"),
        FileNotFoundError(2, "No such file", "/no/such/file"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        TwoArguments(7, "rust"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_exception_keeps_its_type_and_says_where(error: Exception, workers: int) -> None:
    loader = DataLoader(Fails(error, bad=5), batch_size=2, num_workers=workers)
    with pytest.raises(type(error)) as caught:
        list(loader)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    shown = "".join(traceback.format_exception(caught.value))
    assert "dataset[5]" in shown
    assert "batch 2" in shown
    assert "in __getitem__" in shown  # the frame that raised, wherever it ran
    if workers:
        assert "raised in worker" in shown
    caught.value.__traceback__ = None


@pytest.mark.parametrize("workers", [0, 2])
def test_after_an_exception_the_next_batches_come(workers: int) -> None:
    iterator = iter(DataLoader(Fails(ValueError("x"), bad=5), batch_size=2, num_workers=workers))
    labels, errors = [], 0
    while True:
        try:
            labels.append(next(iterator)[1].tolist())
        except ValueError:
            errors += 1
        except StopIteration:
            break
    assert errors == 1
    assert labels == [[i, i + 1] for i in range(0, 20, 2) if i != 4]


def test_of_several_bad_samples_the_first_is_reported() -> None:
    def all_bad(index: int) -> None:
        raise ValueError(f"sample {index}")

    for _ in range(5):
        with pytest.raises(ValueError, match="sample 0"):
            next(iter(DataLoader(Hooked(all_bad), batch_size=8, num_workers=2)))


def test_an_exception_that_cannot_be_rebuilt() -> None:
    class Local(Exception):
        pass

    def fail(_: int) -> None:
        raise Local("of a class that pickle can't find")

    with pytest.raises(WorkerError, match="Local: of a class that pickle can't find"):
        list(DataLoader(Hooked(fail), batch_size=2, num_workers=1))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_named_with_its_sample(number: int, workers: int) -> None:
    loader = DataLoader(Kills(number, bad=5), batch_size=2, num_workers=workers)
    with pytest.raises(WorkerDiedError) as caught:
        list(loader)
    error = caught.value
    assert error.exitcode == -number
    assert error.sample is not None
    assert (error.sample.batch, error.sample.index) == (2, 5)
    assert f"DataLoader worker (pid {error.pid}) is killed by signal: " in str(error)
    assert f"({signal.Signals(number).name})" in str(error)
    assert f"worker {error.worker}, on dataset[5] for batch 2" in str(error)
    assert isinstance(error, RuntimeError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    loader.close()
    assert our_children() == []


def test_a_worker_that_exits_by_itself() -> None:
    def leave(index: int) -> None:
        if index == 3:
            os._exit(41)

    with pytest.raises(WorkerDiedError, match=r"exit code 41. It was worker \d, on dataset"):
        list(DataLoader(Hooked(leave), batch_size=2, num_workers=2))


def the_template() -> psutil.Process:
    (template,) = (child for child in our_children() if child.ppid() == os.getpid())
    return template


def test_the_death_of_the_template_is_told() -> None:
    iterator = iter(DataLoader(Squares(10_000), batch_size=2, num_workers=2))
    next(iterator)
    the_template().kill()
    with pytest.raises(WorkerDiedError, match="template process"):
        list(iterator)
    assert our_children() == []


def test_a_worker_killed_while_it_does_nothing_is_replaced() -> None:
    loader = DataLoader(Squares(4), batch_size=2, num_workers=1, persistent_workers=True)
    list(loader)
    (worker,) = the_template().children()
    worker.kill()
    worker.wait(10)
    assert len(list(loader)) == 2
    assert our_children() != []
    loader.close()


def test_timeout_names_worker_and_sample() -> None:
    release = os.pipe()

    def hang(index: int) -> None:
        if index == 3:
            os.read(release[0], 1)

    loader = DataLoader(Hooked(hang, size=8), batch_size=2, num_workers=2, timeout=3)
    iterator = iter(loader)
    assert next(iterator)[1].tolist() == [0, 1]
    with pytest.raises(BatchTimeoutError, match=r"batch 1 .*\n.*worker \d.*dataset\[3\] for batch 1"):
        next(iterator)
    os.write(release[1], b"x")
    assert next(iterator)[1].tolist() == [2, 3]
    del iterator
    for fd in release:
        os.close(fd)


class Unsendable(Squares):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_dataset_that_cannot_be_sent(method: str) -> None:
    loader = DataLoader(Unsendable(), num_workers=2, multiprocessing_context=method)
    with pytest.raises(DatasetNotSendableError, match=rf"'lock' of the dataset \(Unsendable\).*{method}"):
        iter(loader)


class BreaksOnArrival(Squares):
    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ConnectionError("the server is not there")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_dataset_that_cannot_be_loaded_in_the_worker(method: str) -> None:
    loader = DataLoader(BreaksOnArrival(), num_workers=1, multiprocessing_context=method)
    with pytest.raises(ConnectionError, match="the server is not there"):
        list(loader)


class Generators(Squares):
    def __getitem__(self, index: int) -> Any:
        return (i for i in range(index))


def first(samples: list[Any]) -> Any:
    return samples[0]


def test_a_batch_that_cannot_be_sent() -> None:
    loader = DataLoader(Generators(), batch_size=2, num_workers=2, collate_fn=first)
    with pytest.raises(BatchNotSendableError, match="type generator can't be sent"):
        list(loader)


class Huge(Squares):
    """A terabyte a sample, of one element's memory."""

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(1).expand(1 << 38)


def test_a_batch_larger_than_the_memory_there_is() -> None:
    with pytest.raises(BatchTooLargeError, match=r"a batch needs [\d.]+ TB.*batch_size"):
        list(DataLoader(Huge(), batch_size=2, num_workers=2))


@pytest.mark.parametrize("collate_fn", [None, first], ids=["rows", "block"])
def test_a_batch_over_what_is_left(collate_fn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure that the machine gives decides, before any memory is taken."""
    main = os.getpid()
    monkeypatch.setattr(
        "penstock.arena.memory.available_memory", lambda: (16 << 30) if os.getpid() == main else 100_000_000
    )
    loader = DataLoader(Squares(8, width=100_000_000), batch_size=1, num_workers=1, collate_fn=collate_fn)
    with pytest.raises(BatchTooLargeError, match=r"needs 400\.0 MB, and .* left is 100\.0 MB"):
        list(loader)


def test_errors_in_the_sampler_are_the_callers() -> None:
    def sampler() -> Any:
        yield from (1, 2, 3)
        raise RuntimeError("the sampler's")

    class Broken:
        def __iter__(self) -> Any:
            return sampler()

    loader = DataLoader(Squares(10), batch_size=1, sampler=Broken(), num_workers=2)  # type: ignore[arg-type]
    iterator = iter(loader)
    assert [next(iterator)[1].item() for _ in range(3)] == [1, 2, 3], "what came before isn't lost"
    with pytest.raises(RuntimeError, match="the sampler's"):
        next(iterator)
    assert list(iterator) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "batches", [[[1], 5, [2], None, [3]], [3, [1]], [0] * 100], ids=["one", "first", "all"]
)
def test_what_is_no_batch_is_a_batch_that_fails(batches: Any, workers: int) -> None:
    def results(kind: Any) -> list[Any]:
        iterator = iter(kind(list(range(10)), batch_sampler=batches, num_workers=workers))
        seen: list[Any] = []
        while True:
            try:
                seen.append(next(iterator).tolist())
            except StopIteration:
                return seen
            except TypeError as error:
                seen.append(str(error).splitlines()[-1].removeprefix("TypeError: "))

    assert results(DataLoader) == results(torch.utils.data.DataLoader)


def test_indices_that_cannot_be_sent_fail_one_by_one() -> None:
    locks: Any = [threading.Lock() for _ in range(100)]
    iterator = iter(DataLoader(Squares(10), batch_size=None, sampler=locks, num_workers=2))
    for _ in locks:
        with pytest.raises(TypeError, match="cannot pickle"):
            next(iterator)
    assert list(iterator) == []


@pytest.mark.slow
def test_output_of_workers_is_not_doubled(tmp_path: Path) -> None:
    """What the main process had not yet flushed comes out once."""
    import subprocess
    import sys

    program = """
import sys
from penstock import DataLoader
from tests.datasets import Hooked
def say(index):
    if index == 0:
        print("worker")
sys.stdout.write("main ")
list(DataLoader(Hooked(say, size=4), batch_size=2, num_workers=2))
"""
    out = tmp_path / "out"
    with out.open("w") as file:
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-c", program], stdout=file, check=True, cwd=root, timeout=60)
    assert sorted(out.read_text().split()) == ["main", "worker"]


class Unpicklable:
    """An index that can't be sent."""

    def __reduce__(self) -> Any:
        raise TypeError("an index that can't be sent")


def test_indices_that_cannot_be_sent() -> None:
    loader = DataLoader(Squares(10), batch_sampler=[[0], [Unpicklable()], [2]], num_workers=2)  # type: ignore[list-item]
    iterator = iter(loader)
    assert next(iterator)[1].tolist() == [0]
    with pytest.raises(TypeError, match="an index that can't be sent"):
        next(iterator)
    assert next(iterator)[1].tolist() == [2]
    assert list(iterator) == []


@pytest.mark.slow
def test_a_stuck_worker_does_not_stop_the_next_epoch() -> None:
    """Persistent workers, a sample that never ends, and a timeout: the next epoch has new workers."""
    stuck = [True]

    def hang(index: int) -> None:
        if index == 3 and stuck[0]:
            threading.Event().wait()

    loader = DataLoader(Hooked(hang, size=8), batch_size=2, num_workers=1, timeout=2, persistent_workers=True)
    with pytest.raises(BatchTimeoutError):
        list(loader)
    stuck[0] = False
    assert len(list(loader)) == 4
    loader.close()


def test_an_exception_of_a_module_that_only_the_worker_has(tmp_path: Path) -> None:
    (tmp_path / "only_there.py").write_text("class Odd(Exception):\n    pass\n")

    def fail(index: int) -> None:
        if index == 5:
            import sys

            sys.path.insert(0, str(tmp_path))
            import only_there

            raise only_there.Odd("of another module")

    iterator = iter(DataLoader(Hooked(fail, size=8), batch_size=2, num_workers=1))
    assert [next(iterator)[1].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(WorkerError, match="Odd: of another module"):
        next(iterator)
    assert next(iterator)[1].tolist() == [6, 7]
    iterator.close()


class ScriptError(Exception):
    pass


def test_exceptions_that_hold_what_cannot_be_sent() -> None:
    for error in (ValueError(object()), ValueError("bad", threading.Lock())):
        with pytest.raises(ValueError, match=r"object|bad"):
            list(DataLoader(Fails(error, bad=1), batch_size=2, num_workers=1))


def test_ctrl_c_while_workers_are_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.backends.processes import backend

    start = backend.ProcessesBackend._start_worker

    def interrupted(self: Any, control: Any, number: int) -> None:
        start(self, control, number)
        if number == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(backend.ProcessesBackend, "_start_worker", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            iter(DataLoader(Squares(8), batch_size=2, num_workers=2))
    assert our_children() == []
