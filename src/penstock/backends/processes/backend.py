"""The processes backend, as the main process sees it."""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Mapping
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

from penstock.arena import Memory, Notes
from penstock.backends.base import (
    GRACE_S,
    KILL_S,
    STACK_S,
    Backend,
    Busy,
    Died,
    Event,
    State,
    Step,
    climb,
)
from penstock.backends.processes import failures, threads
from penstock.backends.processes.crew import Crew
from penstock.backends.processes.handle import WorkerHandle, await_pids, note
from penstock.backends.processes.messages import (
    Begin,
    Ended,
    EndWorkers,
    Run,
    Started,
    StartWorker,
    Unready,
)
from penstock.backends.processes.payload import Payload
from penstock.backends.processes.process import WorkerProcess
from penstock.backends.processes.prologue import Name, hold_interrupts, interrupts_let_through
from penstock.backends.processes.template import end_of, identity, template_main
from penstock.backends.processes.wire import Line, frame, pair
from penstock.backends.processes.worker import STACK_SIGNAL, LoadJob, WorkerJob
from penstock.collate import Spec
from penstock.errors import annotate
from penstock.plan import Course, Task
from penstock.streams import Standing

LONGEST_WAIT_S = 86_400.0
"""What `select` takes for its timeout has an end; a caller that waits longer waits again."""
STARTING_S = 0.2
"""How long a template that has started no worker may take to end when it is asked to, in seconds; it may not
hear for longer, and has nothing in hand."""
_CLOSING = -1
_NOBODY = 0
"""The generation that no task has; courses count from 1."""


