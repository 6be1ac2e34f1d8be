"""What makes a sampler another one, as plain data: a state is of use only for a sampler like its own."""

from __future__ import annotations

from typing import Any

from torch.utils.data import RandomSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler as TorchDistributedSampler

from penstock.distributed import DistributedSampler
from penstock.indices.stream import ungrouped

ELASTIC = "penstock.DistributedSampler"

_DISTRIBUTED = "num_replicas", "shuffle", "seed", "drop_last"
_DETAILS: dict[type, tuple[str, ...]] = {
    RandomSampler: ("replacement", "num_samples"),
    WeightedRandomSampler: ("replacement", "num_samples"),
    TorchDistributedSampler: _DISTRIBUTED,
    DistributedSampler: _DISTRIBUTED,
}


def describe(sampler: Any, batched: bool) -> dict[str, Any]:
    """The loader's sampler by its kind and by what its order depends on."""
    _, base = ungrouped(sampler, batched)
    kind = ELASTIC if type(base) is DistributedSampler else type(base).__qualname__
    found: dict[str, Any] = {"sampler": kind}
    if batched:
        size, drop_last = getattr(sampler, "batch_size", None), getattr(sampler, "drop_last", None)
        found["batch_size"] = size if isinstance(size, int) else None
        found["drop_last"] = drop_last if isinstance(drop_last, bool) else None
    for name in _DETAILS.get(type(base), ()):
        found[f"sampler.{name}"] = getattr(base, name)
    return found


def epoch_of(sampler: Any) -> tuple[Any, int] | None:
    """(what of a loader's sampler is told the epoch by ``set_epoch``, the epoch that it was told last)."""
    for each in (sampler, getattr(sampler, "sampler", None)):
        epoch = getattr(each, "epoch", None)
        if hasattr(each, "set_epoch") and isinstance(epoch, int):
            return each, epoch
    return None
