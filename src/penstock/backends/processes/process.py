"""A worker as its process, with the names of ``multiprocessing.Process``."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import weakref

from penstock.backends.processes.template import end_of


class WorkerProcess:
    """For those who look after processes: to pin one to a core, to measure its memory, to see it end.

    It is the template's child, so how it ended is known only from the template.

    Attributes:
        name, daemon: as in ``multiprocessing.Process``.
        pid: None until it has started.
        exitcode: None until the template has told it.
    """

    daemon = True

    def __init__(self, number: int) -> None:
        self.name = f"penstock-worker-{number}"
        self.pid: int | None = None
        self.exitcode: int | None = None
        self._end: int | None = None
        self._gone = False

    def __repr__(self) -> str:
        state = "running" if self.is_alive() else "ended" if self.pid else "not started yet"
        return f"<{type(self).__name__} {self.name} pid={self.pid} {state}>"

    def watch(self) -> None:
        """From now on its end is seen as it happens, not only when the template tells of it."""
        if self._end is not None or self.exitcode is not None or self.pid is None:
            return
        try:
            self._end = end_of(self.pid)
        except ProcessLookupError:
            self._gone = True
        if self._end is not None:
            weakref.finalize(self, os.close, self._end)

    def is_alive(self) -> bool:
        return self.pid is not None and not self._ended(0)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for `timeout` seconds."""
        self._ended(timeout)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> bool:
        if self.exitcode is not None or self._gone or self._end is None:
            return self.exitcode is not None or self._gone
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def _signal(self, number: int) -> None:
        if self._end is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._end, number)
