"""Whether a state is of use for a loader, and which epoch it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data.dataloader import _DatasetKind

from penstock.errors import StateError
from penstock.indices import ELASTIC, describe, epoch_of

VERSION = 1
_PARTS = "_num_yielded", "missing", "_iterator_finished", "base_seed", "count", "announced"
_LOAD = "Load what its state_dict() gave."

Loader = Any
"""A `penstock.DataLoader`, whose module is above this one."""


def is_iterable(loader: Loader) -> bool:
    return bool(loader._dataset_kind == _DatasetKind.Iterable)


def likeness(loader: Loader) -> dict[str, Any]:
    """What a loader has to have in common with the one whose state it goes on from."""
    found: dict[str, Any] = {"dataset": "iterable" if is_iterable(loader) else "map-style"}
    if is_iterable(loader):
        found["num_workers"] = loader.num_workers  # each has its iterator
    else:
        found["dataset length"] = _length(loader.dataset)
    found |= describe(loader._index_sampler, loader._auto_collation)
    return found | {"seed": loader._seed, "seeding": loader._seeding}


def _length(thing: Any) -> int | None:
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None


def check(loader: Loader, state: Mapping[str, Any]) -> None:
    """Raise `StateError` if it is the state of another kind of loader."""
    if not isinstance(state, Mapping):
        raise StateError(
            f"this isn't the state of a penstock.DataLoader, but of type {type(state).__name__!r}. {_LOAD}"
        )
    if "version" not in state or "loader" not in state:
        raise StateError(
            f"this isn't the state of a penstock.DataLoader: it has {', '.join(map(repr, state))}, "
            f"but no 'version' and 'loader'. {_LOAD}"
        )
    if state["version"] != VERSION:
        raise StateError(
            f"this state has version {state['version']!r}, and this release of Penstock reads version "
            f"{VERSION}: go on with the release that saved it, or begin the epoch anew."
        )
    _check_form(state)
    was, now = state["loader"], likeness(loader)
    differ = {name for name in {*was, *now} if was.get(name) != now.get(name)}
    if was.get("sampler") == ELASTIC and "sampler.num_replicas" in differ:
        differ -= {"sampler.num_replicas", "batch_size"}
        if state["missing"]:
            raise StateError(
                "this state was taken with in_order=False, when batches had been handed over out of order: "
                "only as many ranks as before can go on from it."
            )
    if differ:
        lines = [f"  {name}: {was.get(name)!r} then, {now.get(name)!r} now" for name in sorted(differ)]
        raise StateError(
            "\n".join(["this state was saved by a loader that differs:", *lines]) + _advice(differ)
        )


def _check_form(state: Mapping[str, Any]) -> None:
    under_way = state.get("base_seed") is not None and not state.get("_iterator_finished")
    missing = [name for name in (*_PARTS, *(("order",) if under_way else ())) if name not in state]
    if missing:
        raise StateError(f"this state isn't whole: it has no {', '.join(map(repr, missing))}. {_LOAD}")
    given = state["_num_yielded"]
    if not isinstance(given, int) or given < 0:
        raise StateError(f"this state was changed: its '_num_yielded' is {given!r}. {_LOAD}")


def _advice(differ: set[str]) -> str:
    if "sampler.num_replicas" in differ:
        return "\nUse penstock.DistributedSampler to go on with another number of ranks."
    return "\nLoad it into a loader with the same dataset, sampler and batch size."


def tell_epochs(loader: Loader, state: Mapping[str, Any]) -> None:
    """Tell the loader and its sampler the epoch of the state, as ``set_epoch`` did then."""
    if state["announced"] is not None:
        loader.set_epoch(state["announced"])
    told = epoch_of(loader._index_sampler)
    if told is not None and told[1] != state.get("sampler_epoch", told[1]):
        told[0].set_epoch(state["sampler_epoch"])


def is_underway(loader: Loader, state: Mapping[str, Any]) -> bool:
    """Whether the loader is to go on in the epoch of the state; otherwise the next one begins.

    Raises:
        StateError: if it was told another epoch meanwhile, though something is left of that one.
    """
    if state["base_seed"] is None or state["_iterator_finished"]:
        return False
    told = epoch_of(loader._index_sampler)
    epochs = {
        "sampler": (state.get("sampler_epoch"), told and told[1]),
        "loader": (state["announced"], loader._epoch),
    }
    for what, (was, now) in epochs.items():
        if was is None or was == now:
            continue
        if _nothing_left(loader, state):
            return False
        raise StateError(
            f"the state that was loaded is of epoch {was}, with batches left, but the {what} was set to "
            f"epoch {now} since: begin the loop with epoch {was}, or load {{}} to give up that epoch's rest."
        )
    return True


def _nothing_left(loader: Loader, state: Mapping[str, Any]) -> bool:
    if "consumed" in state["order"]:
        return bool(state["order"]["consumed"] >= len(loader.dataset))
    length = None if is_iterable(loader) else _length(loader._index_sampler)
    return length is not None and state["_num_yielded"] >= length
