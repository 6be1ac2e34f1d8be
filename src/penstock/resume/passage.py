"""One epoch of a loader, as a state tells of it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from penstock.at_hand import AtHand
from penstock.indices import IndexStream, Place, Turns, outlook, restore, state_of
from penstock.plan import Block
from penstock.resume.check import Loader, is_iterable, is_underway
from penstock.streams import Standing

State = dict[str, Any]


class Passage:
    """What the engine asks for an epoch's batches (`engine.Batches`), and what is left when it is gone.

    Attributes:
        loaded: the state that it goes on from.
        base_seed, count: from what the samples' seeds follow: the base seed, and the count of the epochs
            under it. None if that is still to be drawn, or counted.
        announced: the epoch that the user set.
        renewed: workers of the epoch before are of no use, as the dataset was given a state, which copies of
            it don't have, or as another base seed is to be drawn.
    """

    def __init__(self, loader: Loader, loaded: State | None, last: Passage | None = None) -> None:
        """`last` is that of the epoch before.

        Raises:
            StateError: if the loader was told another epoch than that of the state.
        """
        self.loaded = loaded
        self._finished = self.renewed = False
        self.base_seed: int | None = None
        self.count: int | None = None
        self.announced: int | None = loader._epoch
        self._generator: Any = None
        self._place = Place() if loaded is None else self._go_on(loader, loaded)
        self._batches: IndexStream | Turns
        if is_iterable(loader):
            before = None if last is None or loaded is not None else last._turns_of_the_same(loader)
            self._batches = Turns(loader.batch_size or 1, max(1, loader.num_workers), self._place, before)
            self._warn_of_walks()

    def _go_on(self, loader: Loader, loaded: State) -> Place:
        underway = is_underway(loader, loaded)
        if "dataset" in loaded:
            loader.dataset.load_state_dict(copy.deepcopy(loaded["dataset"]))
            self.renewed = True
        if underway:
            self.base_seed, self.count = loaded["base_seed"], loaded["count"]
            self.announced, self._generator = loaded["announced"], loaded.get("generator")
            return Place(loaded["_num_yielded"], loaded["missing"], loaded["order"])
        if loaded["base_seed"] is None:  # no epoch had begun, though here some may have
            self.count = None if loader._seed is None else 0
            self.renewed |= keeps_seed(loader)
        if loaded["base_seed"] is not None and keeps_seed(loader):
            self.base_seed = loaded["base_seed"]
        if loaded["base_seed"] is not None and (loader._seed is not None or keeps_seed(loader)):
            self.count = loaded["count"] + 1
        if "next" in loaded and "generator" in loaded:
            restore(loader.generator, loaded["generator"])
        return Place(origin=loaded.get("next", {}))

    def begin(self, loader: Loader, base_seed: int, count: int) -> None:
        """It begins, when all that was to be drawn for it at once has been."""
        self.base_seed, self.count = base_seed, count
        if not is_iterable(loader):  # samplers draw after the base seed was drawn, as in torch
            self._batches = IndexStream(loader._index_sampler, loader._auto_collation, self._place)
        own = own_generator(loader)
        if own is not None and self._generator is not None:
            restore(own, self._generator)
        elif own is not None:
            self._generator = state_of(own)

    def state(self, loader: Loader) -> State:
        """Its part of a state."""
        if self._finished:
            return between(loader, self)
        place = self._batches.place()
        generator = {} if self._generator is None else {"generator": self._generator}
        return {
            "_num_yielded": place.count,
            "missing": list(place.missing),
            "_iterator_finished": False,
            "order": place.origin,
            "base_seed": self.base_seed,
            "count": self.count,
            "announced": self.announced,
            **generator,
        }

    @property
    def touched(self) -> bool:
        """Whether a batch of it was handed over, or there was none left."""
        return self._finished or self._batches.count > self.given

    @property
    def given(self) -> int:
        """How many batches were handed over before it."""
        return self._place.count

    def _warn_of_walks(self) -> None:
        samples = sum(s.taken for s in self.standings.values() if s.state is None and not s.ended)
        if samples:
            warnings.warn(
                f"neither the dataset nor its iterator has state_dict() and load_state_dict(): {samples} "
                f"samples that were handed over before are made again and thrown away.",
                stacklevel=2,
            )

    @property
    def foreseeable(self) -> bool:
        """Whether it makes no difference to anybody when its batches are asked for."""
        return isinstance(self._batches, IndexStream) and self._batches.foreseeable

    # -- for the engine --------------------------------------------------------------------------

    @property
    def turn(self) -> int:
        return self._batches.turn

    @property
    def standings(self) -> Mapping[int, Standing]:
        return self._batches.standings

    def __next__(self) -> tuple[int, tuple[Any, ...]]:
        return next(self._batches)

    def take(self, samples: int) -> Block | None:
        """As `IndexStream.take`."""
        return self._batches.take(samples) if isinstance(self._batches, IndexStream) else None

    def follow(self, at_hand: AtHand) -> None:
        """As `IndexStream.follow`."""
        assert isinstance(self._batches, IndexStream)
        self._batches.follow(at_hand)

    def handed_over(self, number: int, worker: int | None, standing: Standing | None) -> None:
        self._batches.handed_over(number, worker, standing)

    def stands(self, worker: int, standing: Standing) -> None:
        self._batches.stands(worker, standing)

    def following(self, loader: Loader) -> dict[str, Any]:
        """From where the next epoch over an iterable dataset begins, if not from where every epoch does."""
        turns = self._turns_of_the_same(loader)
        return {} if turns is None else turns.following()

    def _turns_of_the_same(self, loader: Loader) -> Turns | None:
        """If the next epoch is over the same iterable datasets: those of this process, or of workers that
        persist."""
        same = loader.persistent_workers or not loader.num_workers
        return self._batches if same and self._finished and isinstance(self._batches, Turns) else None

    def finish(self) -> None:
        """All batches were handed over."""
        self._finished = True


def between(loader: Loader, last: Passage | None) -> State:
    """The part of a state that isn't of an epoch under way; `last` is the one that is over, if any."""
    own = own_generator(loader)
    generator = {} if own is None else {"generator": state_of(own)}
    if not is_iterable(loader):
        following = outlook(loader._index_sampler, loader._auto_collation, own)
    else:
        following = {} if last is None else last.following(loader)
    return {
        "_num_yielded": 0 if last is None else last.given,
        "missing": [],
        "_iterator_finished": last is not None,
        "next": following,
        "base_seed": None if last is None else last.base_seed,
        "count": None if last is None else last.count,
        "announced": loader._epoch,
        **generator,
    }


def own_generator(loader: Loader) -> torch.Generator | None:
    """The one that is the loader's, not everybody's."""
    own: torch.Generator | None = loader.generator
    return None if own is torch.default_generator else own


def keeps_seed(loader: Loader) -> bool:
    """Whether its workers, and with them their base seed, are those of the next epoch too."""
    return bool(loader.persistent_workers and loader.num_workers > 0)
