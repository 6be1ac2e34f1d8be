"""How a loader makes batches: what a worker is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from penstock.collate import ReadyRows, Spec, is_default_collate
from penstock.plan import Indices
from penstock.policy import Policy
from penstock.seeding import draws_nothing
from penstock.stats import CacheStats


@dataclass(frozen=True)
class Recipe:
    """How a loader makes batches; what a worker gets of it."""

    dataset: Any
    collate_fn: Callable[[Any], Any]
    batched: bool
    """False for ``batch_size=None``: a task is then one sample, given to `collate_fn` as it is."""
    iterable: bool = False
    """Samples come from ``iter(dataset)`` instead of ``dataset[i]``."""
    drop_last: bool = False
    """Of an iterable dataset, leave out a last batch that is short."""
    seeds_samples: bool = True
    """Every sample gets random state of its own; otherwise that is left to the dataset."""
    policy: Policy = field(default_factory=Policy)

    @property
    def seeded(self) -> bool:
        """Whether generators are set before each sample: not where no code runs that may draw."""
        quiet = is_default_collate(self.collate_fn) and draws_nothing(self.dataset)
        return self.seeds_samples and not quiet

    @cached_property
    def rows(self) -> bool:
        """Whether samples may be placed as rows; if they turn out not to fit, they are made again."""
        return self.batched and (self.seeds_samples or self.iterable) and is_default_collate(self.collate_fn)

    @property
    def by_turns(self) -> bool:
        """Whether it matters which worker makes a batch: each has its iterator, or its random state."""
        return self.iterable or not self.seeds_samples

    @property
    def splittable(self) -> bool:
        """Whether several tasks may make one batch."""
        return self.rows and not self.by_turns and batched_getter(self.dataset) is None


def batched_getter(dataset: Any) -> Callable[[list[Any]], Any] | None:
    """The dataset's ``__getitems__``, where it is more than a loop over ``dataset[i]``.

    ``Subset`` has one in any case; it counts only if the dataset beneath has one.
    """
    if isinstance(dataset, Subset) and type(dataset).__getitems__ is Subset.__getitems__:
        return dataset.__getitems__ if batched_getter(dataset.dataset) else None
    return getattr(dataset, "__getitems__", None) or None


ReadyGetter = Callable[[Indices], ReadyRows | None]


def ready_getter(dataset: Any) -> ReadyGetter | None:
    """The dataset's ``ready_rows(indices)``, also of the one beneath a ``Subset``: where these samples lie in
    memory as rows, so that no code of the user's has to run for them; None if not all of them do."""
    if type(dataset) is Subset:
        inner, indices = ready_getter(dataset.dataset), dataset.indices
        return None if inner is None else lambda wanted: _ready_of_subset(inner, indices, wanted)
    getter: ReadyGetter | None = getattr(type(dataset), "ready_rows", None) and dataset.ready_rows
    return getter


def _ready_of_subset(inner: ReadyGetter, indices: Any, wanted: Indices) -> ReadyRows | None:
    try:
        if not isinstance(wanted, np.ndarray):
            return inner([indices[index] for index in wanted])
        if isinstance(indices, np.ndarray) or (isinstance(indices, torch.Tensor) and indices.is_cpu):
            return inner(np.asarray(indices)[wanted])
        return inner([indices[index] for index in wanted.tolist()])
    except LookupError:  # it comes again, of the one sample, from the dataset
        return None


def cache_stats(dataset: Any) -> CacheStats | None:
    """Of a dataset that has its samples ready once they were made, also of one beneath a ``Subset``."""
    if type(dataset) is Subset:
        return cache_stats(dataset.dataset)
    stats: CacheStats | None = dataset.stats() if hasattr(type(dataset), "ready_spec") else None
    return stats


def ready_spec(dataset: Any) -> Spec | None:
    """That of all its samples, if every one of them lies in memory as a row."""
    if type(dataset) is Subset:
        return ready_spec(dataset.dataset)
    spec: Spec | None = dataset.ready_spec() if hasattr(type(dataset), "ready_spec") else None
    return spec
