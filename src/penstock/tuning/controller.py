"""Decides how many workers there are to be, from one observation after the other.

It looks for the fewest workers that keep the loop within `TOLERANCE` of the best pace. Beginning with one, it
goes to the number from which, by what was measured, most is to be expected, measures there, and so on; where
that is a number that was measured already, it settles. So no number is tried twice, and nothing swings.

Where the loop is blocked although the workers idle, batches take unequal times. Then more of them are made
ahead before more workers are tried, as long as that helps.

The search is over within some dozens of batches, and may have missed what is rare. If the loop then waits
more than it should by what was settled on, or if work or step have changed, it begins anew, and patiently:
each number is judged by many batches, from then on.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.stats import Decision
from penstock.tuning.meter import Meter
from penstock.tuning.observation import CHEAP_S, Observation, expected_cycle

TOLERANCE = 0.05
LEAP = 4
"""At most so many times as many workers as were tried before."""
MOST_TRIALS = 8
IDLE = 0.5
"""A training process that keeps less of a processor busy leaves it to the workers."""
WORTH_A_WORKER = 5.0
"""Making a batch takes at least so many times what only taking it over costs the training process: if not,
it makes it itself. (The worker has as much to do for that, and both wait to be woken.)"""
CHEAPEST_S = 0.001
FASTER = 0.8
"""Of batches that take less than that, it is what lies between making and taking over, such as waking each
other, that may take the time: none, where all workers that there may be promise at best so much of the pace
that the training process would have by itself."""
MOST_AHEAD = 8
"""Batches ahead for each worker."""
CHANGED = 2.0
PATIENCE = 3
"""If a step or a batch takes `CHANGED` times as long or short, so often in a row, the search begins anew."""
WAITS_MORE = 0.1
"""If the loop is blocked for a share of its time that is so much larger than it was when the number was
settled on, over many batches and `REVIEWS` times in a row, the search begins anew, patiently."""
REVIEWS = 2
MOST_EPOCHS = 20
"""If so many in a row let nothing be measured, the search is over until something is."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is given.

    Attributes:
        cpus: the processors that there are for the training process and its workers.
        most: the number of workers that isn't to be exceeded for another reason.
        why_some: why there have to be workers; empty if there may be none.
        prefetch_factor: how many batches each worker has ahead, if that isn't to be chosen.
    """

    cpus: int
    most: int
    why_some: str = ""
    prefetch_factor: int | None = None


class Controller:
    """See above.

    Attributes:
        workers: how many there are to be.
        prefetch_factor: how many batches each is to have ahead.
        settled: the search is over, for now.
        patient: whether observations are to be of many batches.
        decisions: all of them, in their order.
        batches: how many were handed over; whoever does that counts them here.
        meter: what an epoch that is over left unfinished, for the next one to go on with.
        reviewed: the same of what `review` is to be told.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.workers = 1
        self.prefetch_factor = limits.prefetch_factor or 2
        self.settled = self.patient = False
        self.batches = 0
        self.meter: Meter | None = None
        self.reviewed: Meter | None = None
        self.decisions: list[Decision] = []
        self._decide(1, False, "it begins with one worker")
        self._seen: dict[int, Observation] = {}
        self._ahead_helps = limits.prefetch_factor is None
        self._with_fewer_ahead: Observation | None = None
        self._reference: Observation | None = None
        self._changed = self._reviews = 0
        self._gave_up = False
        self._epochs = self._longest = self._began_at = 0

    def begin_epoch(self) -> bool:
        """Count one more; whether the search is over, as so many let nothing be measured."""
        self._longest = max(self._longest, self.batches - self._began_at)
        self._began_at = self.batches
        self._epochs += 1
        if self.settled or self._epochs <= MOST_EPOCHS:
            return False
        self._gave_up = True
        self._settle(self.workers, self._why_given_up())
        return True

    def _forget_epochs(self) -> None:
        self._epochs, self._longest, self._began_at = 0, 0, self.batches

    def observe(self, seen: Observation, room: int) -> None:
        """Take in what was measured, where the memory has room for so many more workers."""
        if not self.workers or seen.workers != self.workers:  # measured by another iterator of the loader
            return
        self._forget_epochs()
        if self.settled:
            if self._gave_up:
                self.settled, self._gave_up, self._seen = False, False, {}
            elif self._is_another_world(seen):
                self._search_anew()
            return
        self._judge_ahead(seen)
        self._seen[seen.workers] = seen
        highest = self._highest(seen, room)
        if self._is_cheap(highest):
            self._settle(0, self._why_none(seen))
            return
        if self._ahead_helps and seen.uneven and self.prefetch_factor < MOST_AHEAD and room >= seen.workers:
            self.prefetch_factor *= 2
            self._with_fewer_ahead = seen
            why = f"{_figures(seen)}, and workers idle: trying {self.prefetch_factor} batches ahead for each"
            self._decide(self.workers, False, why)
            return
        wanted = self._fewest(highest)
        if wanted in self._seen:
            self._settle(wanted, self._why(wanted, highest, room))
        else:
            self._decide(wanted, False, f"{_figures(seen)}: trying {_workers(wanted)}")

    def review(self, seen: Observation) -> None:
        """Take in what many batches came to, since the number was settled on."""
        then = self._reference
        if self.patient or not self.settled or then is None or seen.workers != self.workers:
            return
        self._reviews = self._reviews + 1 if seen.blocked > then.blocked + WAITS_MORE else 0
        if self._reviews < REVIEWS:
            return
        self._search_anew()
        self._decide(self.workers, False, f"{_figures(seen)}, more than it seemed: looking at more batches")

    def _search_anew(self) -> None:
        self.settled, self.patient, self._seen = False, True, {}
        self._ahead_helps = self._limits.prefetch_factor is None

    def _highest(self, seen: Observation, room: int) -> int:
        """One processor is left to the training process, unless it would idle with workers on all of them."""
        cpus = self._limits.cpus
        if seen.main_cpu * seen.cycle_s >= IDLE * expected_cycle(self._seen, cpus):
            cpus -= 1
        return max(1, min(cpus, self._limits.most, seen.workers + room))

    def _fewest(self, highest: int) -> int:
        """Of those that keep the pace; only measured ones once enough were tried."""
        within = range(1, min(highest, LEAP * max(self._seen)) + 1)
        numbers: set[int] = {*(within if len(self._seen) < MOST_TRIALS else ()), *self._seen}
        cycles = {number: expected_cycle(self._seen, number) for number in numbers}
        bound = (1 + TOLERANCE) * min(cycles.values())
        return min(number for number, cycle in cycles.items() if cycle <= bound)

    def _judge_ahead(self, seen: Observation) -> None:
        """Go back to fewer batches ahead, for good, if it is no better with more."""
        before, self._with_fewer_ahead = self._with_fewer_ahead, None
        if before is not None and seen.cycle_s * (1 + TOLERANCE) > before.cycle_s:
            self.prefetch_factor //= 2
            self._ahead_helps = False

    def _is_cheap(self, highest: int) -> bool:
        """Whether handing batches over costs more than making them, and the loop is no slower for that."""
        one = self._seen.get(1)
        if one is None or self._limits.why_some:
            return False
        alone = one.step_s + one.work_s
        if one.work_s <= CHEAPEST_S and alone <= FASTER * expected_cycle(self._seen, highest):
            return True
        if one.work_s > min(CHEAP_S, WORTH_A_WORKER * one.hand_s):
            return False
        slower = alone > (1 + TOLERANCE) * one.cycle_s
        return one.work_s <= one.hand_s or not slower

    def _is_another_world(self, seen: Observation) -> bool:
        """Whether what was measured no longer holds, for some time now."""
        then = self._reference
        if then is None:
            self._reference = seen
            return False
        pairs = (seen.work_s, then.work_s), (seen.step_s, then.step_s)
        floor = then.cycle_s / 10  # what is shorter than that decides nothing
        changed = any(max(a, b, floor) > CHANGED * max(min(a, b), floor) for a, b in pairs)
        self._changed = self._changed + 1 if changed else 0
        return self._changed >= PATIENCE

    def _settle(self, workers: int, why: str) -> None:
        self.settled, self._changed, self._reviews = True, 0, 0
        self._reference = self._seen.get(workers)
        self._decide(workers, True, why)

    def _decide(self, workers: int, settled: bool, why: str) -> None:
        self.workers = workers
        self.decisions.append(Decision(self.batches, workers, self.prefetch_factor, settled, why))

    # -- in words --------------------------------------------------------------------------------

    def _why_none(self, seen: Observation) -> str:
        making = f"no workers: making a batch takes {_time(seen.work_s)}, and "
        if seen.work_s > WORTH_A_WORKER * seen.hand_s:
            return f"{making}it comes from a worker only every {_time(seen.cycle_s)}"
        return f"{making}merely taking it over from a worker costs the training process {_time(seen.hand_s)}"

    def _why_given_up(self) -> str:
        batches = "1 batch" if self._longest == 1 else f"{self._longest} batches"
        return (
            f"{MOST_EPOCHS} epochs, of which the loop took {batches} at most, let nothing be measured: "
            f"it stays with {_workers(self.workers)}"
        )

    def _why(self, workers: int, highest: int, room: int) -> str:
        said = _figures(self._seen[workers])
        others = [
            f"{_workers(n)}: {rate(1 / each.cycle_s)}"
            for n, each in sorted(self._seen.items())
            if each.cycle_s
        ]
        tried = f" (batches a second: {'; '.join(others)})" if len(others) > 1 else ""
        if self._seen[workers].blocked <= TOLERANCE:
            return f"{said}{tried}"
        if workers < highest:
            return f"{said}, and more workers promise nothing{tried}"
        return f"{said}, but {self._limit(max(workers, highest), room)}{tried}"

    def _limit(self, highest: int, room: int) -> str:
        cpus = self._limits.cpus
        if highest >= self._limits.most:
            return f"there can be no more than {highest}"
        if not room:
            return "there is no memory for more"
        if highest == cpus:
            return f"there are no more than {cpus} CPUs"
        return f"one of the {cpus} CPUs is left to the training process"


def _figures(seen: Observation) -> str:
    return (
        f"with {_workers(seen.workers)} the loop waits {seen.waiting:.0%} of the time "
        f"(a step takes {_time(seen.step_s)}, making a batch {_time(seen.work_s)})"
    )


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


def rate(batches_per_s: float) -> str:
    """In words."""
    return f"{batches_per_s:,.0f}" if batches_per_s >= 100 else f"{batches_per_s:.3g}"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
