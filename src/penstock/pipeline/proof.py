"""Proves on a few samples that what is to be kept is the same every time; by running them, not by type.

Each sample is made twice, in another order and under other states of every generator (`penstock.seeding`).
What came out, and whether a generator was drawn from, tell how far the fixed part reaches. Then the sample
made in two parts is compared, bit for bit and with the generators' states after it, with the sample made in
one go.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.pipeline.compositions import CannotCut, Parts
from penstock.pipeline.cut import Cut
from penstock.pipeline.marks import TOUCHED, Marks
from penstock.pipeline.same import same
from penstock.pipeline.sites import Site
from penstock.seeding import find_generators, global_generators

SEEDS = 0x5EED5EED, 0x0DDBA11, 0xC0FFEE
_SALT = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Costs:
    """Mean seconds that the first part of a sample takes, and the rest."""

    start_s: float
    finish_s: float


class Generators:
    """All generators that the dataset's code may draw from."""

    def __init__(self, dataset: Any) -> None:
        self._all = [*global_generators(), *find_generators(dataset).values()]

    def seed(self, seed: int) -> None:
        """Set them all, each to a state of its own."""
        for number, generator in enumerate(self._all):
            generator.seed((seed + number * _SALT) % 2**63)

    def states(self) -> list[Any]:
        """The states of now; they compare by value."""
        return [generator.state() for generator in self._all]


@dataclass(frozen=True, slots=True)
class _Step:
    """What was there before a step of a site's transform, or at the cut."""

    site: int
    place: int
    drawn: bool
    parts: Parts


def longest(dataset: Any, steps: Mapping[Site, int], samples: Sequence[Any]) -> dict[Site, int]:
    """How many of the first `steps` of each site are the same every time.

    Raises:
        CannotCut: if the dataset can't be cut there, or what the transforms are given isn't the same.
    """
    once = _trails(dataset, steps, samples, SEEDS[0])
    again = _trails(dataset, steps, samples[::-1], SEEDS[1])
    sites, found, seen = list(steps), dict(steps), set[int]()
    for index in samples:
        seen |= {step.site for step in once[index]}
        differs = _first_difference(once[index], again[index])
        if differs is None:
            continue
        if differs.place == 0:
            raise CannotCut(f"what {sites[differs.site]} is given isn't the same every time")
        site = sites[differs.site]
        found[site] = min(found[site], differs.place - 1)
    unused = [str(site) for number, site in enumerate(sites) if number not in seen]
    if unused:
        raise CannotCut(f"{unused[0]} isn't called for the samples that were tried (or is cached already)")
    return found


def _trails(
    dataset: Any, steps: Mapping[Site, int], order: Sequence[Any], seed: int
) -> dict[Any, list[_Step]]:
    """What each sample's transforms do, step by step."""
    generators = Generators(dataset)
    before: list[Any] = []
    trail: list[_Step] = []

    def watch(site: int, place: int, parts: Parts) -> None:
        trail.append(_Step(site, place, generators.states() != before, _copied(parts)))

    cut = Cut(dataset, steps, watch)
    trails = {}
    for number, index in enumerate(order):
        generators.seed(seed + number)
        before[:] = generators.states()
        trail.clear()
        _start(cut, index)
        trails[index] = list(trail)
    return trails


def _start(cut: Cut, index: Any) -> tuple[Any, Marks]:
    """The first part of a sample that could be made whole: so what it raises is because of the cut."""
    try:
        return cut.start(index)
    except CannotCut:
        raise
    except Exception as error:
        if cut.whole:
            raise
        raise CannotCut(f"{TOUCHED} ({type(error).__name__}: {error})") from error


def _copied(values: Any) -> Any:
    """A copy that nothing changes later."""
    try:
        return copy.deepcopy(values)
    except Exception as error:  # torch can't copy some sparse tensors, say
        raise CannotCut(f"what is to be kept can't be copied ({type(error).__name__}: {error})") from error


def _first_difference(once: list[_Step], again: list[_Step]) -> _Step | None:
    """The first step before which something was drawn, or is another time something else."""
    if [(step.site, step.place) for step in once] != [(step.site, step.place) for step in again]:
        raise CannotCut("the dataset calls its transforms differently from one time to the next")
    pairs = zip(once, again, strict=True)
    return next((a for a, b in pairs if a.drawn or b.drawn or not same(a.parts, b.parts)), None)


def prove(cut: Cut, samples: Sequence[Any]) -> Costs:
    """Prove that `cut` gives its dataset's samples, of which the first part is the same every time.

    Raises:
        CannotCut: if that isn't so; it says why.
    """
    dataset = cut.dataset
    generators = Generators(dataset)
    kept, start_s = _starts(cut, samples, generators, SEEDS[0])
    again, _ = _starts(cut, samples[::-1], generators, SEEDS[1])
    for index in samples:
        if kept[index][1] != again[index][1] or not same(kept[index][0], again[index][0]):
            raise CannotCut("what would be kept of a sample isn't the same every time")
    finish_s = 0.0
    for index in samples:
        values, marks = kept[index]
        generators.seed(SEEDS[2])
        begin = time.perf_counter()
        finished = cut.finish(values, marks)
        finish_s += time.perf_counter() - begin
        states = generators.states()
        generators.seed(SEEDS[2])
        if not same(dataset[index], finished) or (marks.places and generators.states() != states):
            raise CannotCut(_why_different(dataset, index, generators))
    return Costs(start_s / len(samples), finish_s / len(samples))


def _why_different(dataset: Any, index: Any, generators: Generators) -> str:
    """What to say of a sample that is another one when it is made in two parts."""
    generators.seed(SEEDS[2])
    once = copy.deepcopy(dataset[index])
    generators.seed(SEEDS[2])
    if not same(once, dataset[index]):
        return "a random step draws from something that can't be seeded, so that nothing can be proved"
    return "made in two parts, a sample isn't what it is in one go"


def _starts(
    cut: Cut, order: Sequence[Any], generators: Generators, seed: int
) -> tuple[dict[Any, tuple[Any, Marks]], float]:
    """The first part of each sample, each made under another seed, and the seconds that they took.

    Raises:
        CannotCut: if a generator was drawn from meanwhile.
    """
    made: dict[Any, tuple[Any, Marks]] = {}
    taken = 0.0
    for number, index in enumerate(order):
        generators.seed(seed + number)
        before = generators.states()
        begin = time.perf_counter()
        values, marks = _start(cut, index)
        taken += time.perf_counter() - begin
        made[index] = _copied(values), marks
        if generators.states() != before:
            raise CannotCut("random numbers are drawn for what would be kept")
    return made, taken
