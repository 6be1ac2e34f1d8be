"""The batches of one epoch, numbered, and the books of which of them were handed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler as TorchDistributedSampler

from penstock.distributed import DistributedSampler, share
from penstock.indices.orders import (
    Elastic,
    Order,
    Origin,
    Random,
    Sequential,
    Subset,
    TorchDistributed,
    Weighted,
)
from penstock.indices.walk import Walk

_ORDERS: dict[type, type[Order]] = {
    SequentialSampler: Sequential,
    RandomSampler: Random,
    SubsetRandomSampler: Subset,
    WeightedRandomSampler: Weighted,
    TorchDistributedSampler: TorchDistributed,
    DistributedSampler: Elastic,
}
"""By exact type: a subclass may have an ``__iter__`` of its own."""


def order_of(sampler: Any, origin: Mapping[str, Any], nested: bool) -> Order:
    """The order of a sampler; with `nested`, of one that gives batches."""
    kind = None if nested else _ORDERS.get(type(sampler))
    if kind is TorchDistributed and sampler.num_samples != share(sampler):
        kind = None  # its dataset has grown or shrunk, which torch complains about
    return Walk(sampler, origin, nested) if kind is None else kind(sampler, origin)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an epoch stands; plain enough for JSON.

    Attributes:
        count: how many of its batches were handed over.
        missing: the numbers of those that weren't, while a later one was.
        origin: from what its order can be made again.
    """

    count: int = 0
    missing: Sequence[int] = ()
    origin: Origin = field(default_factory=dict)


class Progress:
    """Which batches were handed over: all before `next` but the `missing` ones, which are few."""

    def __init__(self, count: int = 0, missing: Iterable[int] = ()) -> None:
        """`count` were, and those `missing` have later ones among these."""
        self.missing = set(missing)
        self.next = count + len(self.missing)

    @property
    def count(self) -> int:
        return self.next - len(self.missing)

    @property
    def wanted_from(self) -> int:
        """The first that was not."""
        return min(self.missing, default=self.next)

    def wants(self, number: int) -> bool:
        return number >= self.next or number in self.missing

    def add(self, number: int) -> None:
        self.missing.update(range(self.next, number))
        self.missing.discard(number)
        self.next = max(self.next, number + 1)


class IndexStream:
    """An iterator over an epoch's batches, (number, indices), but for those that were handed over before.

    It raises what the sampler raises. Whoever hands a batch over tells so to `progress`.
    """

    def __init__(self, sampler: Any, batched: bool, place: Place | None = None) -> None:
        place = place or Place()
        self.progress = Progress(place.count, place.missing)
        self._first = self.progress.wanted_from
        self._batch_sampler: Any = sampler if batched and type(sampler) is BatchSampler else None
        base, nested = sampler, batched
        if self._batch_sampler is not None:
            base, nested = sampler.sampler, False
        self._order = order_of(base, place.origin, nested)
        self._start = self._order.begins_at(self._first * self._size)
        if self._batch_sampler is not None:
            batches = self._grouped(sampler.batch_size, sampler.drop_last)
        else:
            indices = self._order.indices(self._start)
            batches = map(tuple, indices) if batched else ((index,) for index in indices)
        self._batches = self._numbered(batches)

    @property
    def _size(self) -> int:
        """How many indices of the order a batch takes; a short one at the end counts as if it weren't."""
        return 1 if self._batch_sampler is None else self._batch_sampler.batch_size

    def __iter__(self) -> IndexStream:
        return self

    def __next__(self) -> tuple[int, tuple[Any, ...]]:
        return next(self._batches)

    def place(self) -> Place:
        """From where another stream over the same sampler goes on with what was not handed over."""
        progress = self.progress
        origin = self._order.origin(self._given(progress.wanted_from))
        return Place(progress.count, sorted(progress.missing), origin)

    def _given(self, number: int) -> int:
        """How many indices the order has given before that batch."""
        return self._start + (number - self._first) * self._size

    def _grouped(self, size: int, drop_last: bool) -> Iterator[tuple[Any, ...]]:
        indices = self._order.indices(self._start)
        while len(batch := tuple(islice(indices, size))) == size or (batch and not drop_last):
            yield batch

    def _numbered(self, batches: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for number, batch in enumerate(batches, self._first):
            short = self._batch_sampler is not None and len(batch) < self._size
            wanted_from = self._given(self.progress.wanted_from)
            self._order.note(self._given(number + 1), batch, wanted_from, last=short)
            if self.progress.wants(number):
                yield number, batch
