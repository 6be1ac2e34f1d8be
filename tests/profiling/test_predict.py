"""Predictions, from measurements whose truth is known: exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.profiling.data import Ceiling
from penstock.profiling.figures import samples_per_s
from penstock.profiling.predict import predict
from tests.profiling.made import BATCH, loop, measured, samples, trial, with_parts


def test_what_was_measured_is_predicted() -> None:
    m = measured(workers=1, sample=0.01, step=0.05)
    expected = predict(m)
    assert expected.samples_per_s == pytest.approx(100)
    assert expected.stall == pytest.approx(0.5)
    assert expected.bound == "workers"


def test_twice_the_workers_make_twice_as_much_until_the_loop_sets_the_pace() -> None:
    m = measured(workers=1, sample=0.01, step=0.04)
    assert [round(predict(m, num_workers=n).samples_per_s) for n in (1, 2, 3, 4)] == [100, 200, 250, 250]
    assert [predict(m, num_workers=n).bound for n in (1, 2, 4)] == ["workers", "workers", "loop"]
    assert predict(m, num_workers=4).stall == pytest.approx(0)


def test_without_workers_one_thing_comes_after_the_other() -> None:
    expected = predict(measured(workers=2, sample=0.01, step=0.05), num_workers=0)
    assert expected.samples_per_s == pytest.approx(BATCH / (0.1 + 0.05))
    assert expected.stall == pytest.approx(2 / 3)


def test_the_cores_are_shared_by_the_workers_and_the_steps() -> None:
    m = measured(workers=2, sample=0.01, step=0.05, cores=2, ceiling=Ceiling(9, 0.05, 0.05))
    expected = predict(m, num_workers=4)
    assert expected.bound == "cores"
    assert expected.samples_per_s == pytest.approx(BATCH * 2 / (0.1 + 0.05))


def test_a_source_that_serves_one_at_a_time_bounds_any_number() -> None:
    m = measured(workers=2, sample=0.01, cpu=0.001, serial=0.009, step=0.001)
    assert predict(m, num_workers=4).samples_per_s == pytest.approx(1 / 0.009)
    assert predict(m, num_workers=16).samples_per_s == pytest.approx(1 / 0.009)
    assert predict(m, num_workers=16).bound in ("source", "workers")


def test_waiting_samples_scale_beyond_the_cores() -> None:
    m = measured(workers=1, sample=0.01, cpu=0.0005, step=0.0, cores=2)
    assert predict(m, num_workers=10).samples_per_s == pytest.approx(1000)
    assert predict(m, num_workers=1000).bound == "cores"


def test_the_hand_off_counts_with_the_step() -> None:
    m = measured(workers=1, sample=0.001, step=0.05)
    m = replace(m, trials=tuple(replace(t, main_cpu_s=0.03) for t in m.trials))
    assert predict(m, num_workers=4).samples_per_s == pytest.approx(BATCH / 0.08)


def test_a_number_between_two_measured_ones_lies_between() -> None:
    m = measured(workers=1, sample=0.01, step=0.0, trials=(trial(2, 200, 0.01), trial(4, 300, 0.01)))
    assert predict(m, num_workers=3).samples_per_s == pytest.approx(250)
    assert predict(m, num_workers=1).samples_per_s == pytest.approx(100)


def test_a_cache_spares_all_up_to_its_place() -> None:
    m = with_parts(
        measured(workers=1, sample=0.01002, step=0.0), decode=0.006, Resize=0.002, RandomCrop=0.002
    )
    assert predict(m, cache_after="decode").samples_per_s == pytest.approx(1 / 0.004, rel=0.02)
    assert predict(m, cache_after="Resize").samples_per_s == pytest.approx(1 / 0.002, rel=0.02)
    assert predict(m, cache_after="Resize").memory_bytes >= 10_000 * 500
    assert predict(m, num_workers=4, cache_after="Resize").samples_per_s == pytest.approx(4 / 0.002, rel=0.02)


def test_a_cache_frees_from_the_source() -> None:
    m = with_parts(measured(sample=0.01, cpu=0.001, serial=0.009, step=0.0), read=0.009, Crop=0.001)
    assert predict(m, num_workers=4).bound == "source"
    assert predict(m, num_workers=4, cache_after="read").bound != "source"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_workers": -1}, "0 or more"),
        ({"cache_after": "Blur"}, "no part called 'Blur'.*decode, Resize"),
        ({"cache_after": "RandomCrop"}, "random"),
        ({"dtype": "complex3"}, "dtype"),
        ({"dtype": "uint8"}, "isn't known"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], match: str) -> None:
    m = with_parts(measured(), decode=0.004, Resize=0.003, RandomCrop=0.003)
    with pytest.raises(ValueError, match=match):
        predict(m, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"num_workers": 10**6}, ValueError, "num_workers can be 1023 at most, got 1000000"),
        ({"num_workers": "auto"}, TypeError, "num_workers should be a whole number, got 'auto'"),
        ({"num_workers": 1.5}, TypeError, "num_workers should be a whole number"),
        ({"num_workers": True}, TypeError, "num_workers should be a whole number"),
        ({"prefetch_factor": 0}, ValueError, "prefetch_factor should be 1 or more"),
        ({"prefetch_factor": 2.0}, TypeError, "prefetch_factor should be a whole number"),
        ({"dtype": torch.complex64}, ValueError, "dtype should be one of"),
    ],
)
def test_what_is_no_setting_is_refused(change: dict[str, object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        predict(measured(), **change)  # type: ignore[arg-type]


def test_what_has_been_is_within_what_is_expected() -> None:
    """Where the samples that were looked at were slower than those of the loop."""
    m = measured(workers=2, sample=0.01, step=0.001)
    quick = replace(m, loop=replace(m.loop, waits=tuple(wait / 10 for wait in m.loop.waits)))
    rate = samples_per_s(quick)
    now, other = predict(quick), predict(quick, num_workers=1)
    assert now.low <= rate <= now.high * (1 + 1e-9)
    assert other.high < rate
    assert now.samples_per_s == pytest.approx(predict(m).samples_per_s)


def test_a_cost_that_hangs_on_one_sample_is_a_rough_one() -> None:
    m = measured(workers=1, sample=0.01)
    assert m.samples is not None
    rough = replace(m, samples=replace(m.samples, measured=8, p50_s=0.001, max_s=0.07))
    sure, unsure = predict(m, num_workers=2), predict(rough, num_workers=2)
    assert unsure.high - unsure.low > 2 * (sure.high - sure.low)
    many = predict(replace(rough, samples=replace(m.samples, measured=8000, max_s=0.07)), num_workers=2)
    assert (many.low, many.high) == (pytest.approx(sure.low, rel=0.01), pytest.approx(sure.high, rel=0.01))


def test_nothing_measured_predicts_nothing() -> None:
    m = measured(inline=False, trials=())
    with pytest.raises(ValueError, match="measured"):
        predict(m, num_workers=0)
    with pytest.raises(ValueError, match="measured"):
        predict(m, num_workers=3)


def test_smaller_samples_take_less_collating_and_memory() -> None:
    m = measured(samples=samples(0.01, collate_s=0.004, dtype="float32", nbytes=100_000), trials=())
    now, less = predict(m), predict(m, dtype="uint8")
    assert less.samples_per_s / now.samples_per_s == pytest.approx(0.014 / 0.011)
    assert less.memory_bytes < now.memory_bytes / 3
    assert predict(m, dtype=torch.uint8) == less


def test_the_samples_alone_do_where_the_loader_was_not_tried() -> None:
    m = measured(sample=0.01, step=0.0, trials=())
    assert predict(m, num_workers=3).samples_per_s == pytest.approx(300)


@settings(derandomize=True, max_examples=200)
@given(
    sample=st.floats(1e-4, 0.1),
    busy=st.floats(0.05, 1),
    step=st.floats(0, 0.5),
    cores=st.integers(1, 16),
    workers=st.integers(0, 16),
    other=st.integers(0, 32),
)
def test_intervals_hold_their_figure_and_more_workers_never_hurt(
    sample: float, busy: float, step: float, cores: int, workers: int, other: int
) -> None:
    m = measured(workers, sample, sample * busy, step, cores)
    expected = predict(m, num_workers=other)
    assert expected.low <= expected.samples_per_s <= expected.high
    assert 0 <= expected.stall_low <= expected.stall <= expected.stall_high <= 1
    if other:
        more = predict(m, num_workers=other + 1)
        assert more.samples_per_s >= expected.samples_per_s * 0.999


def test_noise_widens_the_interval() -> None:
    m = measured(workers=1, step=0.0)
    noisy = replace(m, trials=tuple(replace(t, spread=0.1) for t in m.trials))
    narrow, wide = predict(m, num_workers=2), predict(noisy, num_workers=2)
    assert wide.low < narrow.low
    assert wide.high > narrow.high
    beyond = predict(m, num_workers=20)
    assert beyond.low / beyond.samples_per_s < narrow.low / narrow.samples_per_s


def test_a_loop_alone_is_enough_for_its_own_figures() -> None:
    assert loop(0.1, 0.3).waited_s == pytest.approx(2)


def test_a_cache_is_read_as_fast_as_the_machine_copies() -> None:
    m = with_parts(measured(workers=1, sample=0.01, step=0.0), decode=0.006, RandomCrop=0.004)
    assert m.samples is not None
    slow = replace(m, samples=replace(m.samples, copy_bytes_per_s=500 / 0.003))  # a part has 500 bytes
    assert predict(slow, cache_after="decode").samples_per_s == pytest.approx(1 / 0.007, rel=0.02)
