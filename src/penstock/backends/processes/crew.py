"""The workers of a set, and which of them gets which task."""

from __future__ import annotations

from collections import deque

from penstock.backends.processes.handle import WorkerHandle
from penstock.plan import Task


class Crew(dict[int, WorkerHandle]):
    """Workers by number, and the tasks that no worker has yet."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Task, bytes]] = deque()

    @property
    def running(self) -> int:
        """How many run, of those that are to stay."""
        return sum(1 for worker in self.values() if worker.pid and not worker.leaving)

    @property
    def all_run(self) -> bool:
        """Whether nobody has to be waited for: those that are late aren't."""
        return all(worker.pid or worker.late for worker in self.values())

    def tasks(self) -> tuple[Task, ...]:
        """All that isn't done."""
        given = (task for worker in self.values() for task in worker.tasks.values())
        return (*given, *(task for task, _ in self.waiting))

    def hand_out(self, in_advance: bool) -> None:
        """Give waiting tasks, in their order, to the workers with the least to do.

        At the start, when workers come up one after the other, a task goes only to one that runs (or is
        the first that will) and has none, so that the first batch never waits for the last worker. With
        `in_advance`, all tasks go out.
        """
        while self.waiting:
            worker = min(self._ready(in_advance), key=lambda w: (w.load, w.number), default=None)
            if worker is None:
                return
            worker.give(*self.waiting.popleft())

    def _ready(self, in_advance: bool) -> list[WorkerHandle]:
        workers = [w for w in self.values() if not w.leaving and (w.pid or not w.late)]
        if in_advance:
            return workers
        running = [worker for worker in workers if worker.pid]
        return [worker for worker in running or workers[:1] if not worker.tasks]
