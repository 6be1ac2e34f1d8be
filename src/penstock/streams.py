"""One process's iterator over an iterable dataset: how far it has come, and how another goes on from there.

Where the iterator or the dataset has ``state_dict`` and ``load_state_dict`` it is asked, and given the answer
back. Otherwise what was taken is taken again, and dropped.
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
        if self._ended:
            return
        states = {} if standing.state is None else pickle.loads(standing.state)
        if "dataset" in states:
            dataset.load_state_dict(states["dataset"])
        self._iterator = iter(dataset)
        if "iterator" in states:
            self._iterator.load_state_dict(states["iterator"])
        if not states:
            self._skip(standing.taken)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        try:
            sample = next(self._iterator)
        except StopIteration:
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
        if not self._ended:
            if is_stateful(self._iterator):
                states["iterator"] = self._iterator.state_dict()
            if is_stateful(self._dataset) and self._iterator is not self._dataset:
                states["dataset"] = self._dataset.state_dict()
        return Standing(self._taken, self._ended, pickle.dumps(states) if states else None)
