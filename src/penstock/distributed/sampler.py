"""`DistributedSampler`: torch's, whose epoch may begin where another number of ranks left it.

The ranks of a world take turns: rank r of W takes the places r, r + W, r + 2W, ... of an order that is the
same for all. So what they have consumed together, keeping step, is a beginning of that order, and any other
number of ranks can take turns over the rest. Nothing but (seed, epoch, samples consumed) is needed for that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar

import torch
from torch.utils.data import distributed as torch_distributed

T = TypeVar("T")

_PIECE = 4096
"""How many indices are made Python integers at once."""


class DistributedSampler(torch_distributed.DistributedSampler[T]):
    """torch's ``DistributedSampler``, and ``set_epoch(epoch, consumed)`` to begin in the middle of an epoch.

    The arguments and the order are torch's. A run that stopped in an epoch, when its W ranks together had
    consumed so many samples of it, goes on with any number of ranks: over the epoch every sample comes
    exactly once, up to what is added (or, with ``drop_last``, left out) to give all ranks as many. That is
    done at the epoch's end only, for the world that gets there. `penstock.DataLoader` keeps the books: its
    ``state_dict()`` holds what was consumed.

    Attributes:
        consumed: how many samples of the epoch all ranks together have had before the sampler begins.
    """

    def __init__(
        self,
        dataset: Any,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle, seed, drop_last)
        self.set_epoch(0)

    def set_epoch(self, epoch: int, consumed: int = 0) -> None:
        """Set the epoch, and after how many samples of it, counted over all ranks, to begin.

        It holds, as in torch, until it is called again; so does ``len()``, the samples left to this rank.

        Raises:
            ValueError: if `consumed` is negative.
        """
        if consumed < 0:
            raise ValueError(f"consumed should be 0 or more, but got {consumed}")
        super().set_epoch(epoch)
        self.consumed = consumed
        self.num_samples = share(self, consumed)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[Any]:
        return turns(self, self.consumed)


def share(sampler: torch_distributed.DistributedSampler[Any], consumed: int = 0) -> int:
    """How many indices each rank gets after `consumed` samples of the epoch."""
    left = max(0, len(sampler.dataset) - consumed)  # type: ignore[arg-type]
    return left // sampler.num_replicas if sampler.drop_last else math.ceil(left / sampler.num_replicas)


def turns(
    sampler: torch_distributed.DistributedSampler[Any], consumed: int = 0, start: int = 0
) -> Iterator[int]:
    """The indices of the sampler's rank after `consumed` samples of the epoch, but for the first `start`.

    Past its end the order begins again, which is how torch evens out the ranks.
    """
    size, world = len(sampler.dataset), sampler.num_replicas  # type: ignore[arg-type]
    end = consumed + share(sampler, consumed) * world
    places = range(consumed + sampler.rank + start * world, end, world)
    inside = range(places.start, min(end, size), world)
    added = (place % size for place in places[len(inside) :])
    if not sampler.shuffle:
        return chain(inside, added)
    generator = torch.Generator().manual_seed(sampler.seed + sampler.epoch)
    order = torch.randperm(size, generator=generator)
    mine = order[inside.start : inside.stop : world]
    return chain(integers(mine), (int(order[place]) for place in added))


def integers(indices: torch.Tensor) -> Iterator[int]:
    """A tensor's elements, of which few are Python integers at a time."""
    starts = range(0, len(indices), _PIECE)
    return chain.from_iterable(indices[start : start + _PIECE].tolist() for start in starts)
