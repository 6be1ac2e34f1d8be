"""Finds how much of a dataset's samples is the same every time, and cuts the dataset there."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, SupportsIndex

from penstock.errors import NotRepeatableError
from penstock.pipeline.apart import run_apart
from penstock.pipeline.compositions import CannotCut
from penstock.pipeline.cut import Cut
from penstock.pipeline.marks import Marks
from penstock.pipeline.proof import Costs, longest, prove
from penstock.pipeline.randomness import name_of, why_random
from penstock.pipeline.sites import Site, groups_of, with_transforms

SAMPLES = 8
"""How many samples, from all over the dataset, the proof is made on."""

Until = int | str | None
Look = Callable[[Any, Marks], Any]


def nothing(values: Any, marks: Marks) -> None:
    """A look at nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a transform.

    Attributes:
        name: of its class or function.
        random: why its type is known to be random; None if it isn't.
        kept: it belongs to the part that is the same every time.
    """

    name: str
    random: str | None
    kept: bool


@dataclass(frozen=True, slots=True)
class Study:
    """What was found about a dataset.

    Attributes:
        cut: the dataset in two parts.
        pipelines: for each transform that is cut, where it is and its steps; empty if whole samples are
            the same every time.
        costs: of a sample, measured on those that the proof was made on.
        looks: what `look` gave for the first part of each of them.
        notes: what was tried and wouldn't do.
    """

    cut: Cut
    pipelines: tuple[tuple[str, tuple[Step, ...]], ...]
    costs: Costs
    looks: tuple[Any, ...]
    notes: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is left to do for a sample."""
        return not self.pipelines

    def explain(self) -> str:
        """What was found, for a person to read."""
        lines = []
        if self.whole:
            lines.append("Whole samples are the same every time.")
        for where, steps in self.pipelines:
            lines.append(f"{where}, of which {_first(sum(step.kept for step in steps))} kept:")
            for number, step in enumerate(steps):
                why = f" (random: {step.random})" if step.random else ""
                lines.append(f"  {number}  {'kept' if step.kept else 'run '}  {step.name}{why}")
        start, finish = self.costs.start_s * 1e3, self.costs.finish_s * 1e3
        samples = "1 sample" if len(self.looks) == 1 else f"{len(self.looks)} samples"
        times = f"{start:.3g} ms of a sample are the same every time, {finish:.3g} ms are not"
        lines.append(f"Proved on {samples}: {times}.")
        return "\n".join([*lines, *self.notes])


def _first(steps: int) -> str:
    return f"the first {steps} steps are" if steps > 1 else "the first step is" if steps else "no step is"


def study(dataset: Any, until: Until = None, look: Look = nothing) -> Study:
    """Find the part of `dataset`'s samples that is the same every time.

    A few samples are made for that, in a process forked from this one, where `look` is shown the first part
    of each (its values and its marks); what it returns has to be picklable. `until` sets the cut by hand:
    the number, or the name, of the first step that isn't to be kept.

    Raises:
        NotRepeatableError: if there is no such part, or it doesn't reach up to `until`.
        ValueError: if the dataset is empty, or has no such step.
        TypeError: if it isn't map-style.
    """
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"a map-style dataset is needed (with len and [i]), not {type(dataset).__name__}")
    if len(dataset) == 0:
        raise ValueError("the dataset is empty")
    if hasattr(dataset, "set_epoch"):
        reason = "it has set_epoch, so its samples may change from epoch to epoch."
        raise NotRepeatableError(type(dataset).__qualname__, reason)
    if until is not None and not isinstance(until, str | SupportsIndex):
        raise ValueError(f"until should be a step's number or name, but got {until!r}")
    groups = groups_of(dataset)
    wanted = [_by_hand(group, until) for group in groups] if until is not None else []
    if until is not None and not any(wanted):
        raise ValueError(_no_such_step(until, groups))
    which, places, costs, looks, notes = run_apart(partial(_find, dataset, groups, wanted, look))
    sites = groups[which] if which is not None else []
    steps = dict(zip(sites, places, strict=True))
    described = tuple((str(site), _steps(site, place)) for site, place in steps.items())
    return Study(Cut(dataset, steps), described, costs, tuple(looks), tuple(notes))


_Found = tuple[int | None, list[int], Costs, list[Any], list[str]]


