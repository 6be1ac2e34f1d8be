"""The workers and the arena of one iterator, for as long as it lives."""

from __future__ import annotations

import multiprocessing
from typing import Any

import torch
from torch.utils.data.dataloader import _DatasetKind

from penstock.arena import MAX_WORKERS, ArenaPool
from penstock.backends.base import Backend, State
from penstock.backends.inline import InlineBackend
from penstock.backends.processes import ProcessesBackend, WorkerJob
from penstock.engine import Engine, Epoch
from penstock.fetch import Recipe
from penstock.plan import Course
from penstock.resume import Passage
from penstock.stats import Recorder

Loader = Any
"""A `penstock.DataLoader`, whose module is above this one."""


class Session:
    """See above."""

    def __init__(self, loader: Loader, pool: ArenaPool, passage: Passage) -> None:
        """Draws a base seed, as torch does, unless the first epoch goes on under one."""
        self._pool = pool
        self.dataset, self.workers = loader.dataset, loader.num_workers
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
        self._ahead = loader.num_workers * (loader.prefetch_factor or 1)
        self._timeout = float(loader.timeout)
        self._in_order = bool(getattr(loader, "in_order", True))
        self._generation = 0
        self._next_count = 1
        self._engine: Engine | None = None
        self.arena = pool.take()
        self._backend = self._make_backend(loader)
        try:
            self._backend.start()
        except BaseException:
            self.close()
            raise

    def _make_backend(self, loader: Loader) -> Backend:
        if loader.num_workers == 0:
            return InlineBackend(self._recipe)
        if loader.num_workers > MAX_WORKERS:
            raise ValueError(f"num_workers can be {MAX_WORKERS} at most, got {loader.num_workers}")
        job = WorkerJob(self._recipe, loader.worker_init_fn, loader.num_workers)
        context = loader.multiprocessing_context or multiprocessing.get_context()
        return ProcessesBackend(job, self.arena.memory, context, self._base_seed)

    def abandon(self) -> bool:
        """Give up the epoch that is under way; False if these workers are of no more use."""
        usable = self._backend.usable_here and self._backend.state is State.OPEN
        return usable and (self._engine is None or self._engine.abandon())

    def begin(self, loader: Loader, passage: Passage, recorder: Recorder) -> Engine:
        """Start an epoch; the one before it was given up."""
        self._generation += 1
        course = self._course(loader, passage)
        epoch = Epoch(
            batches=passage,
            ahead=self._ahead,
            rows=self._recipe.rows,
            splittable=self._recipe.splittable,
            course=course,
            iterable=self._recipe.iterable,
            by_turns=self._recipe.by_turns,
            timeout=self._timeout,
            in_order=self._in_order,
            policy=loader._policy,
            book=loader._book,
            dataset=self.dataset,
        )
        self._engine = Engine(epoch, self._backend, self.arena, recorder)
        return self._engine

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
        return list(self._backend.processes())

    @property
    def base_seed(self) -> int:
        return self._base_seed

    def close(self) -> None:
        self._backend.close()
        if self._engine is not None:
            self._engine.release()
        if self._backend.settled:
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
