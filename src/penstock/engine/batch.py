"""A batch in the making: what was asked of the workers for it, and what came back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from penstock.bad import BadSample
from penstock.errors import SampleInHand
from penstock.fetch import Failed, LeftOut, NotRegular, Outcome, Rows
from penstock.streams import Standing

_LEFT_OUT = {LeftOut}


@dataclass(slots=True)
class Batch:
    """A batch in the making."""

    number: int
    indices: tuple[Any, ...]
    slot: int
    rows: bool
    worker: int | None
    iterable: bool
    left: int = 0
    samples: int = 0
    bad: list[BadSample] = field(default_factory=list)
    condemned: dict[int, BadSample] = field(default_factory=dict)
    """By position, the bad samples that ended their workers; they aren't tried again, however it is made."""
    standing: Standing | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.left == 0

    def sample(self, position: int) -> SampleInHand:
        if self.iterable:
            return SampleInHand(self.number, position, self.worker)
        return SampleInHand(self.number, self.indices[position])

    def failure(self) -> Failed | None:
        """Of several, the one of the first sample, whichever came first."""
        failed = [o for o in self.outcomes if type(o) is Failed]
        if not failed:
            return None
        last = len(self.indices)
        return min(failed, key=lambda f: last if f.position is None else f.position)

    def left_out(self) -> bool:
        """Whether all its samples were bad."""
        return {*map(type, self.outcomes)} == _LEFT_OUT

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