def _find(dataset: Any, groups: list[list[Site]], wanted: list[dict[Site, int]], look: Look) -> _Found:
    """Which group to cut, or None for none, and after how many steps each; in a process of its own."""
    samples = _some_samples(dataset)
    notes: list[str] = []
    whole = Cut(dataset, {})
    if not wanted and not _known_random(groups):
        try:
            costs = prove(whole, samples)
            return None, [], costs, [look(*whole.start(index)) for index in samples], notes
        except CannotCut as error:
            notes.append(f"Whole samples can't be kept: {error}.")
    for number, group in enumerate(groups):
        steps = wanted[number] if wanted else {site: _before_random(site) for site in group}
        if not steps:
            continue
        try:
            _refuse_random_beside(dataset, groups, group, samples)
            found = longest(dataset, _capped(steps), samples)
            if wanted and found != steps:
                raise CannotCut(_random_before(steps, found))
            cut = Cut(dataset, found)
            costs = prove(cut, samples)
        except CannotCut as error:
            notes.append(f"Not cut at {group[0]}: {error}.")
            continue
        if all(place == len(site.composition.steps) for site, place in found.items()):
            return None, [], costs, [look(*whole.start(index)) for index in samples], notes
        return number, list(found.values()), costs, [look(*cut.start(index)) for index in samples], notes
    raise NotRepeatableError(type(dataset).__qualname__, " ".join(notes))


def _known_random(groups: list[list[Site]]) -> bool:
    sites = (site for group in groups for site in group)
    return any(why_random(step) for site in sites for step in site.composition.steps)


def _refuse_random_beside(
    dataset: Any, groups: list[list[Site]], cut: list[Site], samples: Sequence[Any]
) -> None:
    """Raise `CannotCut` if a transform that isn't cut, and so would be kept with all of its steps, has one
    that is random by type: it may draw too seldom for the proof to see."""
    places = {(id(site.owner), site.attribute) for site in cut}
    beside = [
        site
        for site in dict.fromkeys(site for group in groups for site in group)
        if (id(site.owner), site.attribute) not in places and any(map(why_random, site.composition.steps))
    ]
    for site in beside:
        if not site.reachable or _is_called(dataset, site, samples):
            raise CannotCut(f"{site} would be kept, and is random")


def _is_called(dataset: Any, site: Site, samples: Sequence[Any]) -> bool:
    """Whether these samples go through this transform, as far as that can be told."""
    called = False

    def spy(*_: Any, **__: Any) -> Any:
        nonlocal called
        called = True
        raise CannotCut

    spied = with_transforms(dataset, {site: spy})
    for index in samples:
        try:
            spied[index]
        except Exception:  # of ours, or of a dataset that looks into its transform
            return True
    return called


def _some_samples(dataset: Any) -> Sequence[int]:
    """Samples from all over the dataset, as far as they can be made."""
    size = len(dataset)
    spread = {size * part // SAMPLES for part in range(SAMPLES)}
    parts = getattr(dataset, "cumulative_sizes", ())  # of a ConcatDataset: one of each part
    wanted = sorted(spread | {int(end) - 1 for end in parts if 0 < int(end) <= size})
    usable: list[int] = []
    error: Exception | None = None
    for index in wanted:
        try:
            dataset[index]
        except Exception as raised:
            error = raised
        else:
            usable.append(index)
    if not usable:
        reason = f"none of the {len(wanted)} samples that were tried could be made: {error!r}."
        raise NotRepeatableError(type(dataset).__qualname__, reason)
    return usable


def _capped(steps: dict[Site, int]) -> dict[Site, int]:
    """The same, but nowhere behind a step that is random by type."""
    return {site: min(place, _before_random(site)) for site, place in steps.items()}


def _before_random(site: Site) -> int:
    """How many steps come before the first that is random by type."""
    steps = site.composition.steps
    known = next((place for place, step in enumerate(steps) if why_random(step)), len(steps))
    return min(known, site.composition.deepest)


def _by_hand(group: list[Site], until: int | str) -> dict[Site, int]:
    """The cut that the user asks for; empty if this group has no such step."""
    found = {}
    for site in group:
        names = [name_of(step) for step in site.composition.steps]
        if isinstance(until, str) and until not in names:
            return {}
        place = names.index(until) if isinstance(until, str) else operator.index(until)
        if not 0 <= place <= site.composition.deepest:
            return {}
        found[site] = place
    return found


def _no_such_step(until: int | str, groups: list[list[Site]]) -> str:
    lines = [f"until={until!r} is no step at which a transform of this dataset could be cut."]
    for site in dict.fromkeys(site for group in groups for site in group):
        names = ", ".join(f"{n} {name_of(step)}" for n, step in enumerate(site.composition.steps))
        lines.append(f"{site} has: {names}.")
    return " ".join(lines if groups else [*lines, "No transform was found in it."])


def _random_before(wanted: dict[Site, int], found: dict[Site, int]) -> str:
    site = next(site for site in wanted if found[site] != wanted[site])
    return f"step {found[site]} of {site} ({name_of(site.composition.steps[found[site]])}) is random"


def _steps(site: Site, kept: int) -> tuple[Step, ...]:
    return tuple(
        Step(name_of(step), why_random(step), place < kept)
        for place, step in enumerate(site.composition.steps)
    )
