"""What lies at hand, and the books of it: as many as were popped, whenever they are asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.at_hand import NONE_LEFT, NOTHING, AtHand
from penstock.indices.place import Progress
from penstock.stats import Recorder


def letters() -> AtHand:
    return AtHand(range(3), [1, 2, 3], iter(["ab", "c"]), str.upper)


def test_what_was_taken_was_given() -> None:
    at_hand = letters()
    assert (list(at_hand.batches), at_hand.given) == ([], 0)
    assert at_hand.go_on() == 3
    assert at_hand.given == 0
    assert (next(at_hand.batches), at_hand.given) == ("A", 1)
    assert (next(at_hand.batches), at_hand.given) == ("B", 2)
    assert (list(at_hand.batches), at_hand.given) == ([], 2)
    assert at_hand.go_on() == 3
    assert (list(at_hand.batches), at_hand.given) == (["C"], 3)
    assert at_hand.go_on() == 0
    assert (list(at_hand.batches), at_hand.given) == ([], 3)


@pytest.mark.parametrize("parts", [[1, 2, 3], np.zeros((3, 2)), np.zeros((3, 0))], ids=str)
def test_lists_and_arrays_tell_how_much_is_left(parts: Any) -> None:
    at_hand = AtHand(range(3), [1] * 3, [parts], id)
    at_hand.go_on()
    for count in range(1, 4):
        next(at_hand.batches)
        assert at_hand.given == count
    assert list(at_hand.batches) == []
    assert at_hand.given == 3


def test_what_is_dropped_is_gone_and_was_not_given() -> None:
    at_hand = letters()
    at_hand.go_on()
    next(at_hand.batches)
    at_hand.drop()
    assert at_hand.given == 1
    assert list(at_hand.batches) == []
    assert at_hand.go_on() == 0
    assert at_hand.given == 1


def next_of(at_hand: AtHand) -> Any:
    batch = next(at_hand.batches, NONE_LEFT)
    if batch is NONE_LEFT:
        assert at_hand.go_on() > 0
        batch = next(at_hand.batches)
    return batch


@st.composite
def runs(draw: st.DrawFn) -> tuple[set[int], list[tuple[list[int], bool, int]]]:
    """The missing numbers; and all that are left, in runs: at hand or one by one, and how many are given."""
    missing = draw(st.sets(st.integers(0, 5)))
    left = sorted(missing) + list(range(max(missing, default=0) + 2, 30))
    parts = []
    while left:
        size = draw(st.integers(1, 10))
        run, left = left[:size], left[size:]
        handed_over = len(run) if left else draw(st.integers(0, len(run)))
        parts.append((run, draw(st.booleans()), handed_over))
    return missing, parts


@given(runs())
def test_the_books_say_the_same_whether_they_are_told_of_each_or_look(
    drawn: tuple[set[int], list[tuple[list[int], bool, int]]],
) -> None:
    missing, parts = drawn
    count = max(missing, default=0) + 2 - len(missing)
    told, looks, recorder = Progress(count, missing), Progress(count, missing), Recorder()
    samples = 0
    for numbers, together, handed_over in parts:
        consecutive = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        as_told = range(numbers[0], numbers[-1] + 1) if consecutive else numbers
        half = len(numbers) // 2 or 1
        pieces = [numbers[:half], numbers[half:]]
        at_hand = AtHand(as_told, [number + 1 for number in numbers], pieces, int)
        looks.follow(at_hand if together else NOTHING)
        recorder.follow(at_hand if together else NOTHING)
        for number in numbers[:handed_over]:
            told.add(number)
            if together:
                assert next_of(at_hand) == number
            else:
                looks.add(number)
                recorder.batch_out(number + 1, 0.0, 0, False)
            samples += number + 1
            now = looks.now()
            assert (now.next, now.missing, now.count) == (told.next, told.missing, told.count)
            assert (recorder.samples, recorder.snapshot().samples) == (samples, samples)
    assert recorder.batches == sum(handed_over for _, _, handed_over in parts)
    looks.follow(NOTHING)
    assert (looks.next, looks.missing) == (told.next, told.missing)
