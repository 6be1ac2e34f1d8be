"""How a batch is split, and the seed of every sample."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.plan import (
    MAX_QUEUE,
    PARTS_PER_WORKER,
    QUEUE_SECONDS,
    TASK_SECONDS,
    Window,
    parts_for,
    sample_seeds,
    split,
    window,
)

INDICES = st.lists(
    st.integers() | st.text(max_size=3) | st.tuples(st.integers()) | st.tuples(st.integers(), st.integers()),
    min_size=1,
    max_size=12,
)


@given(st.integers(0, 500), st.integers(1, 600))
def test_split_covers_every_position_once_and_in_order(size: int, parts: int) -> None:
    assert [position for part in split(size, parts) for position in part] == list(range(size))


@given(st.integers(0, 500), st.integers(1, 600))
def test_split_gives_parts_of_nearly_equal_length_and_none_empty(size: int, parts: int) -> None:
    lengths = [len(part) for part in split(size, parts)]
    assert len(lengths) == min(size, parts)
    assert all(lengths)
    assert not lengths or max(lengths) - min(lengths) <= 1


@given(st.integers(0, 500), st.integers(0, 64), st.none() | st.floats(0, 100))
def test_parts_are_at_least_one_and_bounded_by_samples_and_workers(
    size: int, workers: int, cost: float | None
) -> None:
    parts = parts_for(size, workers, cost)
    assert 1 <= parts <= max(1, min(size, PARTS_PER_WORKER * workers))


@given(st.integers(1, 500), st.integers(2, 64), st.floats(0, 10))
def test_parts_are_not_made_shorter_than_is_worth_it(size: int, workers: int, cost: float) -> None:
    parts = parts_for(size, workers, cost)
    assert parts == 1 or size * cost / parts >= TASK_SECONDS * (1 - 1e-9)


def test_every_worker_gets_a_part_while_the_cost_is_unknown() -> None:
    assert parts_for(64, 4, None) == 4
    assert parts_for(3, 4, None) == 3


def test_cheap_samples_stay_together_and_dear_ones_are_spread() -> None:
    assert parts_for(64, 4, TASK_SECONDS / 1000) == 1
    assert parts_for(64, 4, TASK_SECONDS) == 4 * PARTS_PER_WORKER


def test_a_lone_worker_gets_whole_batches() -> None:
    assert parts_for(64, 1, 1.0) == 1


@given(st.integers(1, 200), st.integers(1, 64), st.none() | st.floats(0, 100))
def test_batches_ahead_are_what_was_asked_for_and_no_more_than_a_bounded_queue(
    at_least: int, workers: int, cost: float | None
) -> None:
    assert at_least <= window(at_least, workers, cost).high <= max(at_least, MAX_QUEUE * workers)


def test_more_batches_are_ahead_the_cheaper_they_are() -> None:
    costs = [1.0, QUEUE_SECONDS, QUEUE_SECONDS / 10, 0.0]
    assert [window(4, 4, cost).high for cost in costs] == [4, 4, 40, 4 * MAX_QUEUE]


def test_nothing_is_ahead_without_workers() -> None:
    assert window(0, 1, 1e-6) == Window(-1, 0)


@pytest.mark.parametrize(
    ("args", "seeds"),
    [
        (
            (0, 1, 0, 0, [0, 1, 2]),
            [14377364164098223486, 4257082127229189950, 5187942985868351706],
        ),
        ((2**63 + 5, 3, 7, 2, [-1, 10**9]), [14568410972301976094, 6226068497993835293]),
        (
            (1, 1, 0, 0, ["a", (1, 2), 2**70]),
            [10675051718143856708, 15343787911548752357, 4623056138146258981],
        ),
    ],
)
def test_seeds_are_the_same_in_every_release(args: tuple[Any, ...], seeds: list[int]) -> None:
    assert sample_seeds(*args) == seeds


@given(INDICES, st.data())
def test_a_samples_seed_does_not_depend_on_how_its_batch_is_split(indices: list[Any], data: Any) -> None:
    parts = split(len(indices), data.draw(st.integers(1, len(indices))))
    whole = sample_seeds(3, 1, 2, 0, indices)
    by_parts = [sample_seeds(3, 1, 2, p.start, indices[p.start : p.stop]) for p in parts]
    assert [seed for seeds in by_parts for seed in seeds] == whole


def test_seeds_differ_for_every_position() -> None:
    assert len(set(sample_seeds(0, 1, 0, 0, [7] * 1000))) == 1000


@pytest.mark.parametrize(
    "other", [(1, 1, 0, 0, [7]), (0, 2, 0, 0, [7]), (0, 1, 1, 0, [7]), (0, 1, 0, 0, [8])]
)
def test_seeds_differ_for_every_base_seed_epoch_batch_and_index(other: tuple[Any, ...]) -> None:
    assert sample_seeds(*other) != sample_seeds(0, 1, 0, 0, [7])


def test_batch_and_offset_do_not_stand_for_each_other() -> None:
    assert sample_seeds(0, 1, 2, 3, [7]) != sample_seeds(0, 1, 3, 2, [7])


@pytest.mark.parametrize("index", ["a", (1, 2), None, -1, -(2**63), 2**63, 2**200, -(2**200), 1.5])
def test_any_index_has_a_64_bit_seed_of_its_own(index: Any) -> None:
    (seed,) = sample_seeds(0, 1, 0, 0, [index])
    assert 0 <= seed < 2**64
    assert [seed] == sample_seeds(0, 1, 0, 0, [index])
    assert [seed] != sample_seeds(0, 1, 0, 0, [1])


@given(st.integers())
def test_any_integer_is_a_base_seed(base_seed: int) -> None:
    assert sample_seeds(base_seed, 1, 0, 0, [0]) == sample_seeds(base_seed % 2**64, 1, 0, 0, [0])


def test_no_samples_have_no_seeds() -> None:
    assert sample_seeds(0, 1, 0, 0, []) == []
