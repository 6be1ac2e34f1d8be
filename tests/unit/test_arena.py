"""Slots and leases: no slot is given out while a view of it lives, and no batch in hand changes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock import machine
from penstock.arena import ALIGN, PAGE, Arena, ArenaPool, Memory, Notes, aligned
from penstock.errors import BatchTooLargeError
from tests.conftest import open_descriptors

PAGES = 16
BUDGET = PAGES * PAGE
SIZES = st.integers(1, 3 * PAGE)
VIEWS: dict[str, Callable[[Any], Any]] = {
    "the same array": lambda a: a,
    "slice": lambda a: a[len(a) // 2 :],
    "reshaped": lambda a: a.reshape(1, -1),
    "other dtype": lambda a: a[: len(a) // 4 * 4].view(np.int32),
    "strided": lambda a: a[::3],
    "memoryview": memoryview,
    "tensor": lambda a: torch.frombuffer(a, dtype=torch.uint8),
    "tensor at an offset": lambda a: torch.frombuffer(a, dtype=torch.uint8, offset=len(a) // 2),
    "slice of a tensor": lambda a: torch.frombuffer(a, dtype=torch.uint8)[-1:],
    "reshaped tensor": lambda a: torch.frombuffer(a, dtype=torch.uint8).view(-1, 1).t(),
    "tensor of a slice": lambda a: torch.frombuffer(a[1:] if len(a) > 1 else a, dtype=torch.uint8),
    "array of a tensor": lambda a: torch.frombuffer(a, dtype=torch.uint8)[::2].numpy(),
    "in a cycle": lambda a: in_a_cycle(a),
}


def in_a_cycle(view: Any) -> list[Any]:
    """Only the garbage collector can free it."""
    cycle: list[Any] = [view]
    cycle.append(cycle)
    return cycle


def content(view: Any) -> bytes:
    while isinstance(view, list):
        view = view[0]
    return (view.numpy() if isinstance(view, torch.Tensor) else np.asarray(view)).tobytes()


class ArenaMachine(RuleBasedStateMachine):
    """Does to an arena what an engine and a user do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(BUDGET)
        self.acquired: dict[int, bytes] = {}
        self.views: list[tuple[int, Any, bytes]] = []
        self.copies: list[tuple[Any, bytes]] = []
        self.largest = PAGE

    @property
    def held(self) -> set[int]:
        """Slots that something holds, as far as reference counts tell."""
        return set(self.acquired) | {slot for slot, _, _ in self.views}

    @rule(beyond=st.booleans())
    def acquire(self, beyond: bool) -> None:
        gc.collect()
        made, affordable = self.arena.made, self.budgeted
        slot = self.arena.acquire(beyond_budget=beyond)
        if slot is None:
            assert not beyond
            assert len(self.held) == made >= affordable
            return
        assert slot not in self.held
        assert self.arena.made == made or beyond or made < affordable
        self.acquired[slot] = b""

    @property
    def budgeted(self) -> int:
        """How many slots the budget allows, were all as large as the largest batch so far."""
        return BUDGET // self.largest

    @precondition(lambda self: self.acquired)
    @rule(data=st.data(), nbytes=SIZES, seed=st.integers(0, 255))
    def write(self, data: Any, nbytes: int, seed: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.acquired)))
        pattern = ((np.arange(nbytes) * 7 + seed) % 256).astype(np.uint8)
        self.arena.memory.reserve(slot, nbytes)[:] = pattern
        self.acquired[slot] = pattern.tobytes()

    def written(self, data: Any) -> tuple[int, bytes]:
        """One acquired slot that was written, which from now on is no longer acquired."""
        slot = data.draw(st.sampled_from(sorted(slot for slot, pattern in self.acquired.items() if pattern)))
        pattern = self.acquired.pop(slot)
        self.largest = max(self.largest, len(pattern))
        return slot, pattern

    @precondition(lambda self: any(self.acquired.values()))
    @rule(data=st.data())
    def lease(self, data: Any) -> None:
        slot, pattern = self.written(data)
        self.views.append((slot, self.arena.lease(slot, len(pattern)), pattern))

    @precondition(lambda self: any(self.acquired.values()))
    @rule(data=st.data())
    def take_copy(self, data: Any) -> None:
        slot, pattern = self.written(data)
        self.copies.append((self.arena.take_copy(slot, len(pattern)), pattern))

    @precondition(lambda self: self.acquired)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        slot = data.draw(st.sampled_from(sorted(self.acquired)))
        del self.acquired[slot]
        self.arena.release(slot)

    @precondition(lambda self: any(isinstance(view, np.ndarray) for _, view, _ in self.views))
    @rule(data=st.data(), kind=st.sampled_from(sorted(VIEWS)))
    def view(self, data: Any, kind: str) -> None:
        arrays = [n for n, (_, v, _) in enumerate(self.views) if is_bytes(v)]
        if not arrays:
            return
        slot, array, _ = self.views[data.draw(st.sampled_from(arrays))]
        view = VIEWS[kind](array)
        self.views.append((slot, view, content(view)))

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def drop(self, data: Any) -> None:
        self.views.pop(data.draw(st.integers(0, len(self.views) - 1)))

    @rule(keep=st.integers(0, 4))
    def trim(self, keep: int) -> None:
        self.arena.trim(keep)

    @invariant()
    def what_is_in_hand_stays_as_it_was(self) -> None:
        for _, view, expected in self.views:
            assert content(view) == expected
        for copy, expected in self.copies:
            assert copy.tobytes() == expected

    @invariant()
    def slots_in_use_add_up(self) -> None:
        gc.collect()
        assert self.arena.in_use == len(self.held)

    def teardown(self) -> None:
        self.views.clear()
        gc.collect()
        assert self.arena.in_use == len(self.acquired)
        self.arena.close()


