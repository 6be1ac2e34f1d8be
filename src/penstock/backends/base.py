"""The contract of a backend.

A backend runs tasks and reports what came of them; it neither orders results nor judges them.

Who calls, and when it may block
--------------------------------
- All calls come from one process, and from one thread at a time, which drives the loader by ``next()``;
  `close` may come from another.
- `submit` hands over a task and never waits: not for the worker to read it, nor for anything else. The
  task may be kept back, to go to whoever is free first, until the next `wait` or `flush`.
- `flush` is called before the caller goes away for a while: what was submitted then runs without it.
- `wait` is the only call that blocks. It ends with the first event, or after `timeout` seconds, or by an
  exception of a signal handler (Ctrl-C), after which only `close` is allowed, as an event may be lost.
  Every submitted task ends in exactly one `Done`, unless a `Died` names it as lost; `replace` may follow,
  and the lost tasks may be submitted again.
- `resize` changes how many tasks can run at once, at any time, without waiting: a worker that is added gets
  tasks once it runs; one that is let go does what it was given, and goes. No task is lost by that, and no
  event tells of it.
- `close` may be called in any state, any number of times. It returns when no process of the backend is
  left, by the stop ladder below: at once but for the sample in hand, and in ``2 * GRACE_S`` and what the
  kernel needs to end the processes (`KILL_S` at most) however user code behaves; before the first worker has
  started, at once. Should the template have been killed, as it may be then, its workers are being killed by
  the kernel, and `settled` is False.
- Before `close` returned, a slot that a submitted task names may be written to at any time.

States: NEW -> OPEN -> CLOSED; `Died` of the template process alone leads from OPEN to CLOSED as well.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock import forks
from penstock.bad import BadSample
from penstock.errors import ClosedError
from penstock.fetch import Outcome, Timing
from penstock.plan import Course, Task
from penstock.streams import Standing

GRACE_S = 1.0
"""How long a worker may take to end the sample in hand, and then to answer SIGTERM; in seconds."""
STACK_S = 0.5
"""How long a worker may take to say where it is; in seconds."""
KILL_S = 5.0
"""How long the kernel may take to end a process after SIGKILL; in seconds."""


class State(enum.Enum):
    NEW = "not started yet"
    OPEN = "open"
    CLOSED = "closed"


class Done(NamedTuple):
    """A task ended."""

    worker: int
    batch: int
    offset: int
    generation: int
    outcome: Outcome
    timing: Timing
    bad: tuple[BadSample, ...] = ()


@dataclass(frozen=True, slots=True)
class Died:
    """A worker ended without being asked to.

    Attributes:
        worker: its number; None for the template process, without which the backend is closed.
        sample: (batch, position in the batch) of the sample in hand, None between samples.
        lost: the tasks that it had been given and that will not be done.
    """

    worker: int | None
    pid: int
    exitcode: int | None
    sample: tuple[int, int] | None
    lost: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Busy:
    """A worker that has tasks, and the (batch, position) of the sample it is on, if it is on one."""

    worker: int
    pid: int
    sample: tuple[int, int] | None
    since: float = 0.0
    """Since when, by ``time.monotonic``; 0 before its first sample."""


Event = Done | Died


class Backend(ABC):
    """See the contract above.

    Attributes:
        workers: how many tasks are to run at once.
        most: how many `resize` can make of them.
        settled: whether, after `close`, it is certain that nothing writes into a slot any more.
    """

    workers: int
    most: int
    settled = True

    def __init__(self) -> None:
        self._state = State.NEW
        self._forks = forks.count

    @property
    def state(self) -> State:
        return self._state

    @property
    def usable_here(self) -> bool:
        """False in a process forked from the one that made this backend, whose workers these are."""
        return forks.count == self._forks

    def require_open(self) -> None:
        """Raise `ClosedError` unless tasks can be submitted."""
        if self._state is State.OPEN and self.usable_here:
            return
        if not self.usable_here:
            raise ClosedError(
                "this iterator belongs to the process that made it, not to a child forked from it: "
                "call iter() on the loader in the child."
            )
        raise ClosedError(f"the workers are {self._state.value}: call iter() on the loader again.")

    @abstractmethod
    def start(self) -> None:
        """NEW -> OPEN."""

    @abstractmethod
    def begin(self, course: Course, standings: Mapping[int, Standing]) -> Mapping[int, Standing]:
        """Begin an epoch; tasks of earlier ones are no longer wanted, as after `drop`.

        Returns how the iterators stand now of which that can be known without waiting.

        Of an iterable dataset, the iterators of the workers in `standings` go on from there. In the calling
        process it raises what ``iter()`` on that raises.
        """

    @abstractmethod
    def replace(self, worker: int, course: Course, standing: Standing | None) -> None:
        """Start another worker in the place of one that `Died` named; it begins with `course`, and its
        iterator goes on from `standing`. If there are to be fewer meanwhile, there is nothing to do."""

    @abstractmethod
    def resize(self, workers: int) -> None:
        """Have so many workers; those that are added begin with the course of the latest `begin`.

        Not for tasks that name their worker, as those of iterable datasets do.

        Raises:
            ValueError: if that isn't a number from 1 to `most`.
        """

    def require_possible(self, workers: int) -> None:
        """Raise `ValueError` unless there can be so many."""
        if not 1 <= workers <= self.most:
            raise ValueError(f"there can be 1 to {self.most} workers here, not {workers}")

    @property
    @abstractmethod
    def running(self) -> int:
        """How many of the workers that are to be there have started."""

    @abstractmethod
    def drop(self) -> None:
        """No submitted task is wanted any more: all end in `Dropped`, soon."""

    @abstractmethod
    def submit(self, task: Task, slot: int) -> None:
        """Hand over a task; `slot` is acquired for its batch."""

    @abstractmethod
    def flush(self) -> None:
        """Have every submitted task run without further calls, where it can."""

    @abstractmethod
    def wait(self, timeout: float | None) -> list[Event]:
        """Block until something happened, at most `timeout` seconds; the list may be empty."""

    @abstractmethod
    def busy(self) -> list[Busy]:
        """The workers that have tasks now."""

    @abstractmethod
    def stack(self, worker: int) -> str | None:
        """Where a worker is in its Python code, if it answers; waits for that, `STACK_S` at most."""

    @abstractmethod
    def kill(self, worker: int) -> None:
        """End a worker at once; its `Died` follows."""

    @abstractmethod
    def processes(self) -> Sequence[object]:
        """The workers as processes, with the names of ``multiprocessing.Process``; those that ended with
        the backend too. Waits until they have started."""

    @abstractmethod
    def close(self) -> None:
        """Any state -> CLOSED."""


Step = tuple[Callable[[], None], float]


def climb(steps: Sequence[Step], ended: Callable[[float], bool]) -> bool:
    """The one stop ladder: ask, then ask harder, and wait after each step.

    Each step is (what to do, seconds to wait); ``ended(seconds)`` waits at most so long and tells
    whether all is over. Returns whether it was in the end.
    """
    for act, seconds in steps:
        act()
        if ended(seconds):
            return True
    return False
