"""torch's DataLoader and ours over generated settings, without workers: each event is the same."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
import torch.utils.data
from hypothesis import assume, given
from hypothesis import strategies as st

import penstock
from tests.differential import known
from tests.differential.cases import descriptions, maps, some_of, streams, unusual
from tests.differential.effort import many
from tests.differential.recording import Setting, record
from tests.differential.samples import Leaf
from tests.differential.sources import MapSource, Order, StreamSource

torchs = torch.utils.data.DataLoader
samples = st.one_of(descriptions, descriptions, unusual)


def check(setting: Setting) -> None:
    assume(not known.intended(setting, known.SETTINGS))
    difference = known.unlike(record(penstock.DataLoader, setting), record(torchs, setting))
    assert difference is None, f"{difference}\nin {setting}"


@given(maps(samples, {}))
@many(700)
def test_map_style(setting: Setting) -> None:
    check(setting)


@given(streams(samples, {}))
@many(400)
def test_iterable(setting: Setting) -> None:
    check(setting)


anything: dict[str, st.SearchStrategy[Any]] = {
    "batch_size": st.sampled_from([0, -1, 1, 3, None, True, 2.0, "2"]),
    "shuffle": st.sampled_from([None, True, False, 3, "yes"]),
    "sampler": st.sampled_from([None, range(5), "abc", Order("random", 4, batches=False)]),
    "batch_sampler": st.sampled_from([None, [[0]], Order("torch's", 4, batches=True)]),
    "num_workers": st.sampled_from([0, 1, 2, 1000, -1, 1.5, None]),
    "collate_fn": st.sampled_from([None, repr, 3]),
    "pin_memory": st.sampled_from([True, False, None]),
    "drop_last": st.sampled_from([True, False, None, 3]),
    "timeout": st.sampled_from([0, -1, 2.5, "1", None]),
    "worker_init_fn": st.sampled_from([None, repr, 3]),
    "multiprocessing_context": st.sampled_from(
        [None, "fork", "spawn", "bad", 3, multiprocessing.get_context("forkserver")]
    ),
    "generator": st.sampled_from([None, 3, "a generator"]),
    "prefetch_factor": st.sampled_from([None, 2, 0, -1, "2", 1.5]),
    "persistent_workers": st.booleans(),
    "pin_memory_device": st.sampled_from(["", "cuda", "cpu"]),
    "in_order": st.booleans(),
    "no_such_argument": st.just(1),
}
sources = st.one_of(
    st.builds(
        MapSource, st.sampled_from(["dataset", "without a length", "list"]), st.just(Leaf("int")), st.just(5)
    ),
    st.builds(
        StreamSource,
        st.just("generator"),
        st.just(Leaf("int")),
        st.just((5,)),
        st.just(False),
        st.one_of(st.none(), st.just(5)),
        st.booleans(),
    ),
)


@given(st.builds(Setting, sources, some_of(**anything), st.just(("length", "assign")), st.just(0)))
@many(700)
def test_construction(setting: Setting) -> None:
    """Right arguments and wrong ones: attributes, exceptions, warnings, and what may be set afterwards."""
    check(setting)


@given(st.builds(Setting, sources, some_of(**anything), st.just(("epoch", "length")), st.just(0)))
@many(300)
def test_wrong_arguments_that_show_in_use(setting: Setting) -> None:
    check(setting.without("num_workers", "no_such_argument"))


def test_rows_of_known_differences_exist(pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "docs" / "differences.md").read_text()
    named = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")}
    assert known.rows() <= named
