"""Sets the process's random generators for one sample, and notices when nobody uses them.

The generators are the global ones of torch (CPU), ``random`` and ``numpy.random``. torch's is always
seeded. Seeding the other two takes several microseconds, more than a cheap sample does; so where a
dataset has left them alone in `LEARN` tasks, they are no longer seeded for it but watched: `used` tells
after a task whether one was drawn from after all, and the caller then runs that task again, with all
three seeded. Every sample has thus either run under its own seed or left those two as they were. (What
draws from ``random`` or ``numpy.random`` and then puts the old state back isn't noticed.)
"""

from __future__ import annotations

import array
import ctypes
import random
import sys
from typing import Any

import numpy as np
import torch

_MT19937_BYTES = 4 * 624 + 4
"""The state of a Mersenne Twister in numpy and in CPython: 624 words and a position."""
LEARN = 4
"""How many tasks to study, by their last sample, before a dataset counts as using no randomness."""


class SampleSeeder:
    """Owned by one process; not for several threads at once."""

    def __init__(self) -> None:
        self._quiet = 0
        self._ever_used = False
        self._before: tuple[Any, ...] | None = None

    @property
    def watching(self) -> bool:
        """Whether seeding torch is enough, if `used` is asked afterwards."""
        return not self._ever_used and self._quiet >= LEARN

    def seed_torch(self, seed: int) -> None:
        """Set torch's generator from a 64-bit `seed`."""
        torch.default_generator.manual_seed(seed)

    def seed(self, seed: int, study: bool) -> None:
        """Set the three generators from a 64-bit `seed`; with `study`, `learn` follows."""
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed >> 32)
        if study and not self._ever_used and not self.watching:
            self._before = _states()

    def learn(self) -> None:
        """See whether the sample that was studied used ``random`` or ``numpy.random``."""
        if self._before is not None and not self.used():
            self._quiet += 1

    def used(self) -> bool:
        """Whether one was drawn from or set since this was last asked, or `seed` studied."""
        before, self._before = self._before, None if self._ever_used else _states()
        self._ever_used |= before != self._before
        return self._ever_used


def _states() -> tuple[Any, ...]:
    """The states of numpy and Python, in a form that compares by value and is quick to take."""
    bits: Any = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if isinstance(bits, np.random.MT19937):
        numpy_state: Any = ctypes.string_at(bits.ctypes.state_address, _MT19937_BYTES)
    else:
        numpy_state = repr(bits.state)
    return _python_state(), numpy_state


def _python_state() -> Any:
    return ctypes.string_at(_PYTHON_WORDS, _MT19937_BYTES) if _PYTHON_WORDS else random.getstate()


def _python_words() -> int | None:
    """Where CPython keeps the state of ``random``, if it is where we think: a position and 624 words.

    ``random.getstate`` makes 625 integers of it, which takes longer than many a task.
    """
    instance: Any = getattr(random, "_inst", None)
    if instance is None:
        return None
    _, words, _ = instance.getstate()
    expected = array.array("I", (words[-1], *words[:-1])).tobytes()
    address = id(instance) + object.__basicsize__
    held = ctypes.string_at(address, min(_MT19937_BYTES, type(instance).__basicsize__))
    return address if held == expected else None


_PYTHON_WORDS = _python_words() if sys.implementation.name == "cpython" else None
