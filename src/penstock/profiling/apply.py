"""Puts an advice into a loader."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from penstock.caching import cache
from penstock.profiling.advise import CACHE_UNTIL


def apply(loader: Any, changes: Mapping[str, Any]) -> Any:
    """A loader like this one but for these arguments; the loader itself stays as it is."""
    changed = copy.copy(loader)
    vars(changed).update(_iterator=None)
    apply_here(changed, changes)
    return changed


def apply_here(loader: Any, changes: Mapping[str, Any]) -> None:
    """Change these arguments of a loader that isn't in use, and what depends on them; a cache is filled."""
    settings = dict(changes)
    if CACHE_UNTIL in settings:
        settings["dataset"] = cache(loader.dataset, until=settings.pop(CACHE_UNTIL))
    workers = settings.get("num_workers", loader.num_workers)
    if workers == 0:
        settings |= {"prefetch_factor": None, "persistent_workers": False, "timeout": 0}
    elif loader.prefetch_factor is None:
        settings.setdefault("prefetch_factor", 2)
    vars(loader).update(settings)  # torch's class refuses some of them once it is made
    if "dataset" in settings:
        for _ in loader:  # fills the cache
            pass
