"""What a loader knows of its epochs, for `state_dict` and `load_state_dict`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from penstock.indices import epoch_of
from penstock.resume.check import VERSION, Loader, check, is_iterable, likeness, tell_epochs
from penstock.resume.passage import Passage, State, between
from penstock.stateful import is_stateful


class Books:
    """Of one loader: the epoch that it gives, or gave last, and the state to go on from.

    A state that was loaded is kept until a batch that follows it was handed over: an iterator that hasn't
    given any yet may be dropped, and the next one begins in the same place.
    """

    def __init__(self, loaded: State | None = None) -> None:
        self._loaded = loaded
        self._passage: Passage | None = None

    @property
    def loaded(self) -> State | None:
        """The state to go on from, if no batch followed it yet."""
        passage = self._passage
        if passage is not None and passage.touched and passage.loaded is self._loaded:
            self._loaded = None
        return self._loaded

    def begin(self, loader: Loader) -> Passage:
        """A new epoch, or the rest of the one that was loaded. `begun` makes it the loader's latest.

        Raises:
            StateError: if the loader was told another epoch than that of the state.
        """
        return Passage(loader, self.loaded, self._passage)

    def begun(self, passage: Passage) -> None:
        self._passage = passage

    def state(self, loader: Loader) -> State:
        if self.loaded is not None:
            return copy.deepcopy(self.loaded)
        state: State = {"version": VERSION, "loader": likeness(loader)}
        told = epoch_of(loader._index_sampler)
        if told is not None:
            state["sampler_epoch"] = told[1]
        if not is_iterable(loader) and is_stateful(loader.dataset):
            state["dataset"] = copy.deepcopy(loader.dataset.state_dict())
        return state | (between(loader, None) if self._passage is None else self._passage.state(loader))

    def load(self, loader: Loader, state: Mapping[str, Any]) -> None:
        """Have the loader go on from a state; from an empty one, anew.

        Raises:
            StateError: if it is the state of another kind of loader.
        """
        if state or not isinstance(state, Mapping):
            check(loader, state)
            tell_epochs(loader, state)
        self._loaded = copy.deepcopy(dict(state)) or None
