"""Exceptions on their way from a worker."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError

import pytest

from penstock.backends.processes.failures import attach, dump, load
from penstock.errors import BatchTooLargeError, WorkerError, annotate


class TwoParts(Exception):
    def __init__(self, path: str, line: int) -> None:
        super().__init__(f"{path}, line {line}")
        self.path, self.line = path, line


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Prefixes(Exception):
    """Rebuilding it by its constructor would say "bad: bad:"."""

    def __init__(self, what: str) -> None:
        super().__init__(f"bad: {what}")


class NeverCallsSuper(Exception):
    def __init__(self, one: int, two: int) -> None:
        self.sum = one + two


class DownloadError(OSError):
    def __init__(self, url: str, code: int) -> None:
        super().__init__(code, f"no {url}")
        self.url = url


class MissingFile(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "No such file or directory", path)


@dataclass(frozen=True)
class Frozen(Exception):
    line: int
    text: str


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def sent(error: BaseException) -> BaseException:
    return load(dump(error))


ERRORS: list[BaseException] = [
    KeyError("missing"),
    ValueError(),
    ValueError("a", 1, (2, 3)),
    StopIteration(5),
    UnicodeDecodeError("utf-8", b"\xff\xfe", 0, 1, "invalid start byte"),
    FileNotFoundError(2, "No such file or directory", "/nowhere/a.jpg"),
    TwoParts("train.csv", 7),
    KeywordOnly(code=3),
    Prefixes("weather"),
    NeverCallsSuper(1, 2),
    DownloadError("http://localhost/a", 404),
    MissingFile("/nowhere/a.jpg"),
    Frozen(1, "a"),
    ExceptionGroup("several", [KeyError("a"), ValueError(1)]),
    BatchTooLargeError(2, 1, "the memory left is"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_an_exception_arrives_as_itself(error: BaseException) -> None:
    got = sent(error)
    assert type(got) is type(error)
    assert (str(got), repr(got.args)) == (str(error), repr(error.args))
    assert repr(vars(got)) == repr(vars(error))


def test_a_group_arrives_with_each_of_its_exceptions_as_itself() -> None:
    inner = ExceptionGroup("inner", [Prefixes("weather"), KeyError("a")])
    got = sent(ExceptionGroup("several", [TwoParts("train.csv", 7), inner]))
    assert isinstance(got, ExceptionGroup)
    parts, others = got.split(TwoParts)
    assert parts is not None
    assert others is not None
    assert str(parts.exceptions[0]) == "train.csv, line 7"
    assert [str(error) for error in others.exceptions[0].exceptions] == ["bad: weather", "'a'"]


@pytest.mark.parametrize("kind", [FileNotFoundError, MissingFile])
def test_what_the_system_said_is_kept(kind: Any) -> None:
    arguments = (2, "No such file or directory") if kind is FileNotFoundError else ()
    got = sent(kind(*arguments, "/nowhere/a.jpg"))
    assert isinstance(got, kind)
    assert (got.errno, got.strerror, got.filename) == (2, "No such file or directory", "/nowhere/a.jpg")


def test_where_decoding_failed_is_kept() -> None:
    got = sent(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
    assert isinstance(got, UnicodeDecodeError)
    assert (got.object, got.start, got.end) == (b"\xff", 0, 1)


def test_an_http_error_arrives_as_itself() -> None:
    with HTTPError("http://localhost/a", 404, "Not Found", None, None) as error:  # type: ignore[arg-type]
        got = sent(error)
    assert isinstance(got, HTTPError)
    assert (got.code, got.msg) == (404, "Not Found")


@pytest.mark.parametrize("error", [KeyError("a"), TwoParts("b", 1)], ids=lambda e: type(e).__name__)
def test_notes_are_kept(error: BaseException) -> None:
    error.add_note("look here")
    assert sent(error).__notes__ == ["look here"]


def test_a_class_that_only_the_worker_knows_is_told_by_name() -> None:
    class Local(ValueError):
        pass

    got = sent(Local("went wrong"))
    assert isinstance(got, WorkerError)
    assert got.type_name.endswith("Local")
    assert got.type_name.startswith(__name__)
    assert str(got).endswith("Local: went wrong")


def test_notes_are_kept_where_something_else_cannot_be_sent() -> None:
    error = ValueError("went wrong")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    error.add_note("look here")
    assert sent(error).__notes__ == ["look here"]


@pytest.mark.parametrize("in_args", [True, False])
def test_what_holds_something_that_cannot_be_pickled_keeps_its_type_and_message(in_args: bool) -> None:
    lock: Any = threading.Lock()
    error = ValueError("went wrong", lock) if in_args else ValueError("went wrong")
    error.lock = lock  # type: ignore[attr-defined]
    got = sent(error)
    assert type(got) is ValueError
    assert "went wrong" in str(got)


def test_an_exception_whose_text_raises_still_arrives() -> None:
    assert isinstance(sent(Speechless("quiet")), Speechless)


def test_a_class_whose_text_raises_and_that_cannot_be_sent_is_told_by_name() -> None:
    class Local(Speechless):
        pass

    got = sent(Local())
    assert isinstance(got, WorkerError)
    assert "Local" in str(got)


@pytest.mark.parametrize("error", [KeyError("a"), Frozen(1, "a")], ids=lambda e: type(e).__name__)
def test_the_workers_traceback_becomes_the_cause(error: BaseException) -> None:
    attach(error, "Traceback (most recent call last):\n  in dataset\n")
    annotate(error, "in batch 3")
    assert "in dataset" in str(error.__cause__)
    assert "in batch 3" in "".join(traceback.format_exception(error))
