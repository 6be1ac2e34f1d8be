"""What a sample holds: a description that is drawn once, and built for every index.

Everything built is a function of the description and the index alone, so that every process makes the same.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch


class Point(NamedTuple):
    x: Any
    y: Any


Loose = collections.namedtuple("Loose", ["only"])


@dataclasses.dataclass
class Record:
    field: Any


class OwnList(list[Any]):
    """Has an attribute beside its items."""

    label = "class"


class OwnDict(dict[Any, Any]):
    """Can't be made from a mapping alone."""

    def __init__(self, tag: str, items: Any) -> None:
        super().__init__(items)
        self.tag = tag


class OwnTuple(tuple[Any, ...]):
    pass


class Frozen(Mapping[Any, Any]):
    """An immutable mapping."""

    def __init__(self, items: Any) -> None:
        self._items = dict(items)

    def __getitem__(self, key: Any) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Keyed(Frozen):
    """An immutable mapping whose constructor takes more than the items."""

    def __init__(self, tag: str, items: Any) -> None:
        super().__init__(items)
        self._tag = tag


class Row(Sequence[Any]):
    """An immutable sequence."""

    def __init__(self, items: Any) -> None:
        self._items = list(items)

    def __getitem__(self, place: Any) -> Any:
        return self._items[place]

    def __len__(self) -> int:
        return len(self._items)


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2


class OwnInt(int):
    pass


class OwnText(str):
    pass


class OwnTensor(torch.Tensor):
    pass


class Opaque:
    """No rule of `default_collate` knows it."""

    def __init__(self, value: int) -> None:
        self.value = value


class Pinnable(Opaque):
    """Has a ``pin_memory`` of its own."""

    def pin_memory(self) -> Pinnable:
        return Pinnable(-self.value)


class OwnError(Exception):
    """Takes two arguments, so that torch can't make it anew from its message."""

    def __init__(self, what: str, index: int) -> None:
        super().__init__(what, index)


def _tensor(dtype: torch.dtype, *shape: int) -> Callable[[int], torch.Tensor]:
    return lambda i: (torch.arange(int(np.prod(shape, dtype=int))).reshape(shape) + i % 100).to(dtype)


def _array(dtype: str, *shape: int) -> Callable[[int], Any]:
    return lambda i: (np.arange(int(np.prod(shape, dtype=int))).reshape(shape) + i % 100).astype(dtype)


def _viewed(view: Callable[[Any], Any], make: Callable[[int], Any]) -> Callable[[int], Any]:
    return lambda i: view(make(i))


_matrix = _tensor(torch.float32, 4, 6)
_cube = _tensor(torch.float32, 2, 3, 4)

TENSORS: dict[str, Callable[[int], Any]] = {
    **{
        str(dtype).removeprefix("torch."): _tensor(dtype, 2, 3)
        for dtype in (
            *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
            *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.uint16),
            torch.float8_e4m3fn,
        )
    },
    "0-d": _tensor(torch.float32),
    "0-d bool": _tensor(torch.bool),
    "1-d": _tensor(torch.int64, 5),
    "empty": _tensor(torch.float32, 0),
    "empty matrix": _tensor(torch.int32, 3, 0),
    "large": _tensor(torch.float32, 300, 300),
    "nan": lambda i: torch.tensor([float("nan"), float("inf"), -0.0, float(i)]),
    "transposed": _viewed(lambda t: t.t(), _matrix),
    "permuted": _viewed(lambda t: t.permute(2, 0, 1), _cube),
    "strided": _viewed(lambda t: t[::2, 1:4], _matrix),
    "expanded": _viewed(lambda t: t[:1].expand(5, 6), _matrix),
    "channels last": _viewed(lambda t: t[None].to(memory_format=torch.channels_last)[0], _cube),
    "conjugate": _viewed(lambda t: t.conj(), _tensor(torch.complex64, 3)),
    "negative": _viewed(lambda t: (t * 2j).conj().imag, _tensor(torch.complex64, 3)),
}
"""Tensors that collate to a tensor, in every process."""

