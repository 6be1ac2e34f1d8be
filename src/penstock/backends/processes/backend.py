"""The processes backend, as the main process sees it."""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
from functools import partial
from multiprocessing import reduction
from multiprocessing.context import BaseContext
from typing import Any

from penstock.arena import Memory, Notes
from penstock.backends.base import (
    GRACE_S,
    KILL_S,
    Backend,
    Busy,
    Died,
    Event,
    State,
    climb,
)
from penstock.backends.processes import failures
from penstock.backends.processes.handle import WorkerHandle
from penstock.backends.processes.messages import (
    Ended,
    EndWorkers,
    Started,
    StartWorker,
    Unready,
)
from penstock.backends.processes.payload import Payload
from penstock.backends.processes.template import end_of, identity, template_main
from penstock.backends.processes.wire import Line, frame, pair
from penstock.backends.processes.worker import WorkerJob
from penstock.collate import Spec
from penstock.plan import Task

_CLOSING = -1


class ProcessesBackend(Backend):
    """See `base.Backend`; `context` says by which start method the template comes into being."""

    def __init__(self, job: WorkerJob, memory: Memory, context: BaseContext, base_seed: int) -> None:
        super().__init__()
        self.workers = job.workers
        self._job, self._memory, self._context, self._base_seed = job, memory, context, base_seed
        self._set: dict[int, WorkerHandle] = {}
        self._specs: dict[Spec, Spec] = {}
        self._selector = selectors.DefaultSelector()
        self._template: Any = None

    # -- life cycle ------------------------------------------------------------------------------

    def start(self) -> None:
        control, theirs = pair(socket.SOCK_SEQPACKET)
        try:
            self._template = self._start_template(theirs)
        except BaseException:
            control.close()
            self._selector.close()
            self._state = State.CLOSED
            raise
        finally:
            theirs.close()
        self._end = end_of(self._template.pid)
        try:
            for number in range(self.workers):
                self._start_worker(control, number)
        except BaseException:
            self._template.kill()
            raise
        finally:
            self._control = Line(control)
            self._state = State.OPEN
        self._selector.register(control, selectors.EVENT_READ, self._on_control)

    def _start_template(self, control: socket.socket) -> Any:
        method = self._context.get_start_method()
        if method == "fork":
            args: tuple[Any, ...] = (self._memory.fd, partial(identity, self._job), True)
            return self._launch(control, args)
        payload = Payload(self._job, str(method))
        try:
            fd = _DupAtStart(self._memory.fd)
            return self._launch(control, (fd, payload, method == "forkserver"))
        finally:
            payload.close()

    def _launch(self, control: socket.socket, args: tuple[Any, ...]) -> Any:
        memory_fd, load, load_here = args
        process = self._context.Process(  # type: ignore[attr-defined]
            target=template_main,
            args=(control, os.getpid(), memory_fd, self._memory.span, load, load_here),
            name="penstock-template",
            daemon=True,
        )
        process.start()
        return process

    def _start_worker(self, control: socket.socket, number: int) -> None:
        ours, theirs = pair()
        with theirs:
            seed = self._base_seed + number
            socket.send_fds(control, [frame(StartWorker(number, seed))], [theirs.fileno()])
        worker = WorkerHandle(number, Line(ours), Notes(self._memory, number), self._specs)
        worker.notes.clear()
        if number == 0:
            worker.start()
        self._set[number] = worker
        self._selector.register(ours, selectors.EVENT_READ, partial(self._on_worker, worker))

    def close(self) -> None:
        template, self._template = self._template, None
        self._state = State.CLOSED
        if template is None or not self.usable_here:
            return
        self._memory.control[0] = _CLOSING
        try:
            climb(
                (
                    (self._ask_to_end, GRACE_S),
                    (partial(self._tell_template, EndWorkers(signal.SIGTERM)), GRACE_S),
                    (template.kill, KILL_S),
                ),
                ended=self._template_ended,
            )
        except BaseException:
            template.kill()
            raise
        finally:
            template.join()
            template.close()
            self._close_descriptors()

    def _ask_to_end(self) -> None:
        for worker in self._set.values():
            worker.line.close()
        self._tell_template(EndWorkers(0))

    def _tell_template(self, message: Any) -> None:
        self._control.post(frame(message))

    def _template_ended(self, seconds: float) -> bool:
        poll = select.poll()
        if self._end is not None:
            poll.register(self._end, select.POLLIN)
        else:
            poll.register(self._control.sock, 0)  # only for its hanging up
        return bool(poll.poll(seconds * 1000))

    def _close_descriptors(self) -> None:
        self._selector.close()
        self._control.close()
        for worker in self._set.values():
            worker.line.close()
        if self._end is not None:
            os.close(self._end)

    # -- work ------------------------------------------------------------------------------------

    def begin(self, generation: int) -> None:
        self.require_open()
        self._memory.control[0] = generation

    def submit(self, task: Task, slot: int) -> None:
        self.require_open()
        worker = min(self._set.values(), key=lambda w: (w.load, w.number))
        worker.give(task, slot)
        if worker.line.unsent:
            self._watch(worker)

    def wait(self, timeout: float | None) -> list[Event]:
        self.require_open()
        events: list[Event] = []
        for key, mask in self._selector.select(timeout):
            events += key.data(mask)
        return events

    def busy(self) -> list[Busy]:
        return [
            Busy(worker.number, worker.pid, worker.notes.read())
            for worker in self._set.values()
            if worker.tasks
        ]

    def _watch(self, worker: WorkerHandle) -> None:
        """Be woken by a worker's messages and, while its socket is full, by room in that."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.line.unsent else 0)
        if not worker.line.ended and self._selector.get_key(worker.line.sock).events != events:
            self._selector.modify(worker.line.sock, events, partial(self._on_worker, worker))

    def _on_worker(self, worker: WorkerHandle, mask: int) -> list[Event]:
        if worker.number not in self._set:  # its end came with the same call of `select`
            return []
        if mask & selectors.EVENT_WRITE:
            worker.line.flush()
            self._watch(worker)
        events: list[Event] = [worker.take(result) for result in worker.line.receive()]
        if not worker.load:
            self._relieve_the_late(worker)
        if worker.line.ended:  # its death is told by the template, with the exit code
            self._unwatch(worker)
        return events

    def _unwatch(self, worker: WorkerHandle) -> None:
        if worker.line.sock in self._selector.get_map():
            self._selector.unregister(worker.line.sock)

    def _relieve_the_late(self, idle: WorkerHandle) -> None:
        """At the start, when workers come one by one, don't let the first batch wait for the last."""
        late = min(
            (w for w in self._set.values() if w.waiting), key=lambda w: w.waiting[0][0].batch, default=None
        )
        if late is not None:
            idle.take_over_from(late)
            self._watch(idle)

    def _on_control(self, _: int) -> list[Event]:
        events: list[Event] = []
        for message in self._control.receive():
            if isinstance(message, Started):
                self._set[message.worker].pid = message.pid
                self._set[message.worker].start()
                self._watch(self._set[message.worker])
            elif isinstance(message, Ended):
                events += self._on_worker_end(message)
            elif isinstance(message, Unready):
                error = failures.load(message.error)
                error.add_note("raised in unpickling the dataset for the workers")
                raise error
        if self._control.ended:
            events.append(self._on_template_end())
        return events

    def _on_worker_end(self, message: Ended) -> list[Event]:
        worker = self._set.pop(message.worker)
        events: list[Event] = [worker.take(result) for result in worker.line.receive()]
        self._unwatch(worker)
        worker.line.close()
        lost = tuple(worker.tasks.values())
        sample = worker.notes.read()
        return [*events, Died(message.worker, message.pid, message.exitcode, sample, lost)]

    def _on_template_end(self) -> Died:
        self._state = State.CLOSED
        pid = self._template.pid
        self._template.join()
        exitcode = self._template.exitcode
        lost = tuple(task for worker in self._set.values() for task in worker.tasks.values())
        return Died(None, pid, exitcode, None, lost)


class _DupAtStart:
    """A descriptor as an argument of a process that is started afresh; there it is a number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _detach, (reduction.DupFd(self._fd),)


def _detach(dup: Any) -> int:
    fd: int = dup.detach()
    return fd
