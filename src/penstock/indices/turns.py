"""The batches of an epoch over an iterable dataset, and how far each worker's iterator has come in it."""

from __future__ import annotations

import pickle
from typing import Any

from penstock.indices.place import Place
from penstock.streams import Standing


class Turns:
    """An endless iterator over (number, as many Nones as a batch takes samples); the workers tell the end.

    Attributes:
        turn: the worker whose turn is first.
        standings: from where the workers' iterators go on, if not from the beginning.
    """

    def __init__(
        self, size: int, workers: int, place: Place | None = None, last: Turns | None = None
    ) -> None:
        """`last` are those of the epoch before, if the datasets that were iterated then are iterated now."""
        place = place or Place()
        self._nones, self._workers = (None,) * size, workers
        self._count = self._next = place.count
        self.turn: int = place.origin.get("turn", 0)
        self._turn = self.turn
        self.standings = {
            worker: _standing(told) for worker, told in enumerate(place.origin.get("standings", ()))
        }
        self._given = {**({} if last is None else last._beginnings()), **self.standings}
        self._ends: dict[int, Standing] = {}

    def __iter__(self) -> Turns:
        return self

    def __next__(self) -> tuple[int, tuple[None, ...]]:
        number, self._next = self._next, self._next + 1
        return number, self._nones

    def handed_over(self, number: int, worker: int | None, standing: Standing | None) -> None:
        """A batch was; of a worker whose iterator then stood so."""
        del number
        assert worker is not None
        self._count += 1
        self._turn = (worker + 1) % self._workers
        if standing is not None:  # its worker died of it
            self._given[worker] = standing

    def stands(self, worker: int, standing: Standing) -> None:
        """A worker's iterator stands so without having given a batch: at its beginning, or at its end."""
        (self._ends if standing.ended else self._given)[worker] = standing

    def following(self) -> dict[str, Any]:
        """From where the iterators of the next epoch begin, if the datasets that they are of are still those
        of this one, and tell their state."""
        beginnings = self._beginnings()
        if not any(standing.state for standing in beginnings.values()):
            return {}
        standings = [beginnings.get(worker, Standing()) for worker in range(self._workers)]
        return {"turn": 0, "standings": [_told(standing) for standing in standings]}

    def _beginnings(self) -> dict[int, Standing]:
        return {worker: Standing(state=end.state) for worker, end in self._ends.items()}

    @property
    def count(self) -> int:
        """How many batches were handed over."""
        return self._count

    def place(self) -> Place:
        """From where other iterators go on with what was not handed over."""
        standings = [_told(self._given.get(worker, Standing())) for worker in range(self._workers)]
        return Place(self._count, (), {"turn": self._turn, "standings": standings})


def _told(standing: Standing) -> dict[str, Any]:
    state = {} if standing.state is None else {"state": pickle.loads(standing.state)}
    return {"taken": standing.taken, "ended": standing.ended, **state}


def _standing(told: dict[str, Any]) -> Standing:
    state = pickle.dumps(told["state"]) if "state" in told else None
    return Standing(told["taken"], told["ended"], state)