def is_bytes(view: Any) -> bool:
    """Whether more views can be made of it."""
    return isinstance(view, np.ndarray) and view.dtype == np.uint8 and view.ndim == 1 and view.strides == (1,)


TestArena = ArenaMachine.TestCase
TestArena.settings = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink a failure takes minutes
)


@contextmanager
def new_arena(budget: int = BUDGET) -> Iterator[Arena]:
    arena = Arena(budget)
    try:
        yield arena
    finally:
        arena.close()


def leased(arena: Arena, nbytes: int, value: int) -> Any:
    slot = arena.acquire()
    assert slot is not None
    arena.memory.reserve(slot, nbytes)[:] = value
    return arena.lease(slot, nbytes)


def resident(fd: int) -> int:
    """Bytes of memory that the anonymous file holds."""
    return os.fstat(fd).st_blocks * 512


@pytest.mark.parametrize("kind", VIEWS)
def test_the_last_view_of_whatever_kind_holds_the_slot(kind: str) -> None:
    with new_arena() as arena:
        view = VIEWS[kind](leased(arena, 100, 7))
        gc.collect()
        assert arena.in_use == 1
        assert set(content(view)) == {7}
        del view
        gc.collect()
        assert arena.in_use == 0


def test_a_view_may_die_in_any_thread() -> None:
    with new_arena() as arena:
        views = [leased(arena, 100, 7)]
        thread = threading.Thread(target=views.clear)
        thread.start()
        thread.join()
        assert arena.in_use == 0
        assert arena.acquire() == 0


def test_the_slot_used_last_is_used_first() -> None:
    with new_arena() as arena:
        slots = [arena.acquire() for _ in range(3)]
        for slot in (0, 2, 1):
            arena.release(slot)
        assert slots == [0, 1, 2]
        assert [arena.acquire() for _ in range(3)] == [1, 2, 0]


def test_the_budget_bounds_the_slots_by_the_size_of_a_batch() -> None:
    with new_arena() as arena:
        views = [leased(arena, 4 * PAGE, 1)]
        while (slot := arena.acquire()) is not None:
            views.append(arena.lease(slot, 4 * PAGE))
        assert len(views) == PAGES // 4
        assert arena.room() == 0
        views.pop()
        assert arena.room() == 1


def test_one_slot_can_be_had_beyond_the_budget() -> None:
    with new_arena(PAGE) as arena:
        assert arena.acquire() == 0
        assert arena.acquire() is None
        assert arena.acquire(beyond_budget=True) == 1


