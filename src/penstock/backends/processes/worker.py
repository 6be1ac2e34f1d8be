"""A worker process: receives tasks, runs them one after the other, sends what came of them.

It ends when the main process closes its end of the socket pair or dies, after the sample in hand; the
template's death ends it at once, by the kernel (``PR_SET_PDEATHSIG``).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import os
import pickle
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils import worker as torch_worker

from penstock.arena import STACK_BYTES, Memory, Notes
from penstock.backends.processes import failures
from penstock.backends.processes.messages import Begin, Result, Run
from penstock.backends.processes.wire import Channel
from penstock.bad import BadSample
from penstock.collate import Spec
from penstock.fetch import Dropped, Failed, Fetcher, Outcome, Recipe, Rows, Timing, fetcher_for
from penstock.plan import Course, Task
from penstock.seeding import SampleSeeder
from penstock.streams import Standing

_PR_SET_PDEATHSIG = 1
STACK_SIGNAL = signal.SIGRTMAX - 3
"""Has a worker write its Python stack to its place in the arena's file."""


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """What every worker of a set is told at its start."""

    recipe: Recipe
    worker_init_fn: Callable[[int], None] | None
    workers: int


LoadJob = Callable[[], WorkerJob]


def worker_main(load: LoadJob, worker: int, seed: int, channel: Channel, memory: Memory, parent: int) -> None:
    """The life of a worker, from the fork on; returns when there is nothing more to do."""
    die_with(parent)
    _answer_for_the_stack(memory, worker)
    loop = _Loop(worker, channel, memory)
    loop.prepare(load, seed)
    try:
        loop.run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the main process is gone
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent's thread, the only one there, ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(0)


def _answer_for_the_stack(memory: Memory, worker: int) -> None:
    """By faulthandler, which needs neither the interpreter lock nor the end of what C code is doing."""
    place = memory.stack_place(worker)
    if place is None:
        return
    with contextlib.suppress(OSError):  # without /proc
        file = os.open(f"/proc/self/fd/{memory.fd}", os.O_WRONLY | os.O_CLOEXEC)
        os.pwrite(file, bytes(STACK_BYTES), place)  # of the one that was here before
        os.lseek(file, place, os.SEEK_SET)
        faulthandler.register(STACK_SIGNAL, file, all_threads=False)


def _dress_like_torch(job: WorkerJob, worker: int, seed: int) -> None:
    """What a dataset may expect of a torch worker: one thread, seeds, ``get_worker_info()``."""
    torch.set_num_threads(1)
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    np.random.seed(torch_worker._generate_state(seed - worker, worker))  # type: ignore[no-untyped-call]
    torch_worker._worker_info = torch_worker.WorkerInfo(
        id=worker, num_workers=job.workers, seed=seed, dataset=job.recipe.dataset
    )


class _Loop:
    """Receives and answers; `prepare` comes first."""

    def __init__(self, worker: int, channel: Channel, memory: Memory) -> None:
        self._worker, self._channel, self._memory = worker, channel, memory
        self._notes = Notes(memory, worker)
        self._fetcher: Fetcher | None = None
        self._broken: Failed | None = None
        self._generation = 0
        self._dataset: Any = None
        self._spec: bytes | None = None
        self._sent_spec: Spec | None = None

    def prepare(self, load: LoadJob, seed: int) -> None:
        """Load the job and run the user's ``worker_init_fn``; what is raised ends every task."""
        try:
            job = load()
            self._dataset = job.recipe.dataset
            _dress_like_torch(job, self._worker, seed)
            if job.worker_init_fn is not None:
                job.worker_init_fn(self._worker)
            recipe = job.recipe
            seeder = SampleSeeder(recipe.dataset, recipe.collate_fn) if recipe.seeded else None
            self._fetcher = fetcher_for(recipe)(
                recipe, self._memory, self._before_samples, seeder, self._worker, self._can_send
            )
        except Exception as error:
            self._broken = Failed(error, None, traceback.format_exc())

    def run(self) -> None:
        while (message := self._channel.receive()) is not None:
            if isinstance(message, Begin):
                self._begin(Course(*message[:-1]), message.standing)
            else:
                self._run_task(message)

    def _begin(self, course: Course, standing: Standing | None) -> None:
        """Begin an epoch; what user code raises ends every task of it."""
        self._generation = course.generation
        self._memory.forget_reserved()
        if self._fetcher is None:
            return
        self._broken = None
        try:
            if course.announced and hasattr(self._dataset, "set_epoch"):
                self._dataset.set_epoch(course.epoch)
            self._fetcher.begin(course, standing)
        except Exception as error:
            self._broken = Failed(error, None, traceback.format_exc())

    def _before_samples(self, batch: int, first: int) -> Iterator[None]:
        return self._notes.samples(self._generation, batch, first)

    def _run_task(self, run: Run) -> None:
        task, timing = Task(*run[:-1]), Timing()
        outcome: Outcome
        if task.generation != self._generation:
            outcome = Dropped()
        elif self._broken is not None:
            outcome = self._broken
        else:
            assert self._fetcher is not None
            outcome, timing = self._fetcher.run(task, run.slot)
        self._notes.clear()
        kind, detail = self._describe(outcome)
        bad = self._fetcher.bad if self._fetcher is not None else ()
        self._channel.send(
            Result(
                task.batch,
                task.offset,
                task.generation,
                timing.samples,
                timing.fetch_s,
                timing.collate_s,
                timing.ended,
                timing.standing,
                kind,
                detail,
                tuple(tuple(getattr(each, name) for name in BadSample.__slots__) for each in bad),
            )
        )

    def _can_send(self, spec: Spec) -> bool:
        """Whether the main process can be told of it: not so if a sample is a named tuple, or has keys, of
        a class that can't be imported."""
        try:
            self._spec = pickle.dumps(spec)
        except Exception:
            return False
        return True

    def _describe(self, outcome: Outcome) -> tuple[str, tuple[Any, ...]]:
        kind = type(outcome).__name__
        if isinstance(outcome, Failed):
            return kind, (failures.dump(outcome.error), outcome.position, outcome.text)
        if isinstance(outcome, Rows):
            spec = None if outcome.spec is self._sent_spec else self._spec
            self._sent_spec = outcome.spec
            return kind, (spec, outcome.rows, outcome.left_out)
        return kind, tuple(getattr(outcome, f.name) for f in dataclasses.fields(outcome))
