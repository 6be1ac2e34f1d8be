"""The main process's side: whose each slot is."""

from __future__ import annotations

import os
import weakref
from collections import deque
from functools import cached_property

from penstock.arena.layout import PAGE, Bytes
from penstock.arena.memory import ASK_FIRST, Memory, map_largest
from penstock.machine import available_memory

BUDGET_SHARE = 0.25
"""The part that the slots may take, all together, of the memory that is free or theirs already."""


class Arena:
    """The main process's side: slots, leases and the budget.

    `budget` is in bytes. By default it is `BUDGET_SHARE` of the memory that is free or this arena's already,
    and is looked up again as the arena grows; so all arenas of a machine together never take all of it.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._given_budget = budget
        self._budget, self._held_then = 0, -ASK_FIRST
        self.owner = os.getpid()
        self.made = 0
        self._free: deque[int] = deque()
        self._freed: deque[int] = deque()
        self._batch_bytes = PAGE
        self._closed = False

    @property
    def budget(self) -> int:
        if self._given_budget is not None:
            return self._given_budget
        held = self.memory.held()
        if abs(held - self._held_then) >= ASK_FIRST:
            self._budget, self._held_then = int((available_memory() + held) * BUDGET_SHARE), held
        return self._budget

    @cached_property
    def memory(self) -> Memory:
        """The mapping, made when it is first needed; without workers it never is."""
        return map_largest()

    @property
    def in_use(self) -> int:
        """Slots acquired or leased."""
        return self.made - len(self._free) - len(self._freed)

    def room(self) -> int:
        """How many more slots could be acquired now within the budget."""
        self._collect()
        affordable = min(self.memory.slots, self.budget // self._batch_bytes)
        return len(self._free) + max(0, affordable - self.made)

    def acquire(self, beyond_budget: bool = False) -> int | None:
        """A free slot, the one used last if there are several; None if the budget allows none.

        `beyond_budget` is for a caller that has no slot at all: it always gets one.
        """
        self._collect()
        if self._free:
            return self._free.pop()
        if not beyond_budget and self.room() <= 0:
            return None
        self.made += 1
        return self.made - 1

    def release(self, slot: int) -> None:
        """Give up an acquired slot. No task may write into it any more."""
        self._free.append(slot)

    def lease(self, slot: int, nbytes: int) -> Bytes:
        """The first `nbytes` of an acquired slot; it is free again once nothing views them."""
        self._batch_bytes = max(self._batch_bytes, nbytes)
        view = self.memory.own_view(slot, nbytes)
        weakref.finalize(view, self._view_died, slot).atexit = False
        return view

    def take_copy(self, slot: int, nbytes: int) -> Bytes:
        """A private copy of the first `nbytes` of an acquired slot, which is free at once."""
        self._batch_bytes = max(self._batch_bytes, nbytes)
        copy = self.memory.slot(slot, nbytes).copy()
        self.release(slot)
        return copy

    def trim(self, keep: int) -> None:
        """Return the memory of all free slots but `keep` to the system; no worker may be at work."""
        self._collect()
        if "memory" not in self.__dict__:
            return
        for slot in list(self._free)[: max(0, len(self._free) - keep)]:
            self.memory.give_back(slot)

    def close(self) -> None:
        """Let go of everything that no batch views; the rest goes as its batches do."""
        if self._closed:
            return
        self._closed = True
        if "memory" in self.__dict__:
            self.trim(keep=0)
            self.memory.close()

    def _collect(self) -> None:
        while self._freed:
            self._free.append(self._freed.popleft())

    def _view_died(self, slot: int) -> None:
        self._freed.append(slot)
        if self._closed:
            self.memory.give_back(slot)


class ArenaPool:
    """Keeps the arenas that no iterator uses, with their warm pages, for the next one.

    Shared by a loader and its iterators, and closed when the last of them is gone.
    """

    def __init__(self) -> None:
        self._idle: list[Arena] = []
        self._owner = os.getpid()
        weakref.finalize(self, _close_all, self._idle).atexit = False

    def take(self) -> Arena:
        """An idle arena, or a new one."""
        if os.getpid() != self._owner:  # forked: what is idle here is at work in our parent
            self._owner = os.getpid()
            self._idle.clear()
        return self._idle.pop() if self._idle else Arena()

    def give(self, arena: Arena) -> None:
        """Put back an arena that no worker has mapped any more."""
        if arena.owner == os.getpid():
            self._idle.append(arena)

    def close(self) -> None:
        _close_all(self._idle)


def _close_all(arenas: list[Arena]) -> None:
    while arenas:
        arenas.pop().close()
