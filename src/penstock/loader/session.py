"""The workers and the arena of one iterator, for as long as it lives."""

from __future__ import annotations

import multiprocessing
import operator
import os
from typing import Any

import torch
from torch.utils.data.dataloader import _DatasetKind

from penstock.arena import MAX_WORKERS, ArenaPool
from penstock.backends.base import Backend, State
from penstock.backends.inline import InlineBackend
from penstock.backends.processes import ProcessesBackend, WorkerJob
from penstock.engine import Batches, Engine, Epoch
from penstock.fetch import ReadyGetter, Recipe, ready_getter, ready_spec
from penstock.loader.auto import controller_of, fixed_decisions, in_memory_decisions
from penstock.machine import available_memory, private_memory
from penstock.plan import Course
from penstock.ready import HERE_BYTES, MOST_BATCHES, ReadyEngine, fitting
from penstock.resume import Passage
from penstock.stats import Recorder

Loader = Any
"""A `penstock.DataLoader`, whose module is above this one."""


MEMORY_SHARE = 0.5
"""The part of the free memory that workers which are added may take."""


class Session:
    """See above.

    Attributes:
        workers: how many there are, or are to be.
        controller: what chooses their number, if they don't have a fixed one.
        closed: it was closed, or is being closed.
    """

    def __init__(self, loader: Loader, pool: ArenaPool, passage: Passage) -> None:
        """Draws a base seed, as torch does, unless the first epoch goes on under one."""
        self._pool = pool
        self.closed = False
        self.dataset = loader.dataset
        self.controller = controller_of(loader)
        self.workers: int = loader.num_workers if self.controller is None else self.controller.workers
        self._recipe = Recipe(
            loader.dataset,
            loader.collate_fn,
            loader._auto_collation,
            loader._dataset_kind == _DatasetKind.Iterable,
            loader.drop_last,
            loader._seeding == "sample",
            loader._policy,
        )
        if passage.base_seed is None:
            drawn = torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
            self._base_seed = int(drawn.item())
        else:
            self._base_seed = passage.base_seed
        _check(loader)
        self._prefetch = loader.prefetch_factor or 1
        self._timeout = float(loader.timeout)
        self._in_order = bool(getattr(loader, "in_order", True))
        self._generation = 0
        self._next_count = 1
        self._engine: Engine | ReadyEngine | None = None
        self._together = 1
        self._settled = True
        self.arena = pool.take()
        self._owner = os.getpid()
        self._job = self._job_of(loader)
        self._context = loader.multiprocessing_context
        self._backend: Backend | None = None
        self._ready = self._ready_getter(loader)
        if self._ready is None:
            self._started()

    def _ready_getter(self, loader: Loader) -> ReadyGetter | None:
        """Where all samples lie, if they lie in memory and a batch of them is as quickly gathered here as it
        would be received from a worker."""
        if not self._recipe.rows or self._recipe.by_turns:
            return None
        spec = ready_spec(loader.dataset)
        size = getattr(loader.batch_sampler, "batch_size", None)
        if not isinstance(size, int) or size < 1:
            size = None
        if spec is None or (self.workers and (not size or size * spec.sample_bytes > HERE_BYTES)):
            return None
        self._together = fitting(spec, size) if size else 1
        return ready_getter(loader.dataset)

    def _started(self) -> Backend:
        """The backend, started when it is first needed."""
        if self._backend is None:
            self._backend = self._new_backend()
            try:
                self._backend.start()
            except BaseException:
                self.close()
                raise
        return self._backend

    def require_usable_here(self) -> None:
        """Raise `ClosedError` in a process forked from the one whose workers these are: a batch that is ready
        would be handed over in both, and its memory used again by one."""
        if self._backend is not None and not self._backend.usable_here:
            self._backend.require_open()

    def _job_of(self, loader: Loader) -> WorkerJob | None:
        if self.workers == 0:
            return None
        if loader.num_workers > MAX_WORKERS:
            raise ValueError(f"num_workers can be {MAX_WORKERS} at most, got {loader.num_workers}")
        return WorkerJob(self._recipe, loader.worker_init_fn, loader.num_workers)

    def _new_backend(self) -> Backend:
        if self._job is None:
            return InlineBackend(self._recipe)
        context = self._context or multiprocessing.get_context()
        return ProcessesBackend(self._job, self.arena.memory, context, self._base_seed, self.workers)

    # -- the number of workers -------------------------------------------------------------------

    @property
    def _ahead(self) -> int:
        return self.workers * self._prefetch

    @property
    def all_run(self) -> bool:
        backend = self._started()
        return backend.running == backend.workers

    def resize(self, workers: int, prefetch_factor: int) -> None:
        """Have more or fewer of them, at least one, with so many batches ahead for each."""
        self._started().resize(workers)
        self.workers, self._prefetch = workers, prefetch_factor
        if isinstance(self._engine, Engine):
            self._engine.ahead = self._ahead

    def do_without_workers(self) -> None:
        """Make the batches that follow in this process; none may be in the making."""
        before, inline = self._started(), InlineBackend(self._recipe)
        self.workers, self._backend = 0, inline
        inline.start()
        if isinstance(self._engine, Engine):
            self._engine.ahead = 0
            self._engine.go_on_with(inline)
        before.close()
        self._settled = before.settled

    def room(self) -> int:
        """How many more workers, with the batches that each has ahead, the memory has room for."""
        workers = self.processes  # at the end of an epoch none is busy
        each = max((private_memory(worker.pid) for worker in workers if worker.pid), default=0)
        by_slots = self.arena.room() // self._prefetch
        return min(by_slots, int(available_memory() * MEMORY_SHARE) // each) if each else by_slots

    # -- epochs ----------------------------------------------------------------------------------

    def abandon(self) -> bool:
        """Give up the epoch that is under way; False if these workers are of no more use."""
        usable = os.getpid() == self._owner
        if self._backend is not None:
            usable = self._backend.usable_here and self._backend.state is State.OPEN
        return usable and (self._engine is None or self._engine.abandon())

    def begin(self, loader: Loader, passage: Passage, recorder: Recorder) -> Engine | ReadyEngine:
        """Start an epoch; the one before it was given up."""
        self._generation += 1
        self._follow(loader, recorder)
        course, policy, book = self._course(loader, passage), loader._policy, loader._book

        def engine(batches: Batches) -> Engine:
            epoch = Epoch(
                batches=batches,
                ahead=self._ahead,
                rows=self._recipe.rows,
                splittable=self._recipe.splittable,
                course=course,
                iterable=self._recipe.iterable,
                by_turns=self._recipe.by_turns,
                timeout=self._timeout,
                in_order=self._in_order,
                policy=policy,
                book=book,
                dataset=self.dataset,
            )
            return Engine(epoch, self._started(), self.arena, recorder)

        if self._ready is None:
            self._engine = engine(passage)
        else:
            ahead = MOST_BATCHES if passage.foreseeable else max(1, self._ahead)
            self._engine = ReadyEngine(passage, ahead, self._together, self._ready, recorder, engine)
        return self._engine

    def _follow(self, loader: Loader, recorder: Recorder) -> None:
        """Do what was decided at the end of the epoch before, or by another iterator."""
        if self.controller is None:
            recorder.decisions = fixed_decisions(loader)
            return
        if self._ready is not None:
            recorder.decisions = in_memory_decisions(self.controller)
            return
        recorder.decisions = self.controller.decisions
        if self.workers and not self.controller.workers:
            self._engine = None
            self.do_without_workers()
        elif self.workers:
            self.resize(self.controller.workers, self.controller.prefetch_factor)

    def _course(self, loader: Loader, passage: Passage) -> Course:
        """The base seed is ``seed=``, or what torch drew; the epoch is the one that was set, or the count of
        those under this base seed. A passage that goes on has its own."""
        counter: Any = self if loader._seed is None else loader
        count = counter._next_count if passage.count is None else passage.count
        counter._next_count = count + 1
        if loader._seed is None and passage.base_seed is not None:
            self._base_seed = passage.base_seed
        base_seed = self._base_seed if loader._seed is None else loader._seed
        passage.begin(loader, base_seed, count)
        if passage.announced is None:
            return Course(self._generation, base_seed, count)
        return Course(self._generation, base_seed, passage.announced, announced=True)

    @property
    def processes(self) -> list[Any]:
        return [] if self._backend is None else list(self._backend.processes())

    @property
    def base_seed(self) -> int:
        return self._base_seed

    def close(self) -> None:
        self.closed = True
        if self._backend is not None:
            self._backend.close()
        if self._engine is not None:
            self._engine.release()
            self._engine = None  # it may lead back to us
        if self._settled and (self._backend is None or self._backend.settled):
            self.arena.trim(keep=self._ahead + 1)
            self._pool.give(self.arena)
        else:
            self.arena.close()


def _check(loader: Loader) -> None:
    """What torch looks at when an iterator is made, in its words."""
    if loader.num_workers == 0 and loader.timeout != 0:
        raise AssertionError("_SingleProcessDataLoaderIter requires timeout == 0")
    if loader.num_workers > 0 and loader.prefetch_factor == 0:
        raise AssertionError("prefetch_factor must be greater than 0 for MultiProcessingDataLoaderIter")
    operator.index(loader.prefetch_factor or 1)
