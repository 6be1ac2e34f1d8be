"""What an order is drawn from, and its state as plain data, which JSON takes: random generators, and samplers
that can tell their own state."""

from __future__ import annotations

import base64
import copy
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import Sampler

from penstock.stateful import is_stateful

T = TypeVar("T")

Dice = torch.Generator | random.Random | np.random.Generator | np.random.RandomState
Source = Any
"""A `Dice`, or what `is_stateful`."""


def state_of(dice: Source) -> Any:
    """What `restore` puts back."""
    if is_stateful(dice):
        return copy.deepcopy(dice.state_dict())
    if isinstance(dice, torch.Generator):
        return base64.b64encode(dice.get_state().numpy().tobytes()).decode("ascii")
    if isinstance(dice, random.Random):
        version, words, second = dice.getstate()
        return [version, list(words), second]
    if isinstance(dice, np.random.RandomState):
        return _plain(dice.get_state(legacy=False))
    return _plain(dice.bit_generator.state)


def restore(dice: Source, state: Any) -> None:
    """Put back what `state_of` gave."""
    if is_stateful(dice):
        dice.load_state_dict(copy.deepcopy(state))
    elif isinstance(dice, torch.Generator):
        dice.set_state(torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8))
    elif isinstance(dice, random.Random):
        version, words, second = state
        dice.setstate((version, tuple(words), second))
    elif isinstance(dice, np.random.RandomState):
        dice.set_state(state)
    else:
        dice.bit_generator.state = state


def _plain(state: Any) -> Any:
    """The state of one of numpy's bit generators without arrays and numpy's numbers."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def global_dice() -> dict[str, Dice]:
    """Those behind the functions of ``torch``, ``random`` and ``numpy.random``."""
    return {"torch": torch.default_generator, "random": random._inst, "numpy": np.random.mtrand._rand}


def sources_of(sampler: Any, path: str = "") -> dict[str, Source]:
    """The generators that a sampler keeps in attributes of its own, and the samplers with a state that it
    wraps, by their path; also those of samplers that it wraps."""
    found: dict[str, Source] = {}
    for name, value in getattr(sampler, "__dict__", {}).items():
        dice = isinstance(value, Dice) and not isinstance(value, random.SystemRandom)
        if dice or (isinstance(value, Sampler) and is_stateful(value)):
            found[path + name] = value
        elif isinstance(value, Sampler):
            found |= sources_of(value, f"{path}{name}.")
    known = {id(dice) for dice in global_dice().values()}
    return {name: source for name, source in found.items() if id(source) not in known}


class Notes:
    """Of the global generators, the states before calls that draw from them, so that the calls can be made
    again. One that is made again leaves the generators as they were.

    Attributes:
        drawn: for each call by its name, the states of the generators that it drew from.
    """

    def __init__(self, drawn: Mapping[str, Any]) -> None:
        self.drawn = dict(drawn)

    def call(self, name: str, function: Callable[[], T]) -> T:
        """Call it, or make it again, if it has drawn before."""
        return self._again(self.drawn[name], function) if name in self.drawn else self._watch(name, function)

    def _watch(self, name: str, function: Callable[[], T]) -> T:
        before = {each: state_of(dice) for each, dice in global_dice().items()}
        result = function()
        used = {each: before[each] for each, dice in global_dice().items() if state_of(dice) != before[each]}
        if used:
            self.drawn[name] = used
        return result

    def _again(self, states: Mapping[str, Any], function: Callable[[], T]) -> T:
        dice = {each: one for each, one in global_dice().items() if each in states}
        kept = {each: state_of(one) for each, one in dice.items()}
        try:
            for each, one in dice.items():
                restore(one, states[each])
            return function()
        finally:
            for each, one in dice.items():
                restore(one, kept[each])
