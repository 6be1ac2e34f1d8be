"""The exceptions: their texts, and that they survive pickling."""

from __future__ import annotations

import inspect
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest

from penstock import errors
from penstock.errors import (
    BatchNotSendableError,
    BatchTimeoutError,
    BatchTooLargeError,
    ClosedError,
    DamagedShardError,
    DatasetNotSendableError,
    NotFingerprintableError,
    NotRepeatableError,
    NotStorableError,
    PenstockError,
    PrepareError,
    SampleInHand,
    SampleTimeoutError,
    StateError,
    TooManyErrorsError,
    WorkerDiedError,
    WorkerError,
    WorkerTraceback,
    describe_exit,
    human_bytes,
)

SAMPLE = SampleInHand(3, ("key", 7))
ONE_OF_EACH: list[PenstockError] = [
    PenstockError("just so"),
    NotFingerprintableError("dataset.file", "File"),
    NotRepeatableError("Images", "a random number is drawn."),
    NotStorableError(dict, "it is a key of a dict"),
    DamagedShardError(Path("x.arrow"), "it is cut short"),
    PrepareError("the disk is full"),
    StateError("it differs"),
    ClosedError("closed"),
    WorkerError("package.Odd", "went wrong"),
    WorkerTraceback("Traceback (most recent call last): ..."),
    WorkerDiedError.of(2, 4711, -9, SAMPLE),
    WorkerDiedError.of(None, 4711, None, None),
    BatchTimeoutError.of(5, 1.5, [(0, 10, SAMPLE), (1, 11, None)], ["worker 0: in f"]),
    SampleTimeoutError(1, 11, SAMPLE, 2.5, "in f"),
    TooManyErrorsError(5, 100, 4, ["5 x ValueError"], "dataset[3]"),
    DatasetNotSendableError("spawn", "the dataset", "no such thing"),
    BatchNotSendableError("Lock", "no such thing"),
    BatchTooLargeError(2_000_000, 1_000, "the memory left is"),
]


def public_state(error: BaseException) -> dict[str, Any]:
    return {name: value for name, value in vars(error).items() if name != "__notes__"}


def test_one_of_each_is_tried_here() -> None:
    ours = {
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PenstockError)
    }
    assert ours == {type(error) for error in ONE_OF_EACH}


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("protocol", [2, 5])
def test_errors_pickle_with_their_text_and_attributes(error: PenstockError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert (str(again), again.args) == (str(error), error.args)
    assert public_state(again) == public_state(error)


def test_notes_are_pickled_too() -> None:
    error = ClosedError("closed")
    error.add_note("by the test")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["by the test"]


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ClosedError, RuntimeError),
        (WorkerError, RuntimeError),
        (WorkerDiedError, RuntimeError),
        (BatchTimeoutError, RuntimeError),
        (DatasetNotSendableError, TypeError),
        (BatchNotSendableError, TypeError),
        (BatchTooLargeError, MemoryError),
    ],
)
def test_errors_can_be_caught_by_a_builtin_kind(kind: type, builtin: type) -> None:
    assert issubclass(kind, builtin)
    assert issubclass(kind, PenstockError)


@pytest.mark.parametrize("kind", [WorkerDiedError, BatchTimeoutError])
def test_what_is_a_runtime_error_in_torch_can_be_made_from_its_message(kind: type[RuntimeError]) -> None:
    """As torch's own tests do, and code that carries errors from process to process."""
    error = next(error for error in ONE_OF_EACH if type(error) is kind)
    again = kind(str(error))
    assert str(again) == str(error)
    assert set(public_state(error)) <= set(dir(again))


def test_the_tree_in_the_modules_text_names_every_public_error() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if inspect.isclass(kind) and issubclass(kind, PenstockError) and kind is not WorkerTraceback:
            assert name in str(errors.__doc__)


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (None, "exited unexpectedly"),
        (0, "exited unexpectedly with exit code 0"),
        (3, "exited unexpectedly with exit code 3"),
        (-signal.SIGKILL, "is killed by signal: Killed (SIGKILL)"),
        (-signal.SIGSEGV, "is killed by signal: Segmentation fault (SIGSEGV)"),
        (-200, "is killed by signal: 200"),
    ],
)
def test_how_a_process_ended_is_told_in_words(exitcode: int | None, words: str) -> None:
    assert describe_exit(exitcode) == words


def test_a_worker_killed_for_memory_is_told_with_its_sample_and_remedy() -> None:
    text = str(WorkerDiedError.of(2, 4711, -signal.SIGKILL, SAMPLE))
    assert text.startswith("DataLoader worker (pid 4711) is killed by signal: Killed")
    assert "worker 2, on dataset[('key', 7)] for batch 3" in text
    assert "fewer workers" in text


def test_a_crash_is_told_with_how_to_see_it() -> None:
    assert "dataset[('key', 7)]" in str(WorkerDiedError.of(0, 1, -signal.SIGSEGV, SAMPLE)).split("crashed")[1]


def test_the_templates_death_names_no_sample() -> None:
    text = str(WorkerDiedError.of(None, 1, -signal.SIGTERM, None))
    assert "template process" in text
    assert "sample" not in text


def test_a_timeout_names_every_busy_worker() -> None:
    text = str(BatchTimeoutError.of(5, 1.5, [(0, 10, SAMPLE), (1, 11, None)]))
    assert "batch 5" in text
    assert text.startswith("DataLoader timed out after 1.5 seconds")
    assert "worker 0 (pid 10) is on dataset[('key', 7)] for batch 3" in text
    assert "worker 1 (pid 11) is between samples" in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (38_535_168, "38.5 MB"),
        (2_000_000_000, "2.0 GB"),
        (3.21e12, "3.2 TB"),
        (5e15, "5000.0 TB"),
        (999_999, "1.0 MB"),
    ],
)
def test_bytes_are_told_for_a_person_to_read(count: float, text: str) -> None:
    assert human_bytes(count) == text
