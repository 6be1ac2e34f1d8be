"""The batches of one epoch, numbered, and the books of which of them were handed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler as TorchDistributedSampler

from penstock.at_hand import AtHand
from penstock.distributed import DistributedSampler, share
from penstock.indices.cursor import Cursor
from penstock.indices.listed import Listed
from penstock.indices.orders import (
    Again,
    Elastic,
    Order,
    Origin,
    Random,
    Sequential,
    Subset,
    TorchDistributed,
    Weighted,
)
from penstock.indices.place import Place, Progress
from penstock.indices.walk import Walk
from penstock.plan import Block, indices_of
from penstock.streams import Standing

_ORDERS: dict[type, type[Order]] = {
    SequentialSampler: Sequential,
    RandomSampler: Random,
    SubsetRandomSampler: Subset,
    WeightedRandomSampler: Weighted,
    TorchDistributedSampler: TorchDistributed,
    DistributedSampler: Elastic,
    Listed: Again,
}
"""By exact type: a subclass may have an ``__iter__`` of its own."""


def order_of(sampler: Any, origin: Mapping[str, Any], nested: bool) -> Order:
    """The order of a sampler; with `nested`, of one that gives batches."""
    kind = None if nested else _ORDERS.get(type(sampler))
    if kind is TorchDistributed and sampler.num_samples != share(sampler):
        kind = None  # its dataset has grown or shrunk, which torch complains about
    return Walk(sampler, origin, nested) if kind is None else kind(sampler, origin)


def ungrouped(sampler: Any, batched: bool) -> tuple[Any, Any]:
    """(torch's own `BatchSampler` or None, the sampler below it); `sampler` is that of a loader."""
    groups = batched and type(sampler) is BatchSampler
    return (sampler, sampler.sampler) if groups else (None, sampler)


def is_known(sampler: Any, batched: bool) -> bool:
    """Whether the order of a loader's sampler is one of these."""
    groups, base = ungrouped(sampler, batched)
    return type(base) in _ORDERS and (groups is not None or not batched)


def outlook(sampler: Any, batched: bool, besides: Any) -> Origin:
    """What the order of an epoch that hasn't begun will follow from; beside a generator that the caller
    looks after, and what is drawn then."""
    groups, base = ungrouped(sampler, batched)
    return order_of(base, {}, batched and groups is None).outlook(besides)


class IndexStream:
    """An iterator over an epoch's batches, (number, indices), but for those that were handed over before.

    It raises what the sampler raises.

    Attributes:
        progress: which batches were handed over.
        turn: the number of the first batch.
        foreseeable: whether it makes no difference to anybody when its batches are asked for.
    """

    standings: Mapping[int, Standing] = MappingProxyType({})
    """There are none but of iterators over iterable datasets."""

    def __init__(self, sampler: Any, batched: bool, place: Place | None = None) -> None:
        place = place or Place()
        self.progress = Progress(place.count, place.missing)
        self.turn = self._first = self.progress.wanted_from
        self._groups, base = ungrouped(sampler, batched)
        self._size = 1 if self._groups is None else int(self._groups.batch_size)
        """How many indices of the order a batch takes; a short one at the end counts as if it weren't."""
        self._drop_last = self._groups is not None and bool(self._groups.drop_last)
        self._order = order_of(base, place.origin, batched and self._groups is None)
        self.foreseeable = not isinstance(self._order, Walk)
        self._start = self._order.begins_at(self._first * self._size)
        all_wanted = self.foreseeable and not place.missing
        runs = self._order.runs(self._start) if all_wanted and self._groups is not None else None
        self._cursor = None if runs is None else Cursor(runs)
        self._next = self._first
        self._walk = self._walked(batched, all_wanted) if self._cursor is None else iter(())

    def __iter__(self) -> IndexStream:
        return self

    def __next__(self) -> tuple[int, tuple[Any, ...]]:
        return next(self._walk) if self._cursor is None else self._next_cut(self._cursor)

    def take(self, samples: int) -> Block | None:
        """The next batches, of so many samples at most, but one at least; none at the end. None if they
        can't be had at once."""
        if self._cursor is None:
            return None
        size = self._size
        count = max(1, samples // size) * size
        if not self._order.unseen:  # what isn't drawn yet is drawn for the batch that needs it, as by torch
            count = max(size, min(count, self._cursor.left // size * size))
        indices = self._cursor.take(count)
        whole, rest = divmod(len(indices), size)
        sizes = [size] * whole
        if rest and not self._drop_last:
            sizes.append(rest)
        first, self._next = self._next, self._next + len(sizes)
        return Block(range(first, self._next), sizes, indices[: sum(sizes)])

    def handed_over(self, number: int, worker: int | None = None, standing: Standing | None = None) -> None:
        """That batch was; it doesn't matter who made it."""
        del worker, standing
        self.progress.add(number)

    def follow(self, at_hand: AtHand) -> None:
        """Those count as they are handed over; of those before no more will be."""
        self.progress.follow(at_hand)

    def stands(self, worker: int, standing: Standing) -> None:
        """There is no such iterator here."""

    @property
    def count(self) -> int:
        """How many batches of the epoch were handed over."""
        return self.progress.now().count

    def place(self) -> Place:
        """From where another stream over the same sampler goes on with what was not handed over."""
        progress = self.progress.now()
        origin = self._order.origin(self._given(progress.wanted_from))
        return Place(progress.count, sorted(progress.missing), origin)

    def _given(self, number: int) -> int:
        """How many indices the order has given before that batch."""
        return self._start + (number - self._first) * self._size

    def _next_cut(self, cursor: Cursor) -> tuple[int, tuple[int, ...]]:
        """The next batch of indices that lie in arrays; `take` may take others in between."""
        # not bound to a name as an array: the one that it views has to be gone before the next one is drawn
        batch = tuple(cursor.take(self._size).tolist())
        if not batch or (self._drop_last and len(batch) < self._size):
            raise StopIteration
        number, self._next = self._next, self._next + 1
        return number, batch

    def _walked(self, batched: bool, all_wanted: bool) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The batches of indices that come one by one."""
        if self._groups is not None:
            batches = self._grouped(self._size)
        else:
            indices = self._order.indices(self._start)
            batches = map(indices_of, indices) if batched else ((index,) for index in indices)
        return enumerate(batches, self._first) if all_wanted else self._numbered(batches)

    def _grouped(self, size: int) -> Iterator[tuple[Any, ...]]:
        indices, drop_last = self._order.indices(self._start), self._drop_last
        while len(batch := tuple(islice(indices, size))) == size or (batch and not drop_last):
            yield batch

    def _numbered(self, batches: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        noted = not self.foreseeable  # a batch of small samples is made in less time than this takes
        for number, batch in enumerate(batches, self._first):
            if noted:
                short = self._groups is not None and len(batch) < self._size
                wanted_from = self._given(self.progress.wanted_from)
                self._order.note(self._given(number + 1), batch, wanted_from, last=short)
            if self.progress.wants(number):
                yield number, batch
