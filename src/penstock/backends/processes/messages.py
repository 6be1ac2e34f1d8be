"""What the main process, the template and the workers say to each other.

All are tuples of plain values but for `Run`, whose indices are what the sampler gave. User
objects travel as bytes that are pickled and unpickled apart from the message, so that a failure there
loses no message.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from penstock.streams import Standing


class StartWorker(NamedTuple):
    """Main to template; the worker's end of its socket pair comes with it."""

    worker: int
    seed: int


class EndWorkers(NamedTuple):
    """Main to template: send `signal` to all workers; with 0, only end when they have."""

    signal: int


class Started(NamedTuple):
    """Template to main."""

    worker: int
    pid: int


class Ended(NamedTuple):
    """Template to main: a worker has ended; negative exit codes are signals."""

    worker: int
    pid: int
    exitcode: int


class Unready(NamedTuple):
    """Template to main: what it was given can't be loaded there."""

    error: bytes


class Begin(NamedTuple):
    """Main to worker: a course's fields; the tasks that follow are of that course. The iterator over an
    iterable dataset goes on from `standing`."""

    generation: int
    base_seed: int
    epoch: int
    announced: bool
    standing: Standing | None


class Run(NamedTuple):
    """Main to worker: a task's fields."""

    generation: int
    batch: int
    offset: int
    indices: tuple[Any, ...]
    batch_size: int
    rows: bool
    worker: int | None
    bad: tuple[int, ...]
    slot: int


class Result(NamedTuple):
    """Worker to main.

    `kind` is the outcome's class name, `detail` its fields; of `Rows` the spec is pickled, or None when
    it is the one that this worker sent last. `standing` is that of the iterator over an iterable dataset.
    """

    batch: int
    offset: int
    generation: int
    samples: int
    fetch_s: float
    collate_s: float
    ended: float
    standing: Standing | None
    kind: str
    detail: tuple[Any, ...]
    bad: tuple[tuple[Any, ...], ...]
