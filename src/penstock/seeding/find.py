"""Finds the random generators that a dataset keeps: in its attributes, its transforms, its containers; and
those of a ``collate_fn``."""

from __future__ import annotations

import functools
import itertools
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from penstock.seeding.generators import Generator, generator_of

SEEDED_AS = "seeded_as"
"""A class may say, by this name of its own, which attribute of its objects is looked at in their place."""
SHORT = 1000
"""Of a longer container only so many items are looked at: a list of a million paths holds no generator,
and to touch its items in a forked worker would copy their memory."""

_PLAIN = (str, bytes, bytearray, memoryview, int, float, complex, type(None), torch.Tensor, np.ndarray)
_CLOSED = (type, types.ModuleType, types.FrameType)
_HEAP_TYPE = 1 << 9
"""Of a type's flags: it was made by a class statement."""
_SEQUENCES = (list, tuple, set, frozenset, deque)


def find_generators(dataset: Any, path: str = "", most: int | None = None) -> dict[str, Generator]:
    """The generators reachable from `dataset`, by the path that leads there first, behind `path`; of at most
    so many objects, the nearest first.

    It follows attributes (of an object's class too, where they are generators, as MONAI's ``Randomizable.R``,
    containers or transforms), containers, partial functions, bound methods and closures. It runs no code of
    the user's: properties aren't read.
    """
    found: dict[str, Generator] = {}
    known: set[int] = set()
    kept: list[Any] = []  # what was made on the way lives until the end, so that no id comes twice
    to_see: deque[tuple[str, Any]] = deque([(path, dataset)])
    while to_see and (most is None or len(kept) < most):
        path, value = to_see.popleft()
        value = _seeded_as(value)
        kind = type(value)  # never `isinstance`, which would run a property called __class__
        if issubclass(kind, _PLAIN) or id(value) in known:
            continue
        known.add(id(value))
        kept.append(value)
        generator = generator_of(value)
        if generator is not None:
            found[path] = generator
        elif not issubclass(kind, _CLOSED):
            to_see.extend((f"{path}{step}", inner) for step, inner in _inside(value))
    return found


def _seeded_as(value: Any) -> Any:
    """What stands for `value`: a wrapper's samples are to have the random states that those inside have."""
    name = vars(type(value)).get(SEEDED_AS)
    return vars(value)[name] if isinstance(name, str) else value


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if issubclass(kind, dict):
        items = list(itertools.islice(list(dict.items(value)), SHORT))
        if not _all_plain(item for _, item in items):
            yield from ((f"[{key!r}]", item) for key, item in items)
    elif issubclass(kind, _SEQUENCES):
        base: Any = next(base for base in _SEQUENCES if issubclass(kind, base))
        parts = list(itertools.islice(base.__iter__(value), SHORT))
        if not _all_plain(parts):
            yield from ((f"[{place}]", part) for place, part in enumerate(parts))
    elif issubclass(kind, functools.partial):
        yield from (("()", value.func), ("()", value.args), ("()", value.keywords))
    elif kind is types.MethodType:
        yield from (("()", value.__self__), ("()", value.__func__))
    elif kind in (types.BuiltinMethodType, types.MethodWrapperType):
        yield "()", value.__self__
    elif kind is types.FunctionType:
        yield from _of_function(value)
    yield from _attributes(value)


def _all_plain(items: Iterable[Any]) -> bool:
    """Looked at before all, as most containers hold thousands of tensors or paths and nothing else."""
    return all(issubclass(kind, _PLAIN) for kind in set(map(type, items)))


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"({name})", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield "(defaults)", function.__defaults__
    yield "(defaults)", function.__kwdefaults__


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}
    if isinstance(own, dict):
        yield from ((f".{name}", inner) for name, inner in list(own.items()))
    for cls in type(value).__mro__:
        if not cls.__flags__ & _HEAP_TYPE:
            break
        for name, inner in list(vars(cls).items()):
            if type(inner) is types.MemberDescriptorType:  # a slot
                try:
                    yield f".{name}", inner.__get__(value)
                except AttributeError:
                    continue
            elif not name.startswith("__") and _may_hold(inner):
                yield f".{name}", inner


def _may_hold(inner: Any) -> bool:
    """Whether an attribute of a class is a generator, a container or a transform, and no method."""
    kind = type(inner)
    if generator_of(inner) is not None or issubclass(kind, (dict, *_SEQUENCES)):
        return True
    binds = any("__get__" in vars(cls) for cls in kind.__mro__)
    return not issubclass(kind, type) and not binds and callable(inner)
