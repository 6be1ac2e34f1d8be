"""Runs tasks in the calling process, one by one, when it waits for them (``num_workers=0``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from penstock.backends.base import Backend, Busy, Done, Event, State
from penstock.fetch import Recipe, fetcher_for
from penstock.plan import Course, Task
from penstock.seeding import SampleSeeder
from penstock.streams import Standing


class InlineBackend(Backend):
    """One task at a time, inside `wait`; exceptions of user code come as they do from a worker."""

    workers = most = running = 1

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        seeder = SampleSeeder(recipe.dataset, recipe.collate_fn, keep_state=True) if recipe.seeded else None
        self._fetcher = fetcher_for(recipe)(recipe, None, None, seeder)
        self._tasks: deque[tuple[Task, int]] = deque()

    @property
    def usable_here(self) -> bool:
        """A process forked from the one that made it has a copy, and goes on by itself."""
        return True

    def start(self) -> None:
        self._state = State.OPEN

    def begin(self, course: Course, standings: Mapping[int, Standing]) -> Mapping[int, Standing]:
        self._fetcher.begin(course, standings.get(0))
        standing = self._fetcher.standing()
        return {} if standing is None else {0: standing}

    def replace(self, worker: int, course: Course, standing: Standing | None) -> None:
        raise NotImplementedError("nobody dies here")

    def resize(self, workers: int) -> None:
        self.require_possible(workers)

    def drop(self) -> None:
        """Nothing to do: an epoch that is left early has no task in the making."""

    def submit(self, task: Task, slot: int) -> None:
        if self._state is not State.OPEN:
            self.require_open()
        self._tasks.append((task, slot))

    def flush(self) -> None:
        """Nothing to do: nothing runs here but in `wait`."""

    def wait(self, timeout: float | None) -> list[Event]:  # noqa: ARG002  a sample can't be cut short here
        if not self._tasks:
            return []
        task, slot = self._tasks[0]
        outcome, timing = self._fetcher.run(task, slot)
        if self._state is not State.OPEN:  # another thread may have closed it
            self.require_open()
        self._tasks.popleft()  # only now: a task that Ctrl-C cut short is run again
        return [Done(0, task.batch, task.offset, task.generation, outcome, timing, tuple(self._fetcher.bad))]

    def busy(self) -> list[Busy]:
        return []

    def stack(self, worker: int) -> str | None:
        raise NotImplementedError("who asks is the one at work")

    def kill(self, worker: int) -> None:
        raise NotImplementedError("nobody dies here")

    def processes(self) -> list[object]:
        return []

    def close(self) -> None:
        self._state = State.CLOSED
        self._tasks.clear()
