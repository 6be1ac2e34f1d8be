"""What was measured under one number of workers, and what it lets expect of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BUSY = 0.75
"""Workers that all have work are busy for a larger share of the time."""
CHEAP_S = 0.005
"""Of batches that take less, it may be the handing over that takes the time."""
SATURATED = 0.1
"""If the loop is blocked for a larger share of its time, it is the workers that set the pace."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Of one batch, as it usually was; times in seconds.

    Attributes:
        cycle_s: from one batch in the caller's hands to the next.
        step_s: of that, what the caller spent between two calls of ``next()``.
        hand_s: of that, what ``next()`` itself computed, in the caller's thread.
        work_s: what making the batch took of the workers' time.
        main_cpu: how many processors the training process kept busy.
    """

    workers: int
    cycle_s: float
    step_s: float
    hand_s: float
    work_s: float
    main_cpu: float

    @property
    def blocked(self) -> float:
        """The share of the time in which the caller had nothing to do but wait."""
        return max(0.0, 1 - (self.step_s + self.hand_s) / self.cycle_s) if self.cycle_s else 0.0

    @property
    def waiting(self) -> float:
        """The share of the time that it spent in ``next()``."""
        return max(0.0, 1 - self.step_s / self.cycle_s) if self.cycle_s else 0.0

    @property
    def uneven(self) -> bool:
        """Whether the caller is blocked although the workers often are, too; not so if batches are so cheap
        that it is the handing over that takes the time."""
        busy = self.work_s / (self.workers * self.cycle_s) if self.cycle_s else 1.0
        return self.blocked > SATURATED and busy < BUSY and self.work_s >= CHEAP_S

    @property
    def effort_s(self) -> float:
        """What a batch takes of one worker's time, with all that comes with making it, where that shows."""
        return self.workers * self.cycle_s if self.blocked > SATURATED else self.work_s


def expected_cycle(seen: Mapping[int, Observation], workers: int) -> float:
    """The cycle with so many workers, as measured, or else as the other measurements let expect.

    The loop can't be faster than its own step and the taking over of a batch, nor the workers than their
    effort divided among them; and either may grow with the number of workers, as they share the machine.
    """
    if workers in seen:
        return seen[workers].cycle_s
    own = _at({n: each.step_s + each.hand_s for n, each in seen.items()}, workers)
    effort = _at({n: each.effort_s for n, each in seen.items()}, workers)
    return max(own, effort / workers)


def _at(known: Mapping[int, float], place: int) -> float:
    """The value there, on straight lines between what is known; beyond it nothing gets less."""
    places = sorted(known)
    if len(places) == 1 or place <= places[0]:
        return known[places[0]]
    right = next((p for p in places if p >= place), places[-1])
    left = places[places.index(right) - 1]
    slope = (known[right] - known[left]) / (right - left)
    if place > right:
        return known[right] + max(0.0, slope) * (place - right)
    return known[left] + slope * (place - left)
