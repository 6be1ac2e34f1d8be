"""Where in a dataset, and in what it wraps, its transforms are; copies of it with others in their place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.pipeline.compositions import Composition, composition_of, single

_NAMES = "transform", "transforms"
"""What is under these names is a transform, of whatever kind; elsewhere only a known composition counts."""
RUNS_ITSELF = "runs_itself"
"""A class with an attribute of this name runs the transforms of what it wraps in its own way."""
_STANDARD = "StandardTransform"
"""torchvision's pair of transforms for the image and for the target, which datasets hold beside the two."""


@dataclass(frozen=True, eq=False, slots=True)
class Site:
    """One transform in a dataset.

    Attributes:
        owner: the object, the dataset itself or one that it wraps, that holds it.
        attribute: under which name.
        where: the owner as the user would write it.
        composition: the transform.
        reachable: a copy of the dataset calls what stands there in its place (`RUNS_ITSELF`).
    """

    owner: Any
    attribute: str
    where: str
    composition: Composition
    reachable: bool = True

    def __str__(self) -> str:
        return f"{self.where}.{self.attribute}"


_Groups = dict[tuple[int, str], list[Site]]


def groups_of(dataset: Any) -> list[list[Site]]:
    """Transforms that may be cut together, what is to be tried first in front.

    Those of one group have one name, and as many datasets that have transforms around them: the parts of a
    ``ConcatDataset`` may be wrapped differently. If that won't do, those with as many datasets around them.
    """
    by_level: _Groups = {}
    by_depth: _Groups = {}
    for site, level, depth in _sites(dataset, "dataset", 0, 0, True):
        for groups, key in ((by_level, level), (by_depth, depth)):
            group = groups.setdefault((key, site.attribute), [])
            if all(other.owner is not site.owner for other in group):
                group.append(site)
    found = [by_level[key] for key in sorted(by_level)]
    return found + [group for _, group in sorted(by_depth.items()) if group not in found]


def with_transforms(dataset: Any, heads: Mapping[Site, Callable[..., Any]]) -> Any:
    """A copy of `dataset`, shallow along its wrappers, in which each site's transform is another.

    Attributes that its code sets later are set on the copy alone.
    """
    return _copy(dataset, heads, {})


def _copy(value: Any, heads: Mapping[Site, Callable[..., Any]], known: dict[int, Any]) -> Any:
    if id(value) in known:
        return known[id(value)]
    twin = known[id(value)] = _shallow(value)
    for name, inner in _wrapped(value):
        if isinstance(inner, list | tuple):
            vars(twin)[name] = type(inner)([_copy(each, heads, known) for each in inner])
        else:
            vars(twin)[name] = _copy(inner, heads, known)
    for site, head in heads.items():
        if site.owner is value:
            _replace(twin, site, head)
    return twin


def _replace(owner: Any, site: Site, head: Callable[..., Any]) -> None:
    vars(owner)[site.attribute] = site.composition.stand_in(head)
    both = vars(owner).get("transforms")
    if type(both).__name__ == _STANDARD and both.transform is site.composition.original:
        vars(owner)["transforms"] = copy.copy(both)
        vars(owner)["transforms"].transform = head


def _shallow(value: Any) -> Any:
    """Not by ``copy.copy``, which pickles, if it can be avoided: handles that aren't picklable are shared."""
    if hasattr(value, "__copy__") or not hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
        return copy.copy(value)
    twin = object.__new__(type(value))
    vars(twin).update(vars(value))
    return twin


def _sites(
    value: Any, where: str, level: int, depth: int, reachable: bool
) -> Iterator[tuple[Site, int, int]]:
    """All transforms, each with how many datasets that have some, and how many in all, are around its own."""
    if not hasattr(value, "__dict__"):
        return
    found = [Site(value, name, where, steps, reachable) for name, steps in _transforms_of(value)]
    yield from ((site, level, depth) for site in found)
    level += bool(found)
    reachable = reachable and not hasattr(type(value), RUNS_ITSELF)
    for name, inner in _wrapped(value):
        if isinstance(inner, list | tuple):
            for place, each in enumerate(inner):
                yield from _sites(each, f"{where}.{name}[{place}]", level, depth + 1, reachable)
        else:
            yield from _sites(inner, f"{where}.{name}", level, depth + 1, reachable)


def _wrapped(value: Any) -> Iterator[tuple[str, Any]]:
    """The datasets that a dataset wraps, as ``Subset`` and ``ConcatDataset`` hold theirs."""
    attributes = getattr(value, "__dict__", {})
    inner = attributes.get("dataset")
    if _is_dataset(inner):
        yield "dataset", inner
    several = attributes.get("datasets")
    if isinstance(several, list | tuple) and several and all(map(_is_dataset, several)):
        yield "datasets", several


def _is_dataset(value: Any) -> bool:
    return (
        hasattr(value, "__dict__")
        and hasattr(type(value), "__getitem__")
        and not isinstance(value, type | list | tuple | dict)
    )


def _transforms_of(owner: Any) -> Iterator[tuple[str, Composition]]:
    of_class = {name: value for name, value in _class_attributes(owner) if composition_of(value) is not None}
    for name, value in {**of_class, **vars(owner)}.items():
        if "target" in name or value is None or type(value).__name__ == _STANDARD:
            continue
        composition = None
        if name in _NAMES or not isinstance(value, list | tuple):
            composition = composition_of(value)
        if composition is None and name in _NAMES and callable(value) and not isinstance(value, type):
            composition = single(value)
        if composition is not None:
            yield name, composition


def _class_attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    """Those of its class, after those that its class overrides; methods aren't transforms."""
    for kind in reversed(type(owner).__mro__):
        yield from ((name, value) for name, value in vars(kind).items() if not hasattr(value, "__get__"))
