"""``num_workers="auto"``: as an attribute of a loader, and what it is bound by."""

from __future__ import annotations

import os
from typing import Any

from torch.utils.data import IterableDataset

from penstock.arena import MAX_WORKERS
from penstock.machine import cpus
from penstock.stats import Decision
from penstock.tuning import Controller, Limits

Loader = Any
"""A `penstock.DataLoader`, whose module is above this one."""


class Auto(int):
    """The number of workers that there may be at most, shown as ``auto``.

    Programs read ``loader.num_workers`` as a number, and make other loaders with it: a penstock.DataLoader
    that is given this one chooses for itself.
    """

    def __repr__(self) -> str:
        return "auto"


def resolve(num_workers: Any, dataset: Any, seeding: str) -> int:
    """What to keep as ``loader.num_workers``.

    Raises:
        ValueError: if it is a string other than "auto".
    """
    if isinstance(num_workers, str) and num_workers != "auto":
        raise ValueError(f"num_workers should be a number or 'auto', but got {num_workers!r}")
    if not isinstance(num_workers, str | Auto):
        return num_workers  # type: ignore[no-any-return]
    return Auto(1 if _is_bound_to_one(dataset, seeding) else min(our_cpus(), MAX_WORKERS))


def our_cpus() -> int:
    """This process's share of the processors, where `torchrun` has started several on the machine."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, cpus() // max(1, int(local) if local.isdigit() else 1))


def _is_bound_to_one(dataset: Any, seeding: str) -> bool:
    return isinstance(dataset, IterableDataset) or seeding == "worker"


def controller_of(loader: Loader) -> Controller | None:
    """That of this loader, made when first asked for; None where its number of workers is fixed."""
    if not isinstance(loader.num_workers, Auto) or _is_bound_to_one(loader.dataset, loader._seeding):
        return None
    if loader._controller is None:
        limits = Limits(our_cpus(), MAX_WORKERS, _why_some(loader), loader._prefetch_given)
        loader._controller = Controller(limits)
    controller: Controller = loader._controller
    return controller


def fixed_decisions(loader: Loader) -> tuple[Decision, ...]:
    """What to say where there is nothing to choose."""
    if not isinstance(loader.num_workers, Auto):
        return ()
    kind = (
        "this is an iterable dataset" if isinstance(loader.dataset, IterableDataset) else "seeding='worker'"
    )
    why = f"1 worker: {kind}, where what is in the batches depends on the number; give one to have more"
    return (Decision(0, 1, loader.prefetch_factor or 2, True, why),)


def in_memory_decisions(controller: Controller) -> tuple[Decision, ...]:
    """What to say where workers would only be in the way."""
    why = "no workers: all samples are in the cache, and batches are gathered from there"
    last = Decision(controller.batches, 0, controller.prefetch_factor, True, why)
    return (*controller.decisions, last)


def _why_some(loader: Loader) -> str:
    """What keeps the training process from making the samples itself."""
    if loader.worker_init_fn is not None:
        return "worker_init_fn"
    if loader.timeout:
        return "timeout"
    return "sample_timeout" if loader._policy.sample_timeout is not None else ""
