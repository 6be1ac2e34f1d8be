"""What lies at hand, and the books of it: as many as were popped, whenever they are asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.at_hand import NOTHING, AtHand
from penstock.indices.place import Progress
from penstock.stats import Recorder


def test_what_was_popped_was_given() -> None:
    at_hand = AtHand("abc", str.upper, range(3), [1, 1, 1])
    assert (at_hand.make(at_hand.parts.popleft()), at_hand.given) == ("A", 1)
    at_hand.parts.popleft()
    assert at_hand.given == 2


def test_what_is_dropped_is_gone_and_was_not_given() -> None:
    at_hand = AtHand("abc", str.upper, range(3), [1, 1, 1])
    at_hand.parts.popleft()
    at_hand.drop()
    assert at_hand.given == 1
    with pytest.raises(IndexError):
        at_hand.parts.popleft()


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
        at_hand = AtHand(numbers, int, as_told, [number + 1 for number in numbers])
        looks.follow(at_hand if together else NOTHING)
        recorder.follow(at_hand if together else NOTHING)
        for number in numbers[:handed_over]:
            told.add(number)
            if together:
                at_hand.parts.popleft()
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
