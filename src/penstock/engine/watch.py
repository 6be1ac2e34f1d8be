"""Watches for samples that take longer than ``sample_timeout``, and ends the workers that are on them.

A worker notes each sample before it fetches it, with the time. So nobody has to wake up but for the moment
when the oldest of the running samples would be late. A worker that has tasks and gets on to no sample (it was
stopped, say) is late as well; how long it takes to its first sample is not limited.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from penstock.backends.base import Backend, Busy
from penstock.errors import SampleInHand, SampleTimeoutError


class Late(NamedTuple):
    """Why a worker was ended; `sample` is the (batch, position) that it was on when that was decided."""

    error: SampleTimeoutError
    sample: tuple[int, int] | None


class Watch:
    """`limit` is in seconds; None watches nothing."""

    def __init__(self, backend: Backend, limit: float | None) -> None:
        self._backend, self._limit = backend, limit
        self._ended: dict[int, Late] = {}  # by pid

    def next_look(self) -> float | None:
        """Seconds until a running sample may be late."""
        if self._limit is None:
            return None
        now = time.monotonic()
        late = [busy.since + self._limit - now for busy in self._running()]
        return max(0.01, min(late, default=self._limit))

    def end_late(self, name: Callable[[tuple[int, int] | None], SampleInHand | None]) -> None:
        """Kill the workers whose sample is late; their deaths come as events."""
        if self._limit is None:
            return
        now = time.monotonic()
        for busy in self._running():
            if now - busy.since > self._limit:
                stack = self._backend.stack(busy.worker)
                error = SampleTimeoutError(busy.worker, busy.pid, name(busy.sample), self._limit, stack)
                self._ended[busy.pid] = Late(error, busy.sample)
                self._backend.kill(busy.worker)

    def cause_of(self, pid: int) -> Late | None:
        """Why this worker was killed here, if it was."""
        return self._ended.pop(pid, None)

    def _running(self) -> list[Busy]:
        return [busy for busy in self._backend.busy() if busy.since and busy.pid not in self._ended]
