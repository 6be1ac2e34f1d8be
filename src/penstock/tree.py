"""The one walker over nested samples: what holds what, and the leaves in order.

A *structure* describes the containers of a sample: exactly ``dict``, ``list``, ``tuple`` and named
tuples. Whatever else a sample holds is a leaf. Structures are immutable and compare by value.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any


class StructureMismatch(Exception):
    """A sample is not built as the structure says."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf: anything that is not a container. There is only `LEAF`, in every process."""

    def __reduce__(self) -> str:
        return "LEAF"

    def collect(self, sample: Any, into: list[Any]) -> None:
        into.append(sample)

    def build(self, leaves: Iterator[Any]) -> Any:
        return next(leaves)


@dataclass(frozen=True, slots=True)
class Items:
    """A list, a tuple or a named tuple."""

    kind: type[Any]
    children: tuple[Structure, ...]
    flat: bool

    def collect(self, sample: Any, into: list[Any]) -> None:
        if type(sample) is not self.kind or len(sample) != len(self.children):
            raise StructureMismatch
        if self.flat:
            into.extend(sample)
            return
        for child, item in zip(self.children, sample, strict=True):
            child.collect(item, into)

    def build(self, leaves: Iterator[Any]) -> Any:
        if self.flat:
            items = list(islice(leaves, len(self.children)))
        else:
            items = [child.build(leaves) for child in self.children]
        if self.kind is list:
            return items
        return tuple(items) if self.kind is tuple else self.kind(*items)


@dataclass(frozen=True, slots=True)
class Fields:
    """A dict, with its keys in this order."""

    keys: tuple[Hashable, ...]
    children: tuple[Structure, ...]

    def collect(self, sample: Any, into: list[Any]) -> None:
        if type(sample) is not dict or tuple(sample) != self.keys:
            raise StructureMismatch
        for key, child in zip(self.keys, self.children, strict=True):
            child.collect(sample[key], into)

    def build(self, leaves: Iterator[Any]) -> Any:
        return {k: c.build(leaves) for k, c in zip(self.keys, self.children, strict=True)}


Structure = Leaf | Items | Fields
LEAF = Leaf()


def is_namedtuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def structure_of(sample: Any) -> Structure:
    """The structure of `sample`."""
    kind = type(sample)
    if kind is dict:
        return Fields(tuple(sample), tuple(structure_of(v) for v in sample.values()))
    if kind in (list, tuple) or is_namedtuple(kind):
        children = tuple(structure_of(item) for item in sample)
        return Items(kind, children, flat=all(child is LEAF for child in children))
    return LEAF


def flatten(sample: Any, structure: Structure) -> list[Any]:
    """The leaves of `sample`, in order.

    Raises:
        StructureMismatch: if `sample` is not built like `structure`. A container where the structure
            has a leaf is not noticed: it comes back as that leaf.
    """
    leaves: list[Any] = []
    structure.collect(sample, leaves)
    return leaves


def leaves_of(sample: Any) -> Iterator[Any]:
    """The leaves of `sample`, in order, whatever its structure."""
    kind = type(sample)
    if kind is dict:
        for value in sample.values():
            yield from leaves_of(value)
    elif kind in (list, tuple) or is_namedtuple(kind):
        for item in sample:
            yield from leaves_of(item)
    else:
        yield sample


def map_leaves(function: Callable[[Any], Any], sample: Any) -> Any:
    """The same structure with ``function(leaf)`` for each leaf."""
    kind = type(sample)
    if kind is dict:
        return {key: map_leaves(function, value) for key, value in sample.items()}
    if kind in (list, tuple) or is_namedtuple(kind):
        items = [map_leaves(function, item) for item in sample]
        return items if kind is list else tuple(items) if kind is tuple else kind(*items)
    return function(sample)


def columns_of(samples: Sequence[Any], structure: Structure) -> list[Sequence[Any]]:
    """The leaves of several samples, by their place: first all first leaves, and so on.

    Raises:
        StructureMismatch: as `flatten`.
    """
    if structure is LEAF:
        return [samples]
    return list(zip(*[flatten(sample, structure) for sample in samples], strict=True))


def unflatten(structure: Structure, leaves: Iterator[Any]) -> Any:
    """The inverse of `flatten`."""
    return structure.build(leaves)


def map_kinds(structure: Structure, replace: Callable[[type], type]) -> Structure:
    """The same structure with each sequence's type replaced by ``replace(type)``."""
    if isinstance(structure, Leaf):
        return structure
    children = tuple(map_kinds(child, replace) for child in structure.children)
    if isinstance(structure, Fields):
        return Fields(structure.keys, children)
    return Items(replace(structure.kind), children, structure.flat)