def test_arenas_share_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free, step = 64 << 20, 1 << 20
    arenas = [Arena() for _ in range(8)]

    def left() -> int:
        return free - sum(arena.memory.held() for arena in arenas)

    for module in ("penstock.arena.memory", "penstock.arena.slots"):
        monkeypatch.setattr(f"{module}.ASK_FIRST", step)
        monkeypatch.setattr(f"{module}.available_memory", left)
    views = []
    for arena in arenas:
        while (slot := arena.acquire()) is not None:
            arena.memory.reserve(slot, step)
            views.append(arena.lease(slot, step))
    held = [arena.memory.held() for arena in arenas]
    assert abs(held[0] - free // 4) <= 2 * step, "alone, it takes a quarter"
    assert held == sorted(held, reverse=True)
    assert sum(held) < free
    assert all(arena.acquire(beyond_budget=True) is not None for arena in arenas)
    views.clear()
    for arena in arenas:
        arena.close()


def test_a_batch_larger_than_the_whole_budget_still_gets_a_slot() -> None:
    with new_arena() as arena:
        view = leased(arena, BUDGET + PAGE, 1)
        assert arena.acquire() is None
        assert arena.acquire(beyond_budget=True) is not None
        assert view.sum() == BUDGET + PAGE


def test_beyond_the_span_a_batch_is_too_large_and_the_error_says_by_how_much() -> None:
    with new_arena() as arena:
        slot = arena.acquire()
        with pytest.raises(BatchTooLargeError, match=r"17\.2 GB") as caught:
            arena.memory.reserve(slot, 2 * arena.memory.span)
        assert (caught.value.needed, caught.value.available) == (2 * arena.memory.span, arena.memory.span)


def test_beyond_the_memory_left_a_batch_is_too_large_and_the_error_says_by_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(str(300 << 20))
    (tmp_path / "memory.current").write_text(str(200 << 20))
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    with new_arena(1 << 30) as arena:
        before = resident(arena.memory.fd)
        with pytest.raises(BatchTooLargeError) as caught:
            arena.memory.reserve(0, 200 << 20)
        assert (caught.value.needed, caught.value.available) == (200 << 20, 100 << 20)
        assert resident(arena.memory.fd) == before


def test_reserving_takes_memory_for_what_is_reserved_only() -> None:
    with new_arena() as arena:
        before = resident(arena.memory.fd)
        arena.memory.reserve(0, 3 * PAGE)
        assert resident(arena.memory.fd) - before == 3 * PAGE


def test_reserving_more_keeps_what_is_written() -> None:
    with new_arena() as arena:
        arena.memory.reserve(0, PAGE)[:] = 7
        assert set(arena.memory.reserve(0, 3 * PAGE)[:PAGE]) == {7}


def test_trimming_gives_back_the_memory_of_all_free_slots_but_those_kept() -> None:
    with new_arena() as arena:
        before = resident(arena.memory.fd)
        views = [leased(arena, PAGE, n) for n in range(5)]
        del views[1:]
        arena.trim(keep=1)
        assert resident(arena.memory.fd) - before == 2 * PAGE
        assert set(views[0]) == {0}


def test_a_trimmed_slot_is_reserved_anew_when_it_is_used_again() -> None:
    with new_arena() as arena:
        before = resident(arena.memory.fd)
        leased(arena, PAGE, 7)
        arena.trim(keep=0)
        slot = arena.acquire()
        assert slot == 0
        arena.memory.reserve(slot, PAGE)
        assert resident(arena.memory.fd) - before == PAGE


def test_a_lease_outlives_the_arena_and_only_its_memory_is_kept() -> None:
    arena = Arena(BUDGET)
    fd = os.dup(arena.memory.fd)
    control = resident(fd)
    kept, dropped = leased(arena, 2 * PAGE, 7), leased(arena, 4 * PAGE, 8)
    arena.acquire()
    del dropped
    arena.close()
    del arena
    gc.collect()
    assert set(kept) == {7}
    assert resident(fd) - control == 2 * PAGE
    kept += 1
    assert set(kept) == {8}
    del kept
    gc.collect()
    assert resident(fd) == control
    os.close(fd)


def test_an_acquired_slot_is_given_back_on_closing_once_it_is_released() -> None:
    arena = Arena(BUDGET)
    fd = os.dup(arena.memory.fd)
    control = resident(fd)
    slot = arena.acquire()
    arena.memory.reserve(slot, PAGE)
    arena.release(slot)
    arena.close()
    assert resident(fd) == control
    os.close(fd)


def test_closing_twice_is_closing_once() -> None:
    arena = Arena(BUDGET)
    arena.close()
    arena.close()


def test_an_arena_that_nobody_writes_to_takes_nothing() -> None:
    before = open_descriptors()
    with new_arena() as arena:
        slot = arena.acquire(beyond_budget=True)
        assert slot is not None
        arena.release(slot)
        assert set(open_descriptors()) <= set(before)


def test_an_arena_without_leases_leaves_no_descriptor_and_no_mapping() -> None:
    before = open_descriptors()
    arena = Arena(BUDGET)
    leased(arena, PAGE, 1)
    arena.close()
    del arena
    gc.collect()
    assert set(open_descriptors()) <= set(before)


def test_many_slots_take_no_more_descriptors_than_one() -> None:
    with new_arena(1 << 23) as arena:
        views = [leased(arena, 64, 1)]
        before = len(open_descriptors())
        views += [leased(arena, 64, n % 256) for n in range(500)]
        assert len(open_descriptors()) == before
        assert arena.in_use == 501
        del views


def in_a_forked_child(act: Callable[[], None]) -> int:
    """The exit code of a forked child that does `act` and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, where there are threads
        pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("close_first", [False, True])
def test_a_forked_child_that_drops_leases_leaves_the_parents_alone(close_first: bool) -> None:
    with new_arena() as arena:
        views = [leased(arena, 2 * PAGE, 7)]
        in_child = partial(drop_all, arena, views, close_first)
        assert in_a_forked_child(in_child) == 0
        assert set(views[0]) == {7}
        assert arena.in_use == 1
        del in_child
        views.clear()


def drop_all(arena: Arena, views: list[Any], close_first: bool) -> None:
    if close_first:
        arena.close()
    views.clear()
    gc.collect()
    arena.trim(keep=0)
    arena.close()


def test_what_a_forked_child_writes_is_seen_here() -> None:
    with new_arena() as arena:
        slot, memory = arena.acquire(), arena.memory
        assert slot is not None
        assert in_a_forked_child(lambda: memory.reserve(slot, 100).fill(7)) == 0
        assert set(arena.lease(slot, 100)) == {7}


def test_two_mappings_of_one_arena_see_the_same_bytes() -> None:
    with new_arena() as arena:
        other = Memory(os.dup(arena.memory.fd), arena.memory.span)
        other.reserve(3, 100)[:] = 7
        other.control[0] = 5
        assert set(arena.memory.slot(3, 100)) == {7}
        assert arena.memory.control[0] == 5
        other.close()


def test_notes_of_workers_are_apart_from_each_other_and_from_the_generation() -> None:
    with new_arena() as arena:
        arena.memory.control[0] = 9
        first, second = Notes(arena.memory, 0), Notes(arena.memory, 1)
        told = first.samples(9, 4, 0), second.samples(9, 5, 6)
        assert [list(islice(each, 1)) for each in told] == [[None], [None]]
        assert (first.read(), second.read(), arena.memory.control[0]) == ((4, 0), (5, 6), 9)
        arena.memory.control[0] = 10
        assert list(islice(told[1], 1)) == []
        assert (first.read(), second.read()) == ((4, 0), (5, 7))
        first.clear()
        assert (first.read(), second.read()) == (None, (5, 7))


LIMITED = """
    import resource
    import numpy, torch
    from penstock.arena import Arena

    used = 4096 * int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + {extra}, used + {extra}))
    arena = Arena({budget})
    views = []
    for n in range(5):
        slot = arena.acquire()
        arena.memory.reserve(slot, 1 << 20)[:] = n
        views.append(arena.lease(slot, 1 << 20))
    assert [int(view[-1]) for view in views] == [0, 1, 2, 3, 4]
"""


@pytest.mark.parametrize(
    ("extra", "budget"),
    [(64 << 30, 1 << 30), pytest.param(16 << 30, 8 << 30, marks=pytest.mark.slow)],
    ids=["64 GB", "16 GB"],
)
def test_a_limited_address_space_is_made_do_with(extra: int, budget: int) -> None:
    code = textwrap.dedent(LIMITED.format(extra=extra, budget=budget))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("count", "up"), [(0, 0), (1, ALIGN), (ALIGN, ALIGN), (ALIGN + 1, 2 * ALIGN)])
def test_aligned_rounds_up(count: int, up: int) -> None:
    assert aligned(count) == up


def test_a_pool_gives_the_arena_that_was_put_back() -> None:
    pool = ArenaPool()
    arena = pool.take()
    pool.give(arena)
    assert pool.take() is arena
    arena.close()


def test_a_pool_that_is_dropped_closes_what_it_keeps() -> None:
    pool = ArenaPool()
    arena = pool.take()
    fd = arena.memory.fd
    pool.give(arena)
    del pool
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_hundreds_of_arenas_share_the_address_space() -> None:
    memories = [Arena().memory for _ in range(200)]
    assert min(memory.span for memory in memories) >= 1 << 28, "the last ones take batches too"
