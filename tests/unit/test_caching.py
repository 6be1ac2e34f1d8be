"""The parts of the cache: sizes, what is stored when memory is short, rows, packing, shared memory."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from penstock.caching import memory as memory_module
from penstock.caching.budget import BUCKETS, admits, bucket_of, bytes_of
from penstock.caching.memory import MemoryStore
from penstock.caching.packing import NotPackable, pack, size_of, unpack
from penstock.caching.rows import RowTable, format_of
from penstock.caching.segment import Segment
from penstock.collate import Irregular
from penstock.machine import available_memory
from penstock.pipeline import Marks
from penstock.tree import LEAF
from tests.equality import difference

NO_MARKS = Marks(LEAF, (), ())


class Pair(NamedTuple):
    picture: Any
    label: Any


@pytest.mark.parametrize(
    ("memory", "nbytes"),
    [
        (5000, 5000),
        ("5000", 5000),
        ("8GB", 8 * 10**9),
        ("1.5 gb", 15 * 10**8),
        ("2MiB", 2 << 20),
        ("3k", 3000),
    ],
)
def test_sizes(memory: Any, nbytes: int) -> None:
    assert bytes_of(memory) == nbytes


def test_a_share_is_of_what_is_free() -> None:
    assert 0.2 * available_memory() < bytes_of(0.25) < 0.3 * available_memory()


@pytest.mark.parametrize("memory", ["8 apples", "", "GB", "0", "0.5", "0.5B", 0, -5, float("nan"), "-3GB"])
def test_what_is_no_size_is_refused(memory: Any) -> None:
    with pytest.raises(ValueError, match="memory should be"):
        bytes_of(memory)


@pytest.mark.parametrize("memory", [True, None, [5]])
def test_what_is_no_kind_of_size_is_refused(memory: Any) -> None:
    with pytest.raises(TypeError, match="memory should be"):
        bytes_of(memory)


def test_a_sample_has_to_leave_room_for_better_ones() -> None:
    seen, stored = [0] * BUCKETS, [0] * BUCKETS
    seen[20], seen[30] = 500, 500
    assert admits(1500, 100, 20, seen, stored, share_seen=0.5)  # the better ones will take 1000
    assert not admits(1000, 100, 20, seen, stored, share_seen=0.5)
    assert admits(1000, 100, 30, seen, stored, share_seen=0.5)
    stored[30] = 1000
    assert not admits(1000, 100, 30, seen, stored, share_seen=1.0)


def test_time_saved_per_byte_is_what_counts() -> None:
    assert bucket_of(1e-3, 1000) > bucket_of(1e-3, 100_000) > bucket_of(1e-6, 100_000)
    assert 0 <= bucket_of(0, 10**12) <= bucket_of(10**9, 0) < BUCKETS


ROWS: dict[str, Any] = {
    "tensor": torch.arange(6.0).reshape(2, 3),
    "picture": torch.arange(24, dtype=torch.uint8).reshape(2, 4, 3).permute(2, 0, 1),
    "channels last": torch.rand(1, 3, 4, 5).to(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
    "unsigned": torch.tensor([1, 65535], dtype=torch.uint16),
    "array": np.arange(6, dtype=np.int16).reshape(2, 3),
    "turned array": np.arange(6.0).reshape(2, 3).T,
    "numbers": {"int": -(2**63), "float": 0.1, "bool": True, "scalar": np.float32(0.1), "0-d": np.array(3)},
    "nested": Pair([torch.zeros(()), np.int8(-3)], (torch.empty(0, 3), 2)),
}


@pytest.mark.parametrize("sample", ROWS.values(), ids=ROWS.keys())
def test_rows_give_back_what_was_written(sample: Any) -> None:
    form = format_of(sample, NO_MARKS)
    table = RowTable(form, np.zeros(form.nbytes(3), np.uint8), 3)
    assert table.fits(sample, NO_MARKS)
    assert table.write(1, sample)
    read = table.read(1)
    assert difference(sample, read) is None
    assert strides(read) == strides(sample)


def strides(sample: Any) -> Any:
    """Of a tensor or an array, where they mean anything."""
    if not isinstance(sample, torch.Tensor | np.ndarray):
        return None
    found = sample.stride() if isinstance(sample, torch.Tensor) else sample.strides
    return [stride for stride, size in zip(found, sample.shape, strict=True) if size > 1]


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, 4),
        torch.zeros(2, 3, dtype=torch.int64),
        np.zeros((2, 3), np.float32),
        torch.zeros(3, 2).T,
        torch.zeros(2, 3, requires_grad=True),
        torch.zeros(2, 6)[:, ::2],
        [torch.zeros(2, 3)],
        "text",
        None,
    ],
)
def test_what_is_unlike_is_no_row(other: Any) -> None:
    form = format_of(torch.zeros(2, 3), NO_MARKS)
    assert not RowTable(form, np.zeros(form.nbytes(1), np.uint8), 1).fits(other, NO_MARKS)


def test_numbers_that_are_too_large_are_no_row() -> None:
    form = format_of(5, NO_MARKS)
    assert not RowTable(form, np.zeros(form.nbytes(1), np.uint8), 1).write(0, 2**63)
    with pytest.raises(Irregular):
        format_of("text", NO_MARKS)


class Local:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Local) and difference(self.value, other.value) is None

    def __hash__(self) -> int:
        return 0


PACKED: dict[str, Any] = {
    **ROWS,
    "strings": ["a", b"b", None, 2**70, 1 + 2j, {"ä": ...}],
    "part": torch.arange(12).reshape(3, 4)[1:3],
    "sparse": torch.eye(3).to_sparse(),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "fields": np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
    "objects": np.array([{"a": 1}, None], object),
    "image": Image.new("RGB", (5, 4), (1, 2, 3)),
    "palette": Image.new("RGB", (5, 4), (1, 2, 3)).convert("P"),
    "grey": Image.new("L", (3, 3), 7),
    "boxes": tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(5, 5)),
    "own class": Local(torch.ones(2)),
}


@pytest.mark.parametrize("sample", PACKED.values(), ids=PACKED.keys())
def test_packing_gives_back_what_was_packed(sample: Any) -> None:
    pieces = pack(sample)
    block = np.frombuffer(b"".join(pieces), np.uint8).copy()
    assert len(block) == size_of(pieces)
    again = unpack(block)
    block[:] = 0  # what came back is its own
    if isinstance(sample, Image.Image):
        assert again == sample
    else:
        assert difference(sample, again) is None


def test_what_cannot_be_pickled_is_not_packed() -> None:
    with pytest.raises(NotPackable, match="TypeError"):
        pack([threading.Lock()])


def test_a_segment_is_the_same_memory_in_another_process() -> None:
    segment = Segment.create(1 << 20)
    code = f"import pickle, sys; pickle.loads({pickle.dumps(segment)!r}).bytes[5] = 77"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert segment.bytes[5] == 77


def test_a_segment_that_cannot_be_had_closes_its_descriptor_once() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no room for a cache") as raised:
        Segment.create(1 << 60)
    assert set(os.listdir("/proc/self/fd")) == before
    again = os.open(os.devnull, os.O_RDONLY)  # likely under the same number
    del raised
    gc.collect()
    os.close(again)


def test_a_segment_that_is_gone_is_not_found() -> None:
    segment = Segment.create(4096)
    data = pickle.dumps(segment)
    del segment
    assert pickle.loads(data) is None


def test_a_lock_is_given_up_by_who_is_killed() -> None:
    segment = Segment.create(4096)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with segment.locked():
            os.write(writing, b"!")
            signal.pause()
    os.read(reading, 1)
    os.kill(pid, signal.SIGKILL)
    with segment.locked():  # blocks until the kernel has given it up
        os.waitpid(pid, 0)
    os.close(reading)
    os.close(writing)


def store_of(size: int, budget: int, sample: Any = None) -> MemoryStore:
    return MemoryStore(size, budget, None if sample is None else format_of(sample, NO_MARKS))


def test_what_was_put_is_got() -> None:
    store = store_of(4, 10_000, torch.zeros(3))
    for index, value in enumerate([torch.ones(3), torch.ones(4), "text"]):
        assert store.get(index) is None
        store.put(index, value, NO_MARKS, 0.5)
        kept = store.get(index)
        assert kept is not None
        assert difference(kept[0], value) is None
        assert kept[1] == NO_MARKS
    stats = store.stats()
    assert (stats.stored, stats.hits, stats.misses, stats.left_out) == (3, 3, 3, 0)
    assert stats.saved_s == pytest.approx(1.5, abs=1e-6)


def test_what_cannot_be_stored_is_made_again() -> None:
    store = store_of(2, 10_000)
    store.put(0, threading.Lock(), NO_MARKS, 1.0)
    assert store.get(0) is None
    assert store.stats().left_out == 1


@pytest.mark.parametrize("as_rows", [True, False])
def test_the_budget_is_kept(as_rows: bool) -> None:
    sample = torch.zeros(100)
    store = store_of(50, 4500, sample if as_rows else None)
    for index in range(50):
        store.put(index, sample + index, NO_MARKS, 0.01)
    stats = store.stats()
    assert 4500 // 2 < stats.stored_bytes <= 4500
    assert stats.stored + stats.left_out == 50
    for index in range(50):
        kept = store.get(index)
        assert kept is None or torch.equal(kept[0], sample + index)


def test_the_costly_samples_are_kept_where_memory_is_short() -> None:
    sample = torch.zeros(100)
    store = store_of(200, 200 * 400 // 4, sample)
    for _ in range(2):  # in the first epoch the store learns what there is
        for index in range(200):
            if store.get(index) is None:
                store.put(index, sample, NO_MARKS, 0.1 if index % 10 == 9 else 0.001)
    costly = [index for index in range(200) if index % 10 == 9]
    assert sum(store.get(index) is not None for index in costly) >= 0.75 * len(costly)


def test_nothing_is_stored_when_the_machine_has_no_memory_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "available_memory", lambda: 1000)
    monkeypatch.setattr(memory_module, "CHECK_BYTES", 1000)
    store = store_of(20, 10**6, torch.zeros(100))
    for index in range(20):
        store.put(index, torch.zeros(100), NO_MARKS, 0.1)
    assert 0 < store.stats().stored < 5


def test_processes_share_what_each_has_stored() -> None:
    store = store_of(400, 40_000)  # packed, and short: every storing takes the lock
    pids = []
    for child in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                for index in range(400):
                    store.put((index + child * 133) % 400, ("x" * (index % 7), index), NO_MARKS, 0.001)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    stats = store.stats()
    assert stats.misses == 1200
    assert 0 < stats.stored_bytes <= 40_000
    assert stats.stored > 100
    values = [kept[0] for index in range(400) if (kept := store.get(index)) is not None]
    assert all(text == "x" * (number % 7) for text, number in values)


def test_a_store_of_rows_tells_when_all_is_there() -> None:
    sample = torch.zeros(3)
    store = store_of(5, 10_000, sample)
    for index in range(5):
        assert store.ready_spec() is None
        store.put(index, sample + index, NO_MARKS, 0.1)
    assert store.ready_spec() is not None
    ready = store.ready([3, 0, 3])
    assert ready is not None
    assert [column.tensor[ready.rows].tolist() for column in ready.columns] == [
        [[3.0] * 3, [0.0] * 3, [3.0] * 3]
    ]
    assert store.ready([3, 5]) is None
    assert store.ready([-1]) is None
    assert store.ready(["a"]) is None


def test_one_and_a_half_is_no_size() -> None:
    for memory in (1.0, 1.5):
        with pytest.raises(ValueError, match="share below 1"):
            bytes_of(memory)
    assert bytes_of(1e9) == 10**9