class ProcessesBackend(Backend):
    """See `base.Backend`; `context` says by which start method the template comes into being, `workers` how
    many there are at first, if not as many as the job allows."""

    def __init__(
        self,
        job: WorkerJob,
        memory: Memory,
        context: BaseContext,
        base_seed: int,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.most = job.workers
        self.workers = job.workers if workers is None else workers
        self.require_possible(self.workers)
        self._course = Course(_NOBODY, 0, 0)
        self._job, self._memory, self._context, self._base_seed = job, memory, context, base_seed
        self._crew = Crew()
        self._specs: dict[Spec, Spec] = {}
        self._selector = selectors.DefaultSelector()
        self._template: Any = None
        self._template_died = False
        self._end: int | None = None
        self._unread: list[Any] = []  # messages of the template, for the next `wait`

    # -- life cycle ------------------------------------------------------------------------------

    def start(self) -> None:
        control, theirs = pair(socket.SOCK_SEQPACKET)
        try:
            with theirs, interrupts_let_through():
                self._template = self._launch(theirs)
            self._end = end_of(self._template.pid)
            for number in range(self.workers):
                self._start_worker(control, number)
        except BaseException:
            self._control = Line(control)
            self._give_up_start()
            raise
        self._state = State.OPEN
        self._control = Line(control)
        self._selector.register(control, selectors.EVENT_READ, self._on_control)
        if self._end is not None:  # a copy of the control socket's end may be held by a foreign process
            self._selector.register(self._end, selectors.EVENT_READ, self._on_template_end)

    def _give_up_start(self) -> None:
        if self._template is None:
            self._control.close()
        else:
            self._template.kill()
            self._template_died = True
        self.close()

    def _launch(self, control: socket.socket) -> Any:
        """Start the template by the context's start method."""
        method = str(self._context.get_start_method())
        if method == "fork":
            hold_interrupts()
            threads.look()
            return self._start_process(control, partial(identity, self._job), method)
        payload = Payload(self._job, method, once=method == "forkserver")
        try:
            return self._start_process(control, payload, method)
        finally:
            payload.close()

    def _start_process(self, control: socket.socket, load: LoadJob, method: str) -> Any:
        process = self._context.Process(  # type: ignore[attr-defined]
            target=template_main,
            args=(control, os.getpid(), self._memory, load, method),
            name=Name("penstock-template"),
            daemon=True,
        )
        process.start()
        # a process that the user forks from this one would, at its exit, end what it finds there
        multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]
        return process

    def _start_worker(self, control: socket.socket, number: int) -> None:
        ours, theirs = pair()
        with theirs:
            seed = self._base_seed + number
            select.select([], [control], [], KILL_S)  # the template may have much to read, but not for long
            socket.send_fds(control, [frame(StartWorker(number, seed))], [theirs.fileno()])
        worker = WorkerHandle(number, Line(ours), Notes(self._memory, number), self._specs)
        worker.notes.reset()
        self._crew[number] = worker
        self._selector.register(ours, selectors.EVENT_READ, partial(self._on_worker, worker))

    def close(self) -> None:
        template, self._template = self._template, None
        self._state = State.CLOSED
        if not self.usable_here:
            return
        if template is None:
            self._selector.close()
            return
        self._memory.control[0] = _CLOSING
        try:
            self._end_template(template)
        finally:
            self._close_descriptors()

    def _end_template(self, template: Any) -> None:
        steps: list[Step] = [(lambda: None, GRACE_S - STARTING_S)]
        for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, KILL_S)):
            steps.append((partial(self._tell_template, EndWorkers(number)), seconds))
        try:
            ended = climb([(self._ask_to_end, STARTING_S)], ended=self._template_ended)
            self._read_last_messages()
            if not ended and any(worker.pid for worker in self._crew.values()):
                ended = climb(steps, ended=self._template_ended)
            self.settled = ended and not self._template_died
        finally:
            template.kill()
            template.join(KILL_S)
            with contextlib.suppress(ValueError):  # somebody else reaped it
                template.close()

    def _ask_to_end(self) -> None:
        for worker in self._crew.values():
            worker.line.close()
        self._tell_template(EndWorkers(0))

    def _tell_template(self, message: Any) -> None:
        self._control.post(frame(message))
        self._control.flush()

    def _template_ended(self, seconds: float) -> bool:
        poll = select.poll()
        if self._end is not None:
            poll.register(self._end, select.POLLIN)
        else:
            poll.register(self._control.sock, 0)  # only for its hanging up
        return bool(poll.poll(seconds * 1000))

    def _close_descriptors(self) -> None:
        self._selector.close()
        self._read_last_messages()
        self._control.close()
        for worker in self._crew.values():
            worker.line.close()
        if self._end is not None:
            os.close(self._end)
            self._end = None

    def _read_last_messages(self) -> None:
        while messages := self._unread + self._control.receive():
            self._unread = []
            for message in messages:
                note(self._crew, message)

    def processes(self) -> list[WorkerProcess]:
        if self._state is State.OPEN and self.usable_here:
            self._unread += await_pids(self._crew, self._control, KILL_S)
        found = [self._crew[number].process for number in sorted(self._crew)]
        for process in found:
            process.watch()
        return found

    # -- work ------------------------------------------------------------------------------------

    def begin(self, course: Course, standings: Mapping[int, Standing]) -> Mapping[int, Standing]:
        self.require_open()
        self._course = course
        self._memory.control[0] = course.generation
        for number in self._crew:
            self._begin(number, course, standings.get(number))
        return {}

    def replace(self, worker: int, course: Course, standing: Standing | None) -> None:
        self.require_open()
        if worker < self.workers:
            self._start_worker(self._control.sock, worker)
            self._begin(worker, course, standing)

    def resize(self, workers: int) -> None:
        self.require_open()
        self.require_possible(workers)
        self.workers = workers
        for worker in list(self._crew.values()):
            worker.leaving = worker.gone or worker.number >= workers
            self._let_go(worker)
        for number in range(workers):
            if number not in self._crew:
                self._add(number)

    def _add(self, number: int) -> None:
        """To those that are at work."""
        self._start_worker(self._control.sock, number)
        self._crew[number].late = True
        self._begin(number, self._course, None)

    def _let_go(self, worker: WorkerHandle) -> None:
        """End a worker that is to leave, if it has done all that it was given."""
        if worker.leaving and not worker.tasks and not worker.line.ended:
            worker.gone = True
            self._unwatch(worker)
            worker.line.close()

    @property
    def running(self) -> int:
        return self._crew.running

    def _begin(self, worker: int, course: Course, standing: Standing | None) -> None:
        begin = Begin(course.generation, course.base_seed, course.epoch, course.announced, standing)
        self._crew[worker].line.post(frame(begin))

    def drop(self) -> None:
        self.require_open()
        self._memory.control[0] = _NOBODY

    def submit(self, task: Task, slot: int) -> None:
        """See the contract; raises whatever pickling the indices raises."""
        self.require_open()
        run = Run(
            task.generation,
            task.batch,
            task.offset,
            task.indices,
            task.batch_size,
            task.rows,
            task.worker,
            task.bad,
            slot,
        )
        if task.worker is not None:
            self._crew[task.worker].give(task, frame(run))
            return
        self._crew.waiting.append((task, frame(run)))
        self._crew.hand_out(in_advance=self._crew.all_run)

    def flush(self) -> None:
        self._crew.hand_out(in_advance=True)
        self._send()

    def wait(self, timeout: float | None) -> list[Event]:
        self.require_open()
        self._send()
        events: list[Event] = self._on_control(0) if self._unread else []
        if timeout is not None:
            timeout = min(timeout, LONGEST_WAIT_S)
        ready = self._selector.select(0 if events else timeout)
        self.require_open()  # the interpreter's exit closes what a daemon thread waits for
        for key, mask in ready:
            events += key.data(mask)
        self._crew.hand_out(in_advance=self._crew.all_run)
        self._send()
        return events

    def busy(self) -> list[Busy]:
        return [worker.busy() for worker in self._crew.values() if worker.tasks]

    def stack(self, worker: int) -> str | None:
        pid, end = self._crew[worker].pid, time.monotonic() + STACK_S
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, STACK_SIGNAL)
        text = b""
        while time.monotonic() < end:
            time.sleep(0.02)  # it can't tell us when it is done
            before, text = text, self._memory.stack_text(worker)
            if text and text == before:
                break
        return text.decode(errors="replace") or None

    def kill(self, worker: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._crew[worker].pid, signal.SIGKILL)

    def _send(self) -> None:
        for worker in self._crew.values():
            if worker.line.unsent:
                worker.line.flush()
                self._watch(worker)

    def _watch(self, worker: WorkerHandle) -> None:
        """Be woken by a worker's messages and, while its socket is full, by room in that."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.line.unsent else 0)
        if not worker.line.ended and worker.watched != events:
            worker.watched = events
            self._selector.modify(worker.line.sock, events, partial(self._on_worker, worker))

    def _on_worker(self, worker: WorkerHandle, mask: int) -> list[Event]:
        if worker.number not in self._crew:  # its end came with the same call of `select`
            return []
        if mask & selectors.EVENT_WRITE:
            worker.line.flush()
            self._watch(worker)
        events: list[Event] = [worker.take(result) for result in worker.line.receive()]
        if worker.line.ended:  # its death is told by the template, with the exit code
            self._unwatch(worker)
        self._let_go(worker)
        return events

    def _unwatch(self, worker: WorkerHandle) -> None:
        if worker.line.sock in self._selector.get_map():
            self._selector.unregister(worker.line.sock)

    def _on_control(self, _: int) -> list[Event]:
        events: list[Event] = []
        unread, self._unread = self._unread, []
        for message in [*unread, *self._control.receive()]:
            if isinstance(message, Started):
                note(self._crew, message)
            elif isinstance(message, Ended):
                events += self._on_worker_end(message)
            elif isinstance(message, Unready):
                error = failures.load(message.error)
                annotate(error, "raised in unpickling the dataset for the workers")
                raise error
        if self._control.ended:
            events += self._on_template_end(0)
        return events

    def _on_worker_end(self, message: Ended) -> list[Event]:
        note(self._crew, message)
        worker = self._crew.pop(message.worker)
        if worker.gone:
            if worker.number < self.workers:  # it is wanted again meanwhile
                self._add(worker.number)
            return []
        events: list[Event] = [worker.take(result) for result in worker.line.receive()]
        self._unwatch(worker)
        worker.line.close()
        lost = tuple(worker.tasks.values())
        sample = worker.notes.read()
        return [*events, Died(message.worker, message.pid, message.exitcode, sample, lost)]

    def _on_template_end(self, _: int) -> list[Event]:
        if self._state is State.CLOSED:  # seen already, by the other of its two signs
            return []
        self._state = State.CLOSED
        self._template_died = True
        pid = self._template.pid
        self._template.join(KILL_S)
        exitcode = self._template.exitcode
        return [Died(None, pid, exitcode, None, self._crew.tasks())]
