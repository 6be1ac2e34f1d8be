"""Flattening, rebuilding and comparing nested samples."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tree import (
    LEAF,
    StructureMismatch,
    columns_of,
    flatten,
    leaves_of,
    map_kinds,
    map_leaves,
    structure_of,
    unflatten,
)


class Point(NamedTuple):
    x: Any
    y: Any


class Other(NamedTuple):
    x: Any
    y: Any


KEYS = st.text(max_size=3) | st.integers() | st.tuples(st.integers(), st.booleans())
LEAVES = (
    st.none() | st.integers() | st.text(max_size=3) | st.builds(OrderedDict) | st.frozensets(st.integers())
)


def containers(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(items, max_size=4)
    return (
        lists | lists.map(tuple) | st.dictionaries(KEYS, items, max_size=4) | st.builds(Point, items, items)
    )


SAMPLES = st.recursive(LEAVES, containers, max_leaves=20)


def shape_of(sample: Any) -> Any:
    """The sample with its types spelled out, so that a list and a tuple of the same don't compare equal."""
    if type(sample) is dict:
        return dict, [(key, shape_of(value)) for key, value in sample.items()]
    if type(sample) in (list, tuple, Point):
        return type(sample), [shape_of(item) for item in sample]
    return type(sample), sample


@given(SAMPLES)
def test_unflatten_is_the_inverse_of_flatten(sample: Any) -> None:
    structure = structure_of(sample)
    rebuilt = unflatten(structure, iter(flatten(sample, structure)))
    assert shape_of(rebuilt) == shape_of(sample)


@given(SAMPLES)
def test_leaves_one_by_one_are_those_of_the_structure(sample: Any) -> None:
    leaves = flatten(sample, structure_of(sample))
    assert list(leaves_of(sample)) == leaves
    seen: list[Any] = []
    assert shape_of(map_leaves(lambda leaf: (seen.append(leaf), leaf)[1], sample)) == shape_of(sample)
    assert seen == leaves


@given(SAMPLES)
def test_equal_samples_have_equal_structures_that_hash_and_pickle_alike(sample: Any) -> None:
    structure = structure_of(sample)
    again = structure_of(pickle.loads(pickle.dumps(sample)))
    assert again == structure
    assert hash(again) == hash(structure)
    assert pickle.loads(pickle.dumps(structure)) == structure


def test_a_leaf_is_the_same_one_in_another_process() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(LEAF, protocol)) is LEAF
    assert copy.deepcopy(LEAF) is LEAF


@given(SAMPLES, st.integers(0, 3))
def test_samples_are_made_again_of_their_columns(sample: Any, count: int) -> None:
    structure = structure_of(sample)
    columns = columns_of([sample] * count, structure)
    if columns:
        made = [unflatten(structure, iter(leaves)) for leaves in zip(*columns, strict=True)]
        assert made == [sample] * count


def test_leaves_come_in_reading_order() -> None:
    sample = {"a": [1, (2, 3)], "b": Point(4, {"c": 5})}
    assert flatten(sample, structure_of(sample)) == [1, 2, 3, 4, 5]


def test_another_order_of_keys_is_another_structure() -> None:
    with pytest.raises(StructureMismatch):
        flatten({"b": 20, "a": 10}, structure_of({"a": 1, "b": 2}))


@pytest.mark.parametrize("leaf", [1, "text", None, OrderedDict(a=1), {1, 2}, range(3)])
def test_whatever_is_no_plain_container_is_a_leaf(leaf: Any) -> None:
    assert structure_of(leaf) is LEAF
    assert flatten(leaf, LEAF) == [leaf]


@pytest.mark.parametrize(
    ("like", "sample"),
    [
        ([1, 2], [1]),
        ([1, 2], [1, 2, 3]),
        ([1, 2], (1, 2)),
        ((1, 2), Point(1, 2)),
        (Point(1, 2), Other(1, 2)),
        (Point(1, 2), (1, 2)),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1}, OrderedDict(a=1)),
        ({"a": 1}, [1]),
        ([1], 1),
        ([[1], 2], [3, 2]),
        ({"a": [1]}, {"a": 1}),
    ],
)
def test_another_structure_is_a_mismatch(like: Any, sample: Any) -> None:
    with pytest.raises(StructureMismatch):
        flatten(sample, structure_of(like))


def test_a_container_in_a_leafs_place_comes_back_as_that_leaf() -> None:
    assert flatten([[1], 2], structure_of([0, 0])) == [[1], 2]


def test_map_kinds_replaces_sequence_types_at_every_depth() -> None:
    structure = map_kinds(structure_of({"a": (1, [(2,)])}), lambda kind: list if kind is tuple else kind)
    assert structure == structure_of({"a": [1, [[2]]]})
