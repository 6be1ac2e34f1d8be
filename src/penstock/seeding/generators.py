"""The kinds of random generator that a dataset may draw from, each behind the same three calls."""

from __future__ import annotations

import array
import ctypes
import pickle
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from penstock.seeding.twister import WORDS, States

_MT19937_BYTES = 4 * WORDS + 4
"""The state of a Mersenne Twister in numpy and in CPython: 624 words and a position."""

_INT64_MAX = (1 << 63) - 1


Step = tuple[Callable[[Any], object], Sequence[Any]]
"""A function, and what to call it with for each of some samples."""


class Generator(ABC):
    """One source of randomness.

    Attributes:
        identity: the object itself, by which it is known again.
    """

    def __init__(self, identity: Any) -> None:
        self.identity = identity

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Set the state from a 64-bit `seed`."""

    def setters(self, seeds: Sequence[int]) -> list[Step]:
        """What sets the state by each of `seeds`."""
        return [(self.seed, seeds)]

    @abstractmethod
    def state(self) -> Any:
        """The state, in a form that is quick to take and compares by value."""

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Put back what `state` gave."""

    def keep(self) -> Callable[[], None]:
        """What puts the state of now back, to the last detail."""
        return partial(self.restore, self.state())


class TorchGenerator(Generator):
    """A ``torch.Generator``; the seed's low 32 bits decide (torch's CPU generator uses no more)."""

    def seed(self, seed: int) -> None:
        self.identity.manual_seed(seed & _INT64_MAX)  # a tensor takes what initial_seed() says, as in torch

    def setters(self, seeds: Sequence[int]) -> list[Step]:
        """Without a call of ours for each."""
        return [(self.identity.manual_seed, [seed & _INT64_MAX for seed in seeds])]

    def state(self) -> Any:
        return self.identity.get_state().numpy().tobytes()

    def restore(self, state: Any) -> None:
        self.identity.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    def keep(self) -> Callable[[], None]:
        return partial(self.identity.set_state, self.identity.get_state())


class PythonGenerator(Generator):
    """A ``random.Random``, whose state is one of `States`, or what the ``seed`` of a class of the user's
    makes of the number.

    CPython's words are read, and set for a sample, where they are: ``getstate`` makes 625 integers of them,
    and ``setstate`` takes as many, which is longer than many a task.
    """

    def __init__(self, identity: random.Random) -> None:
        super().__init__(identity)
        self._words = _python_words(identity)

    def seed(self, seed: int) -> None:
        for call, values in self.setters([seed]):
            call(values[0])

    def setters(self, seeds: Sequence[int]) -> list[Step]:
        """Without a call of ours for each."""
        if type(self.identity) is not random.Random:
            return [(self.identity.seed, seeds)]
        states = States(seeds)
        if self._words is None:
            return [(self._set, states)]
        set_words = partial(self._words.__setitem__, slice(None))  # holds the interpreter lock
        return [(set_words, states), (partial(setattr, self.identity, "gauss_next"), [None] * len(seeds))]

    def state(self) -> Any:
        if self._words is None:
            return self.identity.getstate()
        return bytes(self._words), self.identity.gauss_next

    def restore(self, state: Any) -> None:
        if self._words is None:
            self.identity.setstate(state)
        else:
            self._set(*state)

    def _set(self, words: bytes | memoryview, gauss_next: float | None = None) -> None:
        position, *key = array.array("I", bytes(words))
        self.identity.setstate((self.identity.VERSION, (*key, position), gauss_next))


def _python_words(instance: Any) -> memoryview | None:
    """Where CPython keeps the state of ``random``, if it is where we think: a position and 624 words."""
    if sys.implementation.name != "cpython" or type(instance) is not random.Random:
        return None
    _, words, _ = instance.getstate()
    expected = array.array("I", (words[-1], *words[:-1])).tobytes()
    start, size = object.__basicsize__, _MT19937_BYTES
    if type(instance).__basicsize__ < start + size:
        return None
    held = memoryview((ctypes.c_uint8 * size).from_address(id(instance) + start)).cast("B")
    return held if held == expected else None


class NumpyGenerator(Generator):
    """A ``numpy.random.Generator``."""

    def seed(self, seed: int) -> None:
        _seed_bits(self.identity.bit_generator, seed)

    def state(self) -> Any:
        return _bits_state(self.identity.bit_generator)

    def restore(self, state: Any) -> None:
        _restore_bits(self.identity.bit_generator, state)


class NumpyRandomState(Generator):
    """A ``numpy.random.RandomState``, also the one behind ``numpy.random``'s functions.

    `state` leaves out the second of two normal numbers, which a RandomState makes at once and keeps.
    """

    def seed(self, seed: int) -> None:
        if isinstance(self._bits, np.random.MT19937):
            self.identity.seed(seed >> 32)
        else:
            _seed_bits(self._bits, seed)
            self._drop_second()

    def state(self) -> Any:
        return _bits_state(self._bits)

    def restore(self, state: Any) -> None:
        _restore_bits(self._bits, state)
        self._drop_second()

    def _drop_second(self) -> None:
        self.identity.set_state({**self.identity.get_state(legacy=False), "has_gauss": 0, "gauss": 0.0})

    def keep(self) -> Callable[[], None]:
        return partial(self.identity.set_state, self.identity.get_state(legacy=False))

    @property
    def _bits(self) -> Any:
        return self.identity._bit_generator


def _bits_state(bits: Any) -> Any:
    """``get_state`` of a Mersenne Twister takes 70 us here."""
    if isinstance(bits, np.random.MT19937):
        return ctypes.string_at(bits.ctypes.state_address, _MT19937_BYTES)
    return pickle.dumps(bits.state)  # some hold arrays, which don't compare


def _restore_bits(bits: Any, state: Any) -> None:
    if isinstance(bits, np.random.MT19937):
        *key, position = array.array("I", state)
        bits.state = {"bit_generator": "MT19937", "state": {"key": np.array(key, np.uint32), "pos": position}}
    else:
        bits.state = pickle.loads(state)


def _seed_bits(bits: Any, seed: int) -> None:
    """Set a bit generator from a 64-bit seed; for PCG64, numpy's default, without hashing it again."""
    state = bits.state
    if state["bit_generator"] in ("PCG64", "PCG64DXSM"):
        # any state and any odd increment are good (O'Neill, HMC-CS-2014-0905)
        spread = seed * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128
        state["state"] = {"state": spread, "inc": (seed << 1 | 1) % 2**128}
        state["has_uint32"] = state["uinteger"] = 0
        bits.state = state
    else:
        bits.state = type(bits)(seed).state


def global_generators() -> list[Generator]:
    """Those behind ``torch``'s, ``random``'s and ``numpy.random``'s functions."""
    return [
        TorchGenerator(torch.default_generator),
        PythonGenerator(random._inst),
        _NumpyGlobal(np.random.mtrand._rand),
    ]


class _NumpyGlobal(NumpyRandomState):
    """``numpy.random``'s functions, whose bit generator may be exchanged."""

    @property
    def _bits(self) -> Any:
        return np.random.get_bit_generator()  # type: ignore[attr-defined]


def generator_of(value: Any) -> Generator | None:
    """`value` as one of the kinds above, or None."""
    kind = type(value)
    if issubclass(kind, np.random.Generator):
        return NumpyGenerator(value)
    if issubclass(kind, np.random.RandomState):
        return NumpyRandomState(value)
    if issubclass(kind, random.Random) and not issubclass(kind, random.SystemRandom):
        return PythonGenerator(value)
    if issubclass(kind, torch.Generator) and value.device.type == "cpu":
        return TorchGenerator(value)
    return None
