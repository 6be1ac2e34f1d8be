"""A batch in the making: what was asked of the workers for it, and what came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from penstock.bad import BadSample
from penstock.errors import SampleInHand
from penstock.fetch import Block, Direct, Failed, LeftOut, NotRegular, Outcome, Rows
from penstock.streams import Standing

_LEFT_OUT = {LeftOut}
_USUAL = {Rows, Block, Direct}
_POSITION = attrgetter("position")


@dataclass(slots=True)
class Batch:
    """A batch in the making.

    Attributes:
        marred: something of it isn't as usual, so the questions about that are to be asked.
    """

    number: int
    indices: tuple[Any, ...]
    slot: int
    rows: bool
    worker: int | None
    iterable: bool
    left: int = 0
    samples: int = 0
    bad: tuple[BadSample, ...] = ()
    condemned: tuple[BadSample, ...] = ()
    """The bad samples that ended their workers; they aren't tried again, however it is made."""
    standing: Standing | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    marred: bool = False

    def add(self, outcome: Outcome, made: int, bad: tuple[BadSample, ...]) -> None:
        """One of its tasks is done, in which so many samples were made, the bad ones with them."""
        self.left -= 1
        self.outcomes.append(outcome)
        self.samples += made - len(bad)
        self.bad += bad
        if bad or type(outcome) not in _USUAL or (type(outcome) is Rows and outcome.left_out):
            self.marred = True

    def fail(self, failed: Failed) -> None:
        """A part of it can't be had."""
        self.outcomes.append(failed)
        self.marred = True

    def condemn(self, bad: BadSample) -> None:
        """Don't try this sample again; of those tried in its place, the last one counts."""
        self.condemned = (*(other for other in self.condemned if other.position != bad.position), bad)
        self.marred = True

    def start_over(self) -> None:
        """Forget what came of it, but for what is condemned."""
        self.outcomes.clear()
        self.bad, self.samples, self.marred = (), 0, bool(self.condemned)

    def sample(self, position: int) -> SampleInHand:
        if self.iterable:
            return SampleInHand(self.number, position, self.worker)
        return SampleInHand(self.number, self.indices[position])

    def failure(self) -> Failed | None:
        """Of several, the one of the first sample, whichever came first."""
        if not self.marred:
            return None
        failed = [o for o in self.outcomes if type(o) is Failed]
        if not failed:
            return None
        last = len(self.indices)
        return min(failed, key=lambda f: last if f.position is None else f.position)

    def left_out(self) -> bool:
        """Whether all its samples were bad."""
        return self.marred and {*map(type, self.outcomes)} == _LEFT_OUT

    def all_bad(self) -> Sequence[BadSample]:
        """The bad samples, in their order."""
        return sorted(self.bad + self.condemned, key=_POSITION) if self.marred else ()

    def rows_left_out(self) -> set[int]:
        return {row for o in self.outcomes if isinstance(o, Rows | LeftOut) for row in o.left_out}

    def irregular(self) -> bool:
        """Whether its parts don't make one batch of rows."""
        spec = None
        for outcome in self.outcomes:
            if type(outcome) is NotRegular:
                return True
            if type(outcome) is Rows:
                spec = spec or outcome.spec
                if outcome.spec is not spec and outcome.spec != spec:
                    return True
        return False
