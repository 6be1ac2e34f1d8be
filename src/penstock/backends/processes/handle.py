"""What the main process knows of one worker: its tasks, and what it sent back."""

from __future__ import annotations

import pickle
import select
import selectors
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from penstock import fetch
from penstock.arena import Notes
from penstock.backends.base import Busy, Done
from penstock.backends.processes import failures
from penstock.backends.processes.messages import Ended, Result, Started
from penstock.backends.processes.process import WorkerProcess
from penstock.backends.processes.wire import Line
from penstock.bad import BadSample
from penstock.collate import Spec
from penstock.errors import WorkerError, annotate
from penstock.plan import Task


def _key(task: Task) -> tuple[int, int, int]:
    return task.generation, task.batch, task.offset


class WorkerHandle:
    """What the main process knows of one worker.

    Attributes:
        late: it was added while others were at work, so it gets nothing before it runs.
        leaving: it gets nothing more.
        gone: it was told to end, as it had nothing left to do.
    """

    def __init__(self, number: int, line: Line, notes: Notes, specs: dict[Spec, Spec]) -> None:
        self.number, self.line, self.notes = number, line, notes
        self._specs = specs  # shared by all workers, so that equal specs are one object
        self.process = WorkerProcess(number)
        self.watched = selectors.EVENT_READ
        self.spec: Spec | None = None
        self.tasks: dict[tuple[int, int, int], Task] = {}
        self.load = 0
        self.idle_since = 0.0
        self.late = False
        self.leaving = self.gone = False

    @property
    def pid(self) -> int:
        """0 until it has started."""
        return self.process.pid or 0

    def busy(self) -> Busy:
        """What it is at, as far as it tells: a sample, or what lies before the next one."""
        sample, since = self.notes.read(), self.notes.since()
        if sample is None and since:
            since = max(since, self.idle_since)
        return Busy(self.number, self.pid, sample, since)

    def give(self, task: Task, message: bytes) -> None:
        """Have a task sent, of which `message` is the frame."""
        if not self.tasks:
            self.idle_since = time.monotonic()
        self.tasks[_key(task)] = task
        self.load += len(task.indices)
        self.line.post(message)

    def take(self, result: Result) -> Done:
        self.idle_since = time.monotonic()
        task = self.tasks.pop((result.generation, result.batch, result.offset))
        self.load -= len(task.indices)
        return Done(
            self.number,
            result.batch,
            result.offset,
            result.generation,
            self._outcome(result.kind, result.detail),
            fetch.Timing(result.fetch_s, result.collate_s, result.samples, result.standing, result.ended),
            tuple(replace(BadSample(*fields), worker=self.number) for fields in result.bad),
        )

    def _outcome(self, kind: str, detail: tuple[Any, ...]) -> fetch.Outcome:
        if kind == "Rows":
            return self._rows(*detail)
        if kind == "Failed":
            return self._failure(*detail)
        outcome: fetch.Outcome = getattr(fetch, kind)(*detail)
        return outcome

    def _rows(self, pickled: bytes | None, rows: int, left_out: tuple[int, ...]) -> fetch.Outcome:
        if pickled is not None:
            try:
                spec = pickle.loads(pickled)
            except Exception:  # a class of the sample's can't be imported here
                self.spec = None
            else:
                self.spec = self._specs.setdefault(spec, spec)
        return fetch.NotRegular() if self.spec is None else fetch.Rows(self.spec, rows, left_out)

    def _failure(self, data: bytes, position: int | None, text: str) -> fetch.Failed:
        try:
            error = failures.load(data)
        except Exception as broken:  # its module can't be imported here, say
            last_line = text.rstrip().splitlines()[-1]
            error = WorkerError(last_line, f"(it can't be rebuilt here: {broken!r})")
        failures.attach(error, text)
        annotate(error, f"raised in worker {self.number} (pid {self.pid})")
        return fetch.Failed(error, position, text)


def note(workers: Mapping[int, WorkerHandle], message: Any) -> None:
    """What the template told of a worker's process, if it is that."""
    if not isinstance(message, Started | Ended) or message.worker not in workers:
        return
    process = workers[message.worker].process
    process.pid = message.pid
    if isinstance(message, Ended):
        process.exitcode = message.exitcode


def await_pids(workers: Mapping[int, WorkerHandle], control: Line, seconds: float) -> list[Any]:
    """Wait until all have started, or something else is told, which is returned."""
    others: list[Any] = []
    end = time.monotonic() + seconds
    while not (others or control.ended or all(worker.pid for worker in workers.values())):
        if not select.select([control.sock], [], [], max(0, end - time.monotonic()))[0]:
            break
        for message in control.receive():
            note(workers, message)
            others += [] if isinstance(message, Started) else [message]
    return others
