"""The template: the process that workers are forked from.

It is started once for a set of workers, keeps the dataset as it was then, runs no user code (but what
unpickling the dataset runs, under forkserver), and has one thread. So a new worker can be forked at any
time, as safely as the first, and inherits nothing that the main process has opened since.

It waits for three things: messages from the main process; the end of a worker, which it reports; the
end of the main process, after which it kills its workers and goes.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import selectors
import signal
import socket
from functools import partial
from multiprocessing.context import ForkProcess
from typing import Any

from penstock.arena import Memory
from penstock.backends.processes import failures, threads
from penstock.backends.processes.messages import Ended, EndWorkers, Started, StartWorker, Unready
from penstock.backends.processes.prologue import ignore_interrupts
from penstock.backends.processes.wire import Channel, frame, unframe
from penstock.backends.processes.worker import LoadJob, WorkerJob, worker_main
from penstock.errors import WorkerError

_FORK = multiprocessing.get_context("fork")
_MESSAGE_BYTES = 16384


def template_main(control: socket.socket, main_pid: int, memory: Memory, load: LoadJob, method: str) -> None:
    """The life of the template, from its start on by `method`.

    `load` gives the job; it is called here, once, but under spawn in each worker.
    """
    multiprocessing.current_process().daemon = False  # a daemonic process may have no children
    ignore_interrupts()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the user's handler is for the user's process
    signal.set_wakeup_fd(-1)
    threads.one_from_here_on()
    if method != "spawn":
        try:
            load = partial(identity, load())
        except Exception as error:
            control.sendall(frame(_unready(error)))
            while control.recv(_MESSAGE_BYTES):  # ending with messages unread would take ours along
                pass
            return
    gc.freeze()  # the collector doesn't touch, and so doesn't copy, what workers share
    _Template(control, main_pid, memory, load).run()
    gc.unfreeze()  # so that a spawned interpreter takes all of it down: nanobind tells of what is left


def _unready(error: Exception) -> Unready:
    """The error, or as much of it as one message takes."""
    data = failures.dump(error)
    if len(data) > _MESSAGE_BYTES:
        data = failures.dump(WorkerError(type(error).__qualname__, str(error)[: _MESSAGE_BYTES // 2]))
    return Unready(data)


def identity(job: WorkerJob) -> WorkerJob:
    return job


def end_of(pid: int) -> int | None:
    """A descriptor that is readable once the process has ended; None where the kernel has none.

    Raises:
        ProcessLookupError: if there is no such process.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # before Linux 5.3, or forbidden in this container
        return None


class _Template:
    def __init__(self, control: socket.socket, main_pid: int, memory: Memory, load: LoadJob) -> None:
        self._control, self._load = control, load
        self._memory = memory
        self._workers: dict[int, ForkProcess] = {}
        self._finishing = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, self._on_message)
        try:
            main_end = end_of(main_pid)
        except ProcessLookupError:  # it ended while we started
            os._exit(0)
        if main_end is not None:
            self._selector.register(main_end, selectors.EVENT_READ, self._on_main_end)

    def run(self) -> None:
        while not (self._finishing and not self._workers):
            for key, _ in self._selector.select():
                key.data(key.fileobj)

    def _on_message(self, control: Any) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 1)
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            self._on_main_end(control)
        message = unframe(data)
        if isinstance(message, StartWorker):
            self._start_worker(message, fds[0])
        elif isinstance(message, EndWorkers):
            self._finishing = True
            self._signal_workers(message.signal)

    def _on_main_end(self, _: Any) -> None:
        self._signal_workers(signal.SIGKILL)
        os._exit(0)

    def _start_worker(self, message: StartWorker, fd: int) -> None:
        sock = socket.socket(fileno=fd)
        process = _FORK.Process(
            target=self._become_worker,
            args=(message, sock, os.getpid()),
            name=f"penstock-worker-{message.worker}",
            daemon=True,
        )
        process.start()
        sock.close()
        self._workers[message.worker] = process
        self._tell(Started(message.worker, process.pid or 0))
        self._watch(message.worker, process)

    def _watch(self, worker: int, process: ForkProcess) -> None:
        fd = end_of(process.pid or 0)
        on_end = partial(self._on_worker_end, worker, process)
        self._selector.register(process.sentinel if fd is None else fd, selectors.EVENT_READ, on_end)

    def _on_worker_end(self, worker: int, process: ForkProcess, fd: Any) -> None:
        self._selector.unregister(fd)
        process.join()
        if fd != process.sentinel:
            os.close(fd)
        self._workers.pop(worker)
        self._tell(Ended(worker, process.pid or 0, process.exitcode or 0))
        process.close()

    def _signal_workers(self, number: int) -> None:
        for process in self._workers.values() if number else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)

    def _tell(self, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is seen by `run`
            self._control.sendall(frame(message))

    def _become_worker(self, message: StartWorker, sock: socket.socket, parent: int) -> None:
        """In the forked child: let go of what is the template's, and be a worker."""
        self._control.close()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fd, int) and key.fileobj is not self._control:
                os.close(key.fd)
        self._selector.close()
        self._workers.clear()
        worker_main(self._load, message.worker, message.seed, Channel(sock), self._memory, parent)