ARRAYS: dict[str, Callable[[int], Any]] = {
    **{
        name: _array(name, 3)
        for name in ("f2", "f4", "f8", "c8", "c16", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?")
    },
    "0-d array": _array("f4"),
    "empty array": _array("f8", 2, 0),
    "large array": _array("f4", 300, 300),
    "strided array": _viewed(lambda a: a[::2], _array("i8", 6)),
    "transposed array": _viewed(lambda a: a.T, _array("f4", 2, 3)),
    **{
        f"np.{kind.__name__}": lambda i, kind=kind: kind(i % 100)
        for kind in (np.float16, np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64, np.complex64)
    },
    "np.bool": lambda i: np.bool_(i % 2),
}
"""Arrays and numpy's numbers that collate to a tensor."""

PLAIN: dict[str, Callable[[int], Any]] = {
    "int": lambda i: i - 3,
    "long": lambda i: i << 40,
    "float": lambda i: i / 3,
    "infinite": lambda i: float("-inf") if i % 2 else float("nan"),
    "bool": lambda i: i % 2 == 0,
    "str": lambda i: f"sample {i}",
    "bytes": lambda i: b"%d" % i,
    "own int": OwnInt,
    "own str": lambda i: OwnText(i),
    "enum": lambda i: Colour(i % 2 + 1),
    "np.str_": lambda i: np.str_(i),
    "np.bytes_": lambda i: np.bytes_(b"%d" % i),
    "range": lambda i: range(i, i + 3),
    "empty tuple": lambda i: (),  # noqa: ARG005
    "empty list": lambda i: [],  # noqa: ARG005
    "empty dict": lambda i: {},  # noqa: ARG005
}
"""Whatever else `default_collate` has a rule for."""

REFUSED: dict[str, Callable[[int], Any]] = {
    "None": lambda i: None,  # noqa: ARG005
    "huge int": lambda i: 2**63 + i,
    "complex": lambda i: complex(i, 1),
    "Decimal": lambda i: decimal.Decimal(i),
    "Fraction": lambda i: fractions.Fraction(i, 7),
    "date": lambda i: datetime.date(2020, 1, i % 28 + 1),
    "set": lambda i: {i},
    "opaque": Opaque,
    "record": Record,
    "function": lambda i: print,  # noqa: ARG005
    "array of str": lambda i: np.array([f"{i}"]),
    "array of objects": lambda i: np.array([None, i], dtype=object),
    "array of records": lambda i: np.array([(i, 1.0)], dtype=[("a", "i4"), ("b", "f4")]),
    "big-endian array": lambda i: np.array([i], dtype=">f4"),
    "array of dates": lambda i: np.array([i], dtype="datetime64[D]"),
    "np.datetime64": lambda i: np.datetime64(i, "D"),
    "sparse": lambda i: (torch.eye(3) * (i + 1)).to_sparse(),
    "csr": lambda i: (torch.eye(3) * (i + 1)).to_sparse_csr(),
    "nested": lambda i: torch.nested.nested_tensor([torch.full((2,), float(i)), torch.ones(3)]),
}
"""What `default_collate` raises at, the same in every process."""


def _quantised(index: int) -> torch.Tensor:
    return torch.quantize_per_tensor(torch.arange(4.0) + index % 5, 0.1, 3, torch.quint8)


def _quantised_by_channel(index: int) -> torch.Tensor:
    scales, zeros = torch.tensor([0.1, 0.2], dtype=torch.double), torch.tensor([1, 2])
    return torch.quantize_per_channel(torch.ones(2, 3) * (index % 5), scales, zeros, 0, torch.qint8)


UNUSUAL: dict[str, Callable[[int], Any]] = {
    "meta": lambda i: torch.empty(2, i % 3, device="meta"),
    "own tensor": lambda i: torch.full((2,), float(i)).as_subclass(OwnTensor),
    "quantised": _quantised,
    "quantised by channel": _quantised_by_channel,
    "requires grad": lambda i: torch.full((2,), float(i), requires_grad=True),
    "result that requires grad": lambda i: torch.full((2,), float(i), requires_grad=True) * 2,
    "parameter": lambda i: torch.nn.Parameter(torch.full((2,), float(i))),
    "pinnable": Pinnable,
}
"""What torch treats otherwise in workers, or what needs a collate function of its own."""

LEAVES = {**TENSORS, **ARRAYS, **PLAIN}
EVERY = {**LEAVES, **REFUSED, **UNUSUAL}

ERRORS: dict[str, Callable[[int], BaseException]] = {
    "ValueError": lambda i: ValueError(f"bad sample {i}"),
    "KeyError": lambda i: KeyError(f"no sample {i}"),
    "IndexError": lambda i: IndexError(i),
    "FileNotFoundError": lambda i: FileNotFoundError(2, "No such file", f"{i}.png"),
    "UnicodeDecodeError": lambda i: UnicodeDecodeError("ascii", b"%d" % i, 0, 1, "ordinal not in range"),
    "own error": lambda i: OwnError("bad sample", i),
    "empty error": lambda i: RuntimeError(),  # noqa: ARG005
    "NotImplementedError": lambda i: NotImplementedError(f"{i}"),
}

CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "own list": OwnList,
    "own tuple": OwnTuple,
    "deque": lambda items: collections.deque(items, maxlen=9),
    "UserList": collections.UserList,
    "row": Row,
    "point": lambda items: Point(items[0], items[-1]),
    "loose": lambda items: Loose(items[0]),
    "dict": lambda items: dict(zip("abcdefgh", items, strict=False)),
    "numbered": lambda items: dict(enumerate(items)),
    "own dict": lambda items: OwnDict("tag", zip("abcdefgh", items, strict=False)),
    "OrderedDict": lambda items: collections.OrderedDict(zip("zyxwvuts", items, strict=False)),
    "defaultdict": lambda items: collections.defaultdict(list, zip("abcdefgh", items, strict=False)),
    "Counter": lambda items: collections.Counter(a=1, b=len(items)),
    "UserDict": lambda items: collections.UserDict(zip("abcdefgh", items, strict=False)),
    "ChainMap": lambda items: collections.ChainMap({"a": items[0]}, {"b": items[-1]}),
    "frozen": lambda items: Frozen(zip("abcdefgh", items, strict=False)),
    "keyed": lambda items: Keyed("tag", zip("abcdefgh", items, strict=False)),
    "namespace of a type": lambda items: types.MappingProxyType({"a": items[0]}),
    "array.array": lambda items: array.array("d", [len(items), 2.0]),
}
"""Containers by how they are made of their items, of which there is at least one."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    name: str

    def build(self, index: int) -> Any:
        return EVERY[self.name](index)


@dataclasses.dataclass(frozen=True)
class Box:
    kind: str
    items: tuple[Description, ...]

    def build(self, index: int) -> Any:
        return CONTAINERS[self.kind]([item.build(index) for item in self.items])


@dataclasses.dataclass(frozen=True)
class Failing:
    error: str

    def build(self, index: int) -> Any:
        raise ERRORS[self.error](index)


@dataclasses.dataclass(frozen=True)
class Now:
    """`rare` for every index whose remainder by `every` is `at`, else `usual`."""

    every: int
    at: int
    rare: Description
    usual: Description

    def build(self, index: int) -> Any:
        return (self.rare if index % self.every == self.at else self.usual).build(index)


@dataclasses.dataclass(frozen=True)
class Sized:
    """A vector whose length goes with the index."""

    most: int

    def build(self, index: int) -> Any:
        return torch.full((index % self.most + 1,), float(index))


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Several descriptions, each for as many indices one after the other."""

    each: int
    items: tuple[Description, ...]

    def build(self, index: int) -> Any:
        return self.items[index // self.each % len(self.items)].build(index)


Description = Leaf | Box | Failing | Now | Sized | Shelf
