"""A dataset cut in two: what is the same every time, and the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from penstock.pipeline.compositions import Composition, Parts
from penstock.pipeline.marks import Mark, Marks, calls, open_marks
from penstock.pipeline.sites import Site, with_transforms

Watch = Callable[[int, int, Parts], None]
"""Told the number of the site, of the step, and the parts, before each step and at the cut."""


class Head:
    """Stands for a transform in the copied dataset: runs its first steps, and marks what comes of them."""

    def __init__(self, composition: Composition, site: int, steps: int, watch: Watch | None = None) -> None:
        self._composition, self._site, self._steps, self._watch = composition, site, steps, watch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        composition = self._composition
        parts = composition.parts_of(args, kwargs)
        for place in range(self._steps):
            if self._watch is not None:
                self._watch(self._site, place, parts)
            parts = composition.step(place, parts)
        if self._watch is not None:
            self._watch(self._site, self._steps, parts)
        call = calls.note(self._site, parts)
        return composition.result({key: Mark(call, key, value) for key, value in parts.items()})


class Cut:
    """A dataset in two parts: ``finish(*start(index))`` is ``dataset[index]``.

    `steps` tells, for each site, how many steps of its transform belong to the first part; with no sites,
    that is all of the sample. Both parts use the user's own transforms; the dataset itself stays as it is. To
    be pickled together with the dataset, if at all.

    Attributes:
        dataset: the user's.
    """

    def __init__(self, dataset: Any, steps: Mapping[Site, int], watch: Watch | None = None) -> None:
        self.dataset = dataset
        self._steps, self._watch = list(steps.items()), watch
        self._copy: tuple[int, Any] | None = None

    def start(self, index: Any) -> tuple[Any, Marks]:
        """The first part of a sample: its values up to the cut, and where the rest goes on.

        Raises:
            CannotCut: if the dataset does more with what is marked than to pass it on.
        """
        calls.take()
        return open_marks(self._source()[index])

    @property
    def whole(self) -> bool:
        """Whether the first part is all of the sample."""
        return not self._steps

    def kept_steps(self) -> dict[tuple[int, str], tuple[Any, ...]]:
        """The steps of the first part, by the object that has the transform (its id) and the attribute."""
        found = {(id(s.owner), s.attribute): s.composition.steps[:place] for s, place in self._steps}
        return {**{(owner, "transforms"): steps for (owner, _), steps in found.items()}, **found}

    def _source(self) -> Any:
        """The dataset, cut short: a copy made in this process, so that it has what ``worker_init_fn`` set."""
        if not self._steps:
            return self.dataset
        if self._copy is None or self._copy[0] != os.getpid():
            heads = {
                site: Head(site.composition, number, place, self._watch)
                for number, (site, place) in enumerate(self._steps)
            }
            self._copy = os.getpid(), with_transforms(self.dataset, heads)
        return self._copy[1]

    def finish(self, values: Any, marks: Marks) -> Any:
        """The sample. Its parts may be changed in place by the user's steps: give them away."""
        if not marks.places:
            return values
        finished = []
        for (number, _), parts in zip(marks.calls, marks.parts(values), strict=True):
            site, place = self._steps[number]
            finished.append(site.composition.rest(place, parts))
        return marks.put_back(values, finished)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_copy": None}
