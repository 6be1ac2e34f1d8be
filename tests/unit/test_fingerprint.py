"""What a cache's key follows: whatever of it changes, the cache is another one."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections import defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import penstock
from penstock.caching.fingerprint import fingerprint

Sample = namedtuple("Sample", "path label")
TOP = "users_"
DATASET = """
{top}
class Data:
    def __getitem__(self, index):
        {inside}
        return {what}
"""


class Holds:
    def __init__(self, value: Any) -> None:
        self.value = value


class Text(str):
    """A text that may have attributes."""


class Number(float):
    """A number that may have attributes."""


class Some(set[int]):
    """A set that may have attributes."""


class Lazy:
    @functools.cached_property
    def value(self) -> int:
        return 1


def key(value: Any) -> str:
    return fingerprint(Holds(value), {})


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes the user's modules, and gives the key of an instance of one's class Data."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith(TOP)]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def key_of(files: dict[str, str]) -> str:
        for name, text in files.items():
            path = tmp_path / f"{TOP}{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        forget()
        return key(importlib.import_module(f"{TOP}data").Data())

    yield key_of
    forget()


@pytest.mark.parametrize(
    ("helper", "top", "inside", "what"),
    [
        ("code", "import users_code", "", "users_code.f(index)"),
        ("code", "import users_code", "", "users_code.FACTOR"),
        ("pack/code", "import users_pack.code", "", "users_pack.code.f(index)"),
        ("pack/code", "from users_pack import code as c", "", "c.f(index)"),
        ("pack/code", "from users_pack.code import f", "", "f(index)"),
        ("code", "", "from users_code import f", "f(index)"),
        ("code", "", "import users_code", "users_code.FACTOR"),
        ("pack/code", "", "import users_pack.code as c", "c.f(index)"),
    ],
)
def test_code_in_another_module(
    users: Callable[..., str], helper: str, top: str, inside: str, what: str
) -> None:
    def files(factor: int) -> dict[str, str]:
        return {
            "pack/__init__": "__version__ = '1.0'",
            helper: f"FACTOR = {factor}\ndef f(index): return FACTOR * index",
            "data": DATASET.format(top=top, inside=inside, what=what),
        }

    assert users(files(2)) == users(files(2))
    assert users(files(2)) != users(files(33))


def test_a_relative_import_in_a_function(users: Callable[..., str]) -> None:
    def files(factor: int) -> dict[str, str]:
        data = DATASET.format(top="", inside="from .code import f", what="f(index)")
        code = f"def f(index): return {factor} * index"
        return {
            "pack/__init__": "",
            "pack/code": code,
            "pack/data": data,
            "data": "from users_pack.data import *",
        }

    assert users(files(2)) != users(files(33))


def test_what_is_installed_is_not_imported_for_a_key() -> None:
    def transform(value: Any) -> Any:
        import hypothesis.vendor.pretty as unusual

        return unusual.pretty(value)

    before = {name for name in sys.modules if name.startswith("hypothesis.vendor")}
    key(transform)
    assert before == {name for name in sys.modules if name.startswith("hypothesis.vendor")}


def described_by(by: int) -> Callable[[], int]:
    def function() -> int:
        return int(vars(function)["by"])

    vars(function)["by"] = by
    return function


def wrapping_by(by: int) -> Callable[[], int]:
    @functools.wraps(os.getcwd)
    def function() -> int:
        return 1 * by

    return function


class Slotted:
    __slots__ = ("scale", "shift")

    def __init__(self, scale: int) -> None:
        self.scale = scale


class OneSlot:
    __slots__ = "scale"

    def __init__(self, scale: int) -> None:
        self.scale = scale


class SlottedBelow(Slotted):
    """Has attributes of its own, too."""


def test_what_stands_in_slots_counts() -> None:
    for kind in (Slotted, OneSlot, SlottedBelow):
        assert key(kind(1)) == key(kind(1))
        assert key(kind(1)) != key(kind(2))


def masked(value: int) -> Any:
    return np.ma.masked_equal([1, 2, 3], value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Text("a"), Text("b")),
        (Number(1), Number(2)),
        (Some([1]), Some([2])),
        (described_by(1), described_by(2)),
        (wrapping_by(1), wrapping_by(2)),
        (masked(1), masked(2)),
        (np.zeros(1, [("a", "i4")]), np.zeros(1, [("b", "i4")])),
        (np.array(["a", 1], object), np.array(["a", 2], object)),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 1j]).conj()),
    ],
)
def test_another_value(one: Any, other: Any) -> None:
    assert key(one) == key(one)
    assert key(one) != key(other)


HOLDERS: dict[str, Callable[[str], Any]] = {
    "a named tuple": lambda path: [Sample(path, 0)],
    "a dict with a default": lambda path: defaultdict(list, {0: [path]}),
    "a queue": lambda path: deque([path]),
    "an array of texts": lambda path: np.array([path]),
    "an array of bytes": lambda path: np.array([path.encode()]),
    "an array of objects": lambda path: np.array([path, None], object),
    "bytes": lambda path: path.encode(),
    "a text of its own class": Text,
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=list(HOLDERS))
def test_files_wherever_their_paths_stand(tmp_path: Path, hold: Callable[[str], Any]) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    before = key(hold(str(file)))
    assert before == key(hold(str(file)))
    file.write_text("three")
    assert before != key(hold(str(file)))


def test_files_behind_a_link_to_a_folder(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    elsewhere.mkdir()
    root.mkdir()
    (root / "link").symlink_to(elsewhere)
    (elsewhere / "around").symlink_to(root)
    (elsewhere / "file").write_text("one")
    before = key(root)
    assert before == key(root)
    (elsewhere / "file").write_text("three")
    assert before != key(root)


def test_tables_count_by_their_content_and_their_paths(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    file = tmp_path / "file"
    file.write_text("one")

    def table(label: int) -> Any:
        return pandas.DataFrame({"path": [str(file), "b"], "label": [0, label]})

    used = table(1)
    used["label"].sum()  # it keeps notes of that
    before = key(used)
    assert before == key(table(1)) != key(table(2))
    assert key(table(1)["label"]) != key(table(2)["label"])
    file.write_text("three")
    assert before != key(table(1))


def test_dots_and_slashes_in_code_are_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def transform(path: str, separator: str = ".") -> list[str]:
        return path.replace("/", "..").split(separator)

    monkeypatch.chdir(tmp_path)
    before = key(transform)  # looking at all of "/" would take minutes
    (tmp_path / "log").write_text("more")
    assert before == key(transform)


def test_a_lock_does_not_count() -> None:
    assert key(Lazy()) == key(Lazy())


class OfFolder(torch.utils.data.Dataset[Any]):
    def __init__(self, root: Path) -> None:
        self.root = root

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return (self.root / "file").read_bytes(), index


@pytest.mark.parametrize("below", [".", "cache"])
def test_a_cache_may_lie_in_the_dataset_s_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"one")
    for there, text in ((0, b"one"), (10, b"one"), (0, b"three")):
        (tmp_path / "file").write_bytes(text) if not there else None
        cached = penstock.cache(OfFolder(tmp_path), disk=tmp_path / below)
        assert cached.stats().on_disk == there
        assert [cached[index] for index in range(10)] == [(text, index) for index in range(10)]
        cached.flush()


counted = 0
"""Of the same name as an attribute of `Counted`, which has nothing to do with it."""


class Counted:
    def __init__(self) -> None:
        self.counted = 3

    def __getitem__(self, index: int) -> int:
        return self.counted + index


def test_a_global_of_an_attributes_name_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(Counted())
    monkeypatch.setattr(f"{__name__}.counted", open)
    assert key(Counted()) == before
