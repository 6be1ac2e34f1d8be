"""The ways in which steps are put together, each behind the same calls, so that it can be cut in two.

What a composition works on are *parts*: its positional arguments by their number, or its keyword arguments
by their name.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from penstock.pipeline.randomness import library_of

Parts = dict[Any, Any]


class CannotCut(Exception):
    """Something is used in a way that can't be cut in two; the message says which."""


class Composition:
    """One callable, and also the base of the others: its steps are called one after the other.

    Attributes:
        original: the user's object; never changed.
        steps: what it does, in order.
    """

    def __init__(self, original: Any, steps: tuple[Any, ...]) -> None:
        self.original, self.steps = original, steps

    @property
    def deepest(self) -> int:
        """After how many steps it may be cut at most."""
        return len(self.steps)

    def parts_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parts:
        """What the user's code passed."""
        if kwargs or not args:
            raise CannotCut("the transform isn't called with positional arguments")
        return dict(enumerate(args))

    def step(self, place: int, parts: Parts) -> Parts:
        """Apply one step."""
        return _called(self.steps[place], parts)

    def rest(self, place: int, parts: Parts) -> Parts:
        """Apply the step at `place` and all after it."""
        if place == 0:
            return _called(self.original, parts)
        for each in range(place, len(self.steps)):
            parts = self.step(each, parts)
        return parts

    def result(self, parts: Parts) -> Any:
        """What the user's code gets back."""
        return parts[0] if len(parts) == 1 else tuple(parts.values())

    def stand_in(self, head: Callable[..., Any]) -> Any:
        """What to put in the composition's place to have `head` called instead."""
        return head


def _called(step: Callable[..., Any], parts: Parts) -> Parts:
    """With several arguments, a step gives as many results back (as torchvision's v2 has it)."""
    result = step(*parts.values())
    if len(parts) == 1:
        return {0: result}
    if not isinstance(result, tuple | list) or len(result) != len(parts):
        raise CannotCut(f"a transform of {len(parts)} values doesn't give {len(parts)} back")
    return dict(enumerate(result))


class Listed(Composition):
    """A plain list or tuple, whose callables the dataset calls one after the other."""

    def rest(self, place: int, parts: Parts) -> Parts:
        for each in range(place, len(self.steps)):
            parts = self.step(each, parts)
        return parts

    def stand_in(self, head: Callable[..., Any]) -> Any:
        return type(self.original)([head])


class Monai(Composition):
    """MONAI's ``Compose``, which can be told where to start and where to end."""

    def step(self, place: int, parts: Parts) -> Parts:
        return {0: self.original(parts[0], start=place, end=place + 1)}

    def rest(self, place: int, parts: Parts) -> Parts:
        return {0: self.original(parts[0], start=place)} if place < len(self.steps) else parts


class Albumentations(Composition):
    """albumentations' ``Compose``: keyword arguments in, a dict out."""

    @property
    def deepest(self) -> int:
        """Boxes and key points are kept in another form between the steps; ``p`` is a draw of its own."""
        whole = self.original.processors or getattr(self.original, "p", 1.0) < 1
        return 0 if whole else len(self.steps)

    def parts_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parts:
        if args or "force_apply" in kwargs:
            raise CannotCut("albumentations is called with more than the data")
        return dict(kwargs)

    def step(self, place: int, parts: Parts) -> Parts:
        after: Parts = self.original.check_data_post_transform(self.steps[place](**parts))
        return after

    def rest(self, place: int, parts: Parts) -> Parts:
        if place == 0:
            return dict(self.original(**parts))
        getattr(self.original, "py_random", random).random()  # Compose draws once, whatever its p
        for each in range(place, len(self.steps)):
            parts = self.step(each, parts)
        return parts

    def result(self, parts: Parts) -> Any:
        return parts


_KINDS: dict[tuple[str, str], type[Composition]] = {
    ("torchvision", "Compose"): Composition,
    ("torch", "Sequential"): Composition,
    ("monai", "Compose"): Monai,
    ("albumentations", "Compose"): Albumentations,
}
_CALLS = "__call__", "forward"


def composition_of(value: Any) -> Composition | None:
    """`value` as one of the known compositions, or None.

    A subclass counts only if it is called as its base is.
    """
    if isinstance(value, list | tuple):
        steps = tuple(value)
        listed = type(value) in (list, tuple) and steps and all(map(callable, steps))
        return Listed(value, steps) if listed else None
    for base in type(value).__mro__:
        kind = _KINDS.get((base.__module__.partition(".")[0], base.__name__))
        if kind is None:
            continue
        if any(getattr(type(value), name, None) is not getattr(base, name, None) for name in _CALLS):
            return None
        return kind(value, _steps_of(value, kind))
    return None


def single(value: Callable[..., Any]) -> Composition:
    """A callable of which nothing is known, as one step."""
    return Composition(value, (value,))


def _steps_of(value: Any, kind: type[Composition]) -> tuple[Any, ...]:
    steps = tuple(getattr(value, "transforms", None) or value)
    return steps if kind is not Composition else tuple(_flattened(steps))


def _flattened(steps: tuple[Any, ...]) -> list[Any]:
    """With the steps of a composition inside a composition in its place, where that makes no difference."""
    flat: list[Any] = []
    for step in steps:
        inner = composition_of(step) if library_of(step) in ("torchvision", "torch") else None
        flat += [step] if inner is None else inner.steps
    return flat
