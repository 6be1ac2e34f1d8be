"""Where samples come from, in which order: datasets and samplers, made anew for each loader."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from tests.differential.samples import Description

# -- map-style -----------------------------------------------------------------------------------


class Mapped(Dataset[Any]):
    """Samples by index; `asked` holds what it was asked for, in this process."""

    def __init__(self, sample: Description, size: int) -> None:
        self.sample, self.size = sample, size
        self.asked: list[Any] = []

    def __getitem__(self, index: Any) -> Any:
        self.asked.append(index)
        if isinstance(index, list | tuple):  # a sampler of lists, without automatic batching
            return [self.sample.build(int(i)) for i in index]
        if not -self.size <= index < self.size:
            raise IndexError(f"index {index} of {self.size}")
        return self.sample.build(int(index) % self.size)


class Lengthy(Mapped):
    def __len__(self) -> int:
        return self.size


class Bulky(Lengthy):
    """Is asked for a whole batch at a time."""

    kind: type[Any] = list

    def __getitems__(self, indices: Any) -> Any:
        self.asked.append(tuple(indices))
        return self.kind(self.sample.build(int(i)) for i in indices)


class BulkyTuple(Bulky):
    kind = tuple


class Duck:
    """No Dataset at all, but with all that one needs."""

    def __init__(self, sample: Description, size: int) -> None:
        self.inner = Lengthy(sample, size)

    def __getitem__(self, index: Any) -> Any:
        return self.inner[index]

    def __len__(self) -> int:
        return len(self.inner)


@dataclasses.dataclass(frozen=True)
class MapSource:
    """A map-style dataset of `size` samples, of one of the kinds of `MAP_KINDS`."""

    kind: str
    sample: Description
    size: int

    iterable = False

    def make(self) -> Any:
        return MAP_KINDS[self.kind](self.sample, self.size)


def _halves(sample: Description, size: int) -> list[Any]:
    return [Lengthy(sample, size // 2), Lengthy(sample, size - size // 2)]


def _vectors(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(2.0 * size).reshape(size, 2), torch.arange(size)


MAP_KINDS: dict[str, Any] = {
    "dataset": Lengthy,
    "without a length": Mapped,
    "bulk": Bulky,
    "bulk, tuple": BulkyTuple,
    "duck": Duck,
    "list": lambda sample, size: [(torch.full((2,), float(i)), i) for i in range(size)],  # noqa: ARG005
    "subset": lambda sample, size: Subset(Lengthy(sample, 2 * size), range(0, 2 * size, 2)),
    "subset of bulk": lambda sample, size: Subset(Bulky(sample, size + 3), list(range(3, size + 3))),
    "subset of a subset": lambda sample, size: Subset(
        Subset(Lengthy(sample, size + 3), range(size + 3)), list(range(size))
    ),
    "concatenation": lambda sample, size: ConcatDataset(_halves(sample, size)),
    "concatenation of subsets": lambda sample, size: ConcatDataset(
        [Subset(half, range(len(half))) for half in _halves(sample, size)]
    ),
    "stack": lambda sample, size: StackDataset(Lengthy(sample, size), range(size)),
    "named stack": lambda sample, size: StackDataset(a=Lengthy(sample, size), b=Bulky(sample, size)),
    "tensors": lambda sample, size: TensorDataset(*_vectors(size)),  # noqa: ARG005
    "subset of tensors": lambda sample, size: Subset(  # noqa: ARG005
        TensorDataset(*_vectors(size)), list(range(size))[::-1]
    ),
    "stack of tensors": lambda sample, size: StackDataset(  # noqa: ARG005
        one=TensorDataset(*_vectors(size)), other=_vectors(size)[0]
    ),
    "a tensor": lambda sample, size: _vectors(size)[0],  # noqa: ARG005
    "an array": lambda sample, size: np.arange(3.0 * size).reshape(size, 3),  # noqa: ARG005
    "range": lambda sample, size: range(size),  # noqa: ARG005
    "str": lambda sample, size: "abcdefghijklmnopqrstuvwxyz"[:size],  # noqa: ARG005
    "dict": lambda sample, size: {i: f"{i}" for i in range(size)},  # noqa: ARG005
}

# -- iterable ------------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    """`sizes` holds how many samples each worker gives; without workers, the first counts.

    With `shard` a worker's samples are its own; otherwise all workers give the same.
    """

    def __init__(self, sample: Description, sizes: tuple[int, ...], shard: bool) -> None:
        self.sample, self.sizes, self.shard = sample, sizes, shard

    def _indices(self) -> range:
        info = get_worker_info()
        worker = info.id if info is not None else 0
        start = 1000 * worker if self.shard else 0
        return range(start, start + self.sizes[worker % len(self.sizes)])

    def __iter__(self) -> Iterator[Any]:
        return (self.sample.build(index) for index in self._indices())


class Stepping(Stream):
    """Its iterator lives on after an exception, as a generator doesn't."""

    def __iter__(self) -> Iterator[Any]:
        return map(self.sample.build, self._indices())


