"""One process's iterator over an iterable dataset: how far it has come, and how another goes on from there.

Where the iterator or the dataset has ``state_dict`` and ``load_state_dict`` it is asked, and given the answer
back. Otherwise what was taken is taken again, and dropped.

What a dataset told at the end of an epoch is given back to it, for what it counts from epoch to epoch. Many
take it as a place to go on from, and so would have nothing for the next epoch; but that doesn't begin at the
end of another, so they are asked for an iterator once more.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from penstock.stateful import is_stateful


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an iterator has come.

    Attributes:
        taken: how many samples were taken from it, those included that it failed to make.
        ended: it has no more.
        state: what it and its dataset tell of that, pickled; None where they don't.
    """

    taken: int = 0
    ended: bool = False
    state: bytes | None = None


class Stream:
    """See above; an iterator itself. It begins where another was at `standing`."""

    def __init__(self, dataset: Any, standing: Standing) -> None:
        self._dataset = dataset
        self._taken, self._ended = standing.taken, standing.ended
        states = {} if standing.state is None else pickle.loads(standing.state)
        if "dataset" in states:
            dataset.load_state_dict(states["dataset"])
        if self._ended:
            return
        self._iterator = iter(dataset)
        self._perhaps_at_end = is_stateful(dataset) and not standing.taken
        if "iterator" in states:
            self._iterator.load_state_dict(states["iterator"])
        if not states:
            self._skip(standing.taken)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        perhaps_at_end, self._perhaps_at_end = self._perhaps_at_end, False
        try:
            sample = next(self._iterator)
        except StopIteration:
            if perhaps_at_end:
                self._iterator = iter(self._dataset)
                return next(self)
            self._ended = True
            raise
        except Exception:
            self._taken += 1
            raise
        self._taken += 1
        return sample

    def _skip(self, count: int) -> None:
        for _ in range(count):
            try:
                next(self._iterator)
            except StopIteration:
                self._ended = True
                return
            except Exception:
                continue  # it was told when it was taken first

    def standing(self) -> Standing:
        """How far it has come; raises what ``state_dict`` or pickling its answer raises."""
        states = {}
        if not self._ended and is_stateful(self._iterator):
            states["iterator"] = self._iterator.state_dict()
        if is_stateful(self._dataset) and (self._ended or self._iterator is not self._dataset):
            states["dataset"] = self._dataset.state_dict()
        return Standing(self._taken, self._ended, pickle.dumps(states) if states else None)
