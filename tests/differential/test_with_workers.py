"""torch's DataLoader and ours over generated settings, with workers.

What torch makes without workers is what we should make with them, and quickly had.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch.utils.data
from hypothesis import assume, given
from hypothesis import strategies as st

import penstock
from tests.differential import known
from tests.differential.cases import asking_in_step, descriptions, maps, regular, shelves, unusual
from tests.differential.effort import many
from tests.differential.recording import Setting, record
from tests.differential.samples import CONTAINERS, LEAVES, REFUSED, Box, Leaf, Shelf
from tests.differential.sources import MapSource

torchs = torch.utils.data.DataLoader
WORKERS: dict[str, Any] = {"prefetch_factor": st.integers(1, 4), "timeout": st.sampled_from([0, 60.5])}
how_many = st.integers(1, 3)


def check_beside_none(setting: Setting, workers: int) -> None:
    """Ours with workers, torch's without."""
    assume(not known.intended(setting, known.WITH_WORKERS))
    theirs = record(torchs, setting.without("prefetch_factor", "timeout"))
    ours = record(penstock.DataLoader, setting.changed(num_workers=workers))
    difference = known.unlike(known.not_of_workers(ours), known.not_of_workers(theirs))
    assert difference is None, f"{difference}\nwith {workers} workers in {setting}"


@given(shelves(st.one_of(descriptions, descriptions, unusual), WORKERS), how_many)
@many(25, shrink=False)
def test_many_kinds_of_samples(setting: Setting, workers: int) -> None:
    check_beside_none(setting, workers)


@given(shelves(regular, WORKERS), how_many)
@many(15, shrink=False)
def test_regular_samples(setting: Setting, workers: int) -> None:
    check_beside_none(setting, workers)


@given(maps(descriptions, WORKERS, asking_in_step), how_many)
@many(25, shrink=False)
def test_map_style(setting: Setting, workers: int) -> None:
    check_beside_none(setting, workers)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_every_kind_of_sample_under_other_start_methods(method: str) -> None:
    leaves = [Leaf(name) for name in sorted({**LEAVES, **REFUSED}) if "strided" not in name]
    boxes = [Box(kind, (Leaf("float32"), Leaf("str"))) for kind in CONTAINERS]
    items = (*leaves, *boxes)
    setting = Setting(MapSource("dataset", Shelf(2, items), 2 * len(items)), {"batch_size": 2}, ("whole",), 0)
    theirs = record(torchs, setting)
    ours = record(penstock.DataLoader, setting.changed(num_workers=2, multiprocessing_context=method))
    assert known.unlike(known.not_of_workers(ours), known.not_of_workers(theirs)) is None