class Itself(Stream):
    """Is its own iterator, so that it goes on from epoch to epoch where it is the same object."""

    _left: Iterator[int] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._left is None:
            self._left = iter(self._indices())
        return self.sample.build(next(self._left))


class Broken(Stream):
    """Can't even begin."""

    def __iter__(self) -> Iterator[Any]:
        raise LookupError("no such stream")


STREAM_KINDS: dict[str, type[Stream]] = {
    "generator": Stream,
    "steps": Stepping,
    "itself": Itself,
    "broken": Broken,
}


@dataclasses.dataclass(frozen=True)
class StreamSource:
    """An iterable dataset; `length` is what its ``__len__`` says, and None for none."""

    kind: str
    sample: Description
    sizes: tuple[int, ...]
    shard: bool
    length: int | None
    chained: bool

    iterable = True

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def make(self) -> Any:
        kind: Any = STREAM_KINDS[self.kind]
        if self.length is not None:
            kind = type(f"{kind.__name__}OfLength", (Measured, kind), {"length": self.length})
        stream = kind(self.sample, self.sizes, self.shard)
        return ChainDataset([stream, kind(self.sample, (2,), False)]) if self.chained else stream


class Measured:
    """What says its length."""

    length: int

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:  # stands in torch's warning
        return "a stream"


# -- samplers ------------------------------------------------------------------------------------


class Endless:
    """Has no length and no end."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return itertools.cycle(range(self.size))


class Failing(Endless):
    """Raises after a few."""

    def __iter__(self) -> Iterator[int]:
        yield from range(min(3, self.size))
        raise OSError("the index is lost")

    def __len__(self) -> int:
        return self.size


class OwnBatches(BatchSampler):
    """A subclass with an order of its own: longest batches first."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter(sorted(super().__iter__(), key=len, reverse=True))


class Pairs(Endless):
    """Without automatic batching, lists go through to the dataset whole."""

    def __iter__(self) -> Iterator[Any]:
        return ([i, (i + 1) % self.size] for i in range(0, self.size, 2))


class EndlessBatches(Endless):
    def __iter__(self) -> Iterator[Any]:
        return itertools.cycle([[0], [self.size - 1, 0]])


SAMPLERS: dict[str, Any] = {
    "range": lambda size: range(0, size, 2),
    "list": lambda size: [*range(size)][::-1],
    "negative": lambda size: [-1] * min(size, 1),
    "set": lambda size: {*range(size)},
    "iterator": lambda size: iter(range(size)),
    "numpy": lambda size: np.arange(size),
    "tensor": lambda size: torch.arange(size),
    "out of range": lambda size: [0, size + 5, 0],
    "of str": lambda size: ["0", "1"],  # noqa: ARG005
    "endless": Endless,
    "failing": Failing,
    "random": lambda size: RandomSampler(range(size)),
    "with replacement": lambda size: RandomSampler(range(size), replacement=True, num_samples=size + 4),
    "weighted": lambda size: WeightedRandomSampler([i + 0.5 for i in range(size)], size + 2),
    "of a subset": lambda size: SubsetRandomSampler(range(size // 2)),
    "distributed": lambda size: DistributedSampler(range(size), num_replicas=2, rank=1),
    "number": lambda size: size,
}

BATCH_SAMPLERS: dict[str, Any] = {
    "torch's": lambda size: BatchSampler(range(size), 3, False),
    "random": lambda size: BatchSampler(RandomSampler(range(size)), 2, True),
    "own": lambda size: OwnBatches(range(size), 3, False),
    "lists": lambda size: [[0], [*range(size)], [0, 0]],
    "tuples": lambda size: [(0,), tuple(range(size))],
    "ranges": lambda size: [range(size), range(0, size, 2)],
    "arrays": lambda size: np.arange(2 * (size // 2)).reshape(2, size // 2),
    "generators": lambda size: ((i for i in range(k)) for k in range(1, size)),
    "with an empty one": lambda size: [[0], [], [size - 1]],
    "endless": EndlessBatches,
    "failing": lambda size: map(lambda i: [10 // (2 - i)] if i else [0], range(size)),  # noqa: C417
    "of indices": lambda size: range(size),
}


@dataclasses.dataclass(frozen=True)
class Order:
    """A sampler or a batch sampler, by its name; made anew for each loader, as some are used up."""

    name: str
    size: int
    batches: bool

    def make(self) -> Any:
        return (BATCH_SAMPLERS if self.batches else SAMPLERS)[self.name](self.size)
