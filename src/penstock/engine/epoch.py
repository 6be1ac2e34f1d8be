"""What the engine is told of an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.bad import ErrorBook
from penstock.plan import Course
from penstock.policy import Policy
from penstock.streams import Standing


class Batches(Protocol):
    """What is asked for an epoch's batches.

    Attributes:
        turn: the worker that makes the first, where it matters who does.
        standings: of an iterable dataset, from where the workers' iterators go on, if not from the start.
    """

    @property
    def turn(self) -> int: ...
    @property
    def standings(self) -> Mapping[int, Standing]: ...
    def __next__(self) -> tuple[int, tuple[Any, ...]]: ...
    def handed_over(self, number: int, worker: int | None, standing: Standing | None) -> None: ...
    def stands(self, worker: int, standing: Standing) -> None: ...


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch is made of.

    Attributes:
        batches: the number and the indices of each batch, in order; may be endless. It is told what was
            handed over, be it as an exception, and how the worker's iterator stood then; and how an iterator
            stands that hasn't given a batch yet, where that can be known, or that gives no more.
        ahead: how many batches, at least, to have in the making while the caller has one in hand; 0
            makes each only when it is asked for.
        rows, splittable: what the recipe allows (`fetch.Recipe`).
        course: what its tasks have in common.
        by_turns: the workers make one batch each, by turns, as it matters which worker makes it.
        iterable: that is since each has an iterator, which ends by itself.
        timeout: seconds to wait for a batch; 0 for ever.
        in_order: hand batches over in their order, or as they are done.
        policy: what is done about faults.
        book: what is told of bad samples.
        dataset: to tell the path of a bad sample.
    """

    batches: Batches
    ahead: int
    rows: bool
    splittable: bool
    course: Course
    by_turns: bool
    iterable: bool
    timeout: float
    in_order: bool
    policy: Policy
    book: ErrorBook
    dataset: Any
