"""The orders of torch's own samplers, as iterators that hold no Python list of all indices.

Each gives the same indices as its sampler, and draws from the same generators, as much and as late (at the
first ``next``). It can begin at any place without walking there, and it can be made again from its *origin*:
what there is to know beside the sampler itself, plain enough for JSON. Making it again leaves generators
alone that aren't the sampler's own: they were drawn from before the state was taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

import torch

from penstock.distributed import integers, share, turns
from penstock.indices.dice import restore, state_of

Origin = dict[str, Any]

_AT_ONCE = 32
"""How many indices torch draws at once with replacement."""
_SKIPPED_AT_ONCE = 1 << 20
_RUN = 1 << 16


class Order(ABC):
    """The indices of one epoch, in their order.

    `origin` is that of the order to be made again; an empty one leaves all to be drawn.
    """

    def __init__(self, sampler: Any, origin: Mapping[str, Any]) -> None:
        self._sampler = sampler
        self._origin: Origin = dict(origin)

    @abstractmethod
    def indices(self, start: int) -> Iterator[Any]:
        """The indices but for the first `start`. Called once."""

    @property
    def unseen(self) -> bool:
        """Whether nobody else can tell when it draws."""
        return True

    def runs(self, start: int) -> Iterator[torch.Tensor] | None:
        """The same in tensors of int64, for an order that has them so; by a generator function, so that
        nothing is asked or drawn before it is wanted. Called instead of `indices`."""
        del start
        return None

    def begins_at(self, given: int) -> int:
        """The `start` with which the order goes on when `given` indices had been given by its origin."""
        return given

    def note(self, given: int, batch: tuple[Any, ...], wanted_from: int, last: bool) -> None:
        """It has given so many indices, of them `batch` just now; with `last`, it has come to its end. Of how
        it stood before it had given `wanted_from`, nobody will ask any more."""
        del given, batch, wanted_from, last

    def origin(self, given: int) -> Origin:
        """From what to make it again, so that it goes on when `given` indices have been given."""
        del given
        return dict(self._origin)

    def outlook(self, besides: Any = None) -> Origin:
        """From what the order of an epoch that hasn't begun will follow; beside a generator that the caller
        looks after, and what is drawn then."""
        del besides
        return {}


class Sequential(Order):
    def indices(self, start: int) -> Iterator[int]:
        return iter(range(start, len(self._sampler.data_source)))

    def runs(self, start: int) -> Iterator[torch.Tensor]:
        size = len(self._sampler.data_source)  # as late as torch asks for it
        for begin in range(start, size, _RUN):
            yield torch.arange(begin, min(begin + _RUN, size), device="cpu")


class Again(Order):
    def indices(self, start: int) -> Iterator[Any]:
        return islice(iter(self._sampler), start, None)


class TorchDistributed(Order):
    """A function of the sampler's seed and epoch."""

    def indices(self, start: int) -> Iterator[int]:
        return turns(self._sampler, start=start)


class Elastic(Order):
    """That of our `DistributedSampler`: its origin is what all ranks have consumed."""

    def __init__(self, sampler: Any, origin: Mapping[str, Any]) -> None:
        super().__init__(sampler, origin)
        self._consumed: int = self._origin.get("consumed", sampler.consumed)

    def indices(self, start: int) -> Iterator[int]:
        return turns(self._sampler, self._consumed, start)

    def begins_at(self, given: int) -> int:
        return 0 if "consumed" in self._origin else given

    def origin(self, given: int) -> Origin:
        mine = min(given, share(self._sampler, self._consumed))
        return {"consumed": self._consumed + mine * self._sampler.num_replicas}


class Drawn(Order):
    """One that a generator decides: the sampler's own or, as it has none, torch's default one."""

    @property
    def _own(self) -> torch.Generator | None:
        own: torch.Generator | None = self._sampler.generator
        return None if own is torch.default_generator else own

    def _dice(self) -> torch.Generator:
        """The generator to draw from, in the state that the origin says."""
        if "generator" not in self._origin:
            dice = self._own or torch.default_generator
            self._origin["generator"] = state_of(dice)
            return dice
        dice = self._own or torch.Generator()
        restore(dice, self._origin["generator"])
        return dice

    def origin(self, given: int) -> Origin:
        return super().origin(given) or self.outlook()

    def outlook(self, besides: Any = None) -> Origin:
        return {} if self._own in (None, besides) else {"generator": state_of(self._own)}


class DrawnNumbers(Drawn):
    """One whose indices are the drawn numbers themselves."""

    def indices(self, start: int) -> Iterator[int]:
        return chain.from_iterable(map(integers, self.runs(start)))

    @abstractmethod
    def runs(self, start: int) -> Iterator[torch.Tensor]:
        """As in `Order`."""


class Random(DrawnNumbers):
    @property
    def unseen(self) -> bool:
        """Without a generator torch makes one that only the sampler has."""
        return self._sampler.generator is None

    def runs(self, start: int) -> Iterator[torch.Tensor]:
        size = len(self._sampler.data_source)
        dice = self._dice()
        wanted = self._sampler.num_samples
        yield from (self._draws if self._sampler.replacement else self._shuffles)(dice, size, wanted, start)

    def _dice(self) -> torch.Generator:
        """Without a generator torch draws a seed from its default one, and makes one of that."""
        if self._sampler.generator is not None:
            return super()._dice()
        if "seed" not in self._origin:
            self._origin["seed"] = int(torch.empty((), dtype=torch.int64).random_().item())
        return torch.Generator().manual_seed(self._origin["seed"])

    def _draws(self, dice: torch.Generator, size: int, wanted: int, start: int) -> Iterator[torch.Tensor]:
        start = min(start, wanted)  # a short last batch counts as a whole one
        whole = start - start % _AT_ONCE
        for begin in range(0, whole, _SKIPPED_AT_ONCE):
            torch.randint(size, (min(whole - begin, _SKIPPED_AT_ONCE),), generator=dice)
        for begin in range(whole, wanted, _AT_ONCE):
            drawn = torch.randint(size, (min(wanted - begin, _AT_ONCE),), generator=dice)
            yield drawn[max(0, start - begin) :]

    def _shuffles(self, dice: torch.Generator, size: int, wanted: int, start: int) -> Iterator[torch.Tensor]:
        """torch ends with a shuffle of which it may use nothing; that counts where others see the dice."""
        for begin in range(0, wanted if self.unseen else wanted + 1, size):
            # not bound to a name here: it has to be gone before the next one is drawn
            yield torch.randperm(size, generator=dice)[max(0, start - begin) : wanted - begin]


class Subset(Drawn):
    def indices(self, start: int) -> Iterator[Any]:
        chosen = self._sampler.indices
        order = torch.randperm(len(chosen), generator=self._dice())
        yield from (chosen[place] for place in integers(order[start:]))


class Weighted(DrawnNumbers):
    def runs(self, start: int) -> Iterator[torch.Tensor]:
        sampler, dice = self._sampler, self._dice()
        drawn = torch.multinomial(sampler.weights, sampler.num_samples, sampler.replacement, generator=dice)
        yield drawn[start:]
