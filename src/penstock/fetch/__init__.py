"""Runs one task: the random state, ``dataset[i]``, and the batch or its part put where it belongs."""

from penstock.fetch.choice import fetcher_for
from penstock.fetch.fetcher import Fetcher
from penstock.fetch.outcomes import (
    Block,
    Direct,
    Dropped,
    Exhausted,
    Failed,
    LeftOut,
    NotRegular,
    Outcome,
    Rows,
    Timing,
)
from penstock.fetch.recipe import ReadyGetter, Recipe, batched_getter, cache_stats, ready_getter, ready_spec

__all__ = [
    "Block",
    "Direct",
    "Dropped",
    "Exhausted",
    "Failed",
    "Fetcher",
    "LeftOut",
    "NotRegular",
    "Outcome",
    "ReadyGetter",
    "Recipe",
    "Rows",
    "Timing",
    "batched_getter",
    "cache_stats",
    "fetcher_for",
    "ready_getter",
    "ready_spec",
]
