"""How samples become columns: their structure, and what each leaf is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from penstock.errors import NotStorableError
from penstock.shards.columns import GRIDS, PACKED, Column, column_of, shapes_of
from penstock.shards.packing import check_named, type_named
from penstock.shards.parts import EncodedImage, ImageParts, Pixels
from penstock.tree import LEAF, Fields, Items, Leaf, Structure, flatten, structure_of, unflatten


@dataclass(frozen=True, slots=True)
class Layout:
    """The structure of samples, with the column and its name for each leaf."""

    structure: Structure
    columns: tuple[Column, ...]
    names: tuple[str, ...]

    def join(self, other: Layout) -> Layout:
        """The layout that holds the samples of both; where they differ too much, a part of the sample is
        packed into one column."""
        if self == other:
            return self
        structure = _join(self.structure, other.structure)
        columns = [
            _join_parts(a, b) for a, b in zip(self._parts(structure), other._parts(structure), strict=True)
        ]
        return Layout(structure, tuple(columns), names_of(structure, columns))

    def _parts(self, structure: Structure) -> list[Any]:
        """A column, or a container of columns, for each leaf of `structure`."""
        return flatten(unflatten(self.structure, iter(self.columns)), structure)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        columns = [
            [c.kind, c.dtype, c.ndim, None if c.shape is None else list(c.shape)] for c in self.columns
        ]
        return {"structure": _to_json(self.structure), "columns": columns, "names": list(self.names)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Layout:
        """The inverse of `to_json`."""
        columns = (Column(k, d, n, None if s is None else tuple(s)) for k, d, n, s in data["columns"])
        return cls(_from_json(data["structure"]), tuple(columns), tuple(data["names"]))


def layout_of(samples: Sequence[Any]) -> Layout:
    """The narrowest layout for all these samples, at least one, which were taken `apart`.

    Raises:
        NotStorableError: if something in them is no plain data.
    """
    structure = reduce(_join, map(structure_of, samples))
    if not any(True for _ in _paths(structure, "")):
        structure = LEAF  # no column would tell how many samples there are
    _check(structure)
    leaves = zip(*(flatten(sample, structure) for sample in samples), strict=True)
    columns = [reduce(Column.join, map(column_of, set_of_leaf)) for set_of_leaf in leaves]
    return Layout(structure, tuple(columns), names_of(structure, columns))


def names_of(structure: Structure, columns: Sequence[Column]) -> tuple[str, ...]:
    """Names by where in a sample a leaf is, such as ``target.boxes`` or ``0``; no two alike.

    In a pair of an image and something else, they are ``image`` and ``label``.
    """
    taken: Counter[str] = Counter()
    names = []
    for path, column in zip(_paths(structure, ""), columns, strict=True):
        name = path or "sample"
        while taken[name] or (column.kind in GRIDS and taken[shapes_of(name)]):
            name += "_"
        taken.update((name, shapes_of(name)))
        names.append(name)
    return tuple(names)


def _paths(structure: Structure, prefix: str) -> Iterable[str]:
    if isinstance(structure, Leaf):
        yield prefix
        return
    if isinstance(structure, Fields):
        keys = [str(key) for key in structure.keys]
    elif structure.kind in (EncodedImage, Pixels):
        yield prefix or "image"
        return
    elif structure.kind is tuple and len(structure.children) == 2 and _is_image(structure.children[0]):
        keys = ["image", "label"]
    else:
        keys = list(getattr(structure.kind, "_fields", map(str, range(len(structure.children)))))
    for key, child in zip(keys, structure.children, strict=True):
        yield from _paths(child, f"{prefix}.{key}" if prefix else key)


def _is_image(structure: Structure) -> bool:
    return isinstance(structure, Items) and structure.kind in (EncodedImage, Pixels, ImageParts)


def _join(a: Structure, b: Structure) -> Structure:
    """What both have in common; a leaf where they differ."""
    if a == b:
        return a
    if isinstance(a, Fields) and isinstance(b, Fields) and a.keys == b.keys:
        return Fields(a.keys, tuple(map(_join, a.children, b.children)))
    if (
        isinstance(a, Items)
        and isinstance(b, Items)
        and a.kind is b.kind
        and len(a.children) == len(b.children)
    ):
        children = tuple(map(_join, a.children, b.children))
        return Items(a.kind, children, all(child is LEAF for child in children))
    return LEAF


def _join_parts(a: Any, b: Any) -> Column:
    return a.join(b) if isinstance(a, Column) and isinstance(b, Column) else PACKED


def _check(structure: Structure) -> None:
    """Refuse what couldn't be told in JSON."""
    if isinstance(structure, Fields):
        for key in structure.keys:
            if type(key) not in (str, int, bool, float, type(None)):
                raise NotStorableError(type(key), "it is a key of a dict")
    if isinstance(structure, Items) and structure.kind not in (list, tuple):
        check_named(structure.kind)
    if not isinstance(structure, Leaf):
        for child in structure.children:
            _check(child)


def _to_json(structure: Structure) -> Any:
    if isinstance(structure, Leaf):
        return None
    children = [_to_json(child) for child in structure.children]
    if isinstance(structure, Fields):
        return {"dict": [list(pair) for pair in zip(structure.keys, children, strict=True)]}
    if structure.kind in (list, tuple):
        return {structure.kind.__name__: children}
    return {"named": check_named(structure.kind), "items": children}


def _from_json(data: Any) -> Structure:
    if data is None:
        return LEAF
    if "dict" in data:
        keys = tuple(key for key, _ in data["dict"])
        return Fields(keys, tuple(_from_json(child) for _, child in data["dict"]))
    kind: type[Any] = type_named(*data["named"]) if "named" in data else list if "list" in data else tuple
    children = tuple(map(_from_json, data.get("items") or data.get("list") or data.get("tuple") or ()))
    return Items(kind, children, all(child is LEAF for child in children))
