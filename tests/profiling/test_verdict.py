"""The verdict, from measurements whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from penstock.profiling import figures
from penstock.profiling.check import best_advice, checked, unchecked, why_none
from penstock.profiling.data import Ceiling, Line, Measurement
from penstock.profiling.diagnose import Cause
from penstock.profiling.report import Report
from penstock.profiling.verdict import judge
from tests.profiling.made import SLOW, loop, measured, samples, trial, with_parts


def settings_of(m: Measurement) -> list[str]:
    return [advice.setting for advice in judge(m).advice]


def test_a_loop_that_does_not_wait_needs_nothing() -> None:
    verdict = judge(measured(workers=1, sample=0.001, step=0.1))
    assert verdict.cause is Cause.NOTHING
    assert verdict.advice == ()
    assert verdict.text.startswith("Your loop doesn't wait for data: the training step sets the pace")


def test_it_tells_when_fewer_workers_would_do() -> None:
    verdict = judge(measured(workers=4, sample=0.005, step=0.2))
    assert verdict.cause is Cause.NOTHING
    assert [advice.setting for advice in verdict.advice] == ["num_workers=1"]


def test_computing_wants_as_many_workers_as_end_the_wait_and_no_more() -> None:
    verdict = judge(measured(workers=1, sample=0.01, step=0.04, cores=8))
    assert verdict.cause is Cause.CPU
    best = verdict.advice[0]
    assert best.setting == "num_workers=3"
    assert best.changes == {"num_workers": 3}
    assert best.prediction is not None
    assert best.prediction.stall == pytest.approx(0)
    assert "waits 60% of the time" in verdict.text
    assert "A step takes 40 ms, a batch takes 100 ms of CPU to make." in verdict.text
    assert "num_workers=3 would remove the wait" in verdict.text


def test_where_the_cores_are_used_up_only_a_cache_helps() -> None:
    m = with_parts(
        measured(workers=2, sample=0.01, step=0.045, cores=2), decode=0.006, Resize=0.003, RandomCrop=0.001
    )
    m = replace(m, ceiling=Ceiling(20, 0.02, 0.02), loop=loop(0.03, 0.02))
    verdict = judge(m)
    assert verdict.cause is Cause.CPU
    assert "Decoding is 60% of it." in verdict.text
    assert verdict.advice[0].setting == "penstock.cache(dataset)"
    assert verdict.advice[0].why == "all up to Resize is the same every time"
    assert "penstock.cache(dataset) would remove the wait" in verdict.text


def test_where_nothing_helps_it_says_so() -> None:
    m = measured(workers=2, sample=0.01, step=0.02, cores=2, ceiling=Ceiling(20, 0.02, 0.02))
    verdict = judge(m)
    assert verdict.cause is Cause.CPU
    assert verdict.advice == ()
    assert "no setting that helps" in verdict.text


def test_a_random_beginning_is_not_to_be_cached() -> None:
    m = with_parts(measured(workers=2, sample=0.01, step=0.0, cores=2), RandomCrop=0.001, Resize=0.009)
    assert not any("cache" in setting for setting in settings_of(m))


def test_a_cache_that_the_memory_cannot_hold_is_not_advised() -> None:
    m = with_parts(measured(workers=2, sample=0.01, step=0.01, cores=2), decode=0.009, RandomCrop=0.001)
    assert "penstock.cache(dataset)" in settings_of(m)
    assert "penstock.cache(dataset)" not in settings_of(
        replace(m, machine=replace(m.machine, memory_bytes=10**6))
    )


def test_cheap_samples_want_no_workers() -> None:
    cheap = (trial(1, 5000, 3e-5), trial(2, 7000, 3e-5), trial(4, 6000, 3e-5))
    m = measured(workers=4, sample=2e-5, step=0.0, trials=cheap, loop=loop(0.0017, 1e-6), ceiling=None)
    verdict = judge(m)
    assert verdict.cause is Cause.CHEAP
    assert verdict.advice[0].setting == "num_workers=0"
    assert "less than handing it over" in verdict.text
    assert "next to nothing with its batches" in verdict.text


def test_cheap_samples_are_no_matter_where_the_step_is_long() -> None:
    cheap = (trial(1, 5000, 3e-5), trial(2, 7000, 3e-5), trial(4, 6000, 3e-5))
    m = measured(workers=4, sample=2e-5, step=0.1, trials=cheap)
    assert judge(m).cause is Cause.NOTHING


def test_a_serialised_source_is_told_from_too_few_workers() -> None:
    verdict = judge(measured(workers=2, sample=0.01, cpu=0.0005, serial=0.009, step=0.01))
    assert verdict.cause is Cause.SERIALISED
    assert "although cores idle" in verdict.text
    assert not any(advice.setting == "num_workers=4" for advice in verdict.advice)
    assert any("in each worker" in advice.setting for advice in verdict.advice)


def test_what_the_loop_itself_went_beyond_is_no_limit_of_the_source() -> None:
    m = measured(workers=2, sample=0.01, cpu=0.0005, serial=0.009, step=0.01)
    quicker = replace(m, loop=loop(0.03, 0.01))  # 250 samples a second, where the trials came to 111
    assert judge(quicker).cause is not Cause.SERIALISED


def test_a_lock_is_no_cheap_sample_although_workers_gain_nothing_by_it() -> None:
    m = measured(workers=2, sample=0.02, cpu=5e-5, serial=0.02, step=0.001)
    dear = tuple(replace(each, cpu_s=1.5e-4) for each in m.trials)  # as handing over computes more than it
    m = replace(m, trials=(trial(0, 50, 5e-5), *dear))
    assert judge(m).cause is Cause.SERIALISED


def test_a_lock_that_two_workers_wait_for_is_a_serialised_source() -> None:
    m = measured(workers=2, sample=0.01, cpu=0.0005, serial=0.009, step=0.01)
    m = replace(m, samples=samples(0.01, 0.0005, waits={"network": 0.009}, contended_lock=0.45))
    verdict = judge(m)
    assert verdict.cause is Cause.SERIALISED
    assert "each other's lock" in verdict.text


def test_a_disk_at_its_limit_is_no_lock() -> None:
    m = measured(workers=2, sample=0.01, cpu=0.0005, serial=0.009, step=0.01)
    m = replace(m, samples=samples(0.01, 0.0005, waits={"files": 0.009}))
    assert judge(m).cause is Cause.STORAGE


def test_busy_cores_are_no_serialised_source() -> None:
    """Two workers are no faster than one, as another program has the cores."""
    busy = (trial(1, 80, 0.01, idle=0.05), trial(2, 85, 0.01, idle=0.0))
    assert judge(measured(workers=2, sample=0.01, step=0.01, cores=2, trials=busy)).cause is Cause.CPU


def test_waiting_for_storage_wants_more_workers_than_cores() -> None:
    m = measured(workers=2, sample=0.02, cpu=0.0002, step=0.03, cores=2)
    verdict = judge(m)
    assert verdict.cause is Cause.STORAGE
    assert verdict.advice[0].setting == "num_workers=8"  # 7 would do if nothing went wrong
    assert "not computing" in verdict.text


def test_threads_in_every_worker_are_told() -> None:
    m = measured(workers=2, sample=0.01, step=0.01, cores=2)
    m = replace(m, samples=samples(0.01, 0.008, other_cpu_s=0.008))
    verdict = judge(m)
    assert verdict.cause is Cause.THREADS
    assert "OMP_NUM_THREADS=1" in verdict.advice[0].setting
    assert judge(replace(m, machine=replace(m.machine, cores=16))).cause is not Cause.THREADS


def test_threads_that_wait_for_the_interpreter_lock_are_told() -> None:
    m = measured(workers=2, sample=0.01, step=0.01, cores=2)
    m = replace(m, samples=samples(0.01, 0.005, other_cpu_s=0.005, waits={"interpreter": 0.005}))
    verdict = judge(m)
    assert verdict.cause is Cause.INTERPRETER
    assert "50% of a sample's time waiting for the interpreter lock" in verdict.text
    assert verdict.advice[0].setting == "no threads of the dataset's own that run Python"


def test_a_few_slow_samples_are_named() -> None:
    slow = samples(0.01, p50_s=0.002, max_s=0.8, p99_s=0.8, top_share=0.8, slowest=(SLOW,))
    verdict = judge(replace(measured(workers=2, sample=0.01, step=0.01, cores=2), samples=slow))
    assert verdict.cause is Cause.OUTLIERS
    assert verdict.advice[0].setting == "look at images/17.png"
    assert verdict.advice[1].setting.startswith("prefetch_factor=")
    assert "80% of all loading time" in verdict.text


def iterable(m: Measurement) -> Measurement:
    return replace(m, setting=replace(m.setting, iterable=True, dataset_size=None))


def test_more_workers_for_an_iterable_dataset_want_one_that_shares_its_samples_out() -> None:
    verdict = judge(iterable(measured(workers=1, sample=0.01, step=0.04, cores=8)))
    (more,) = verdict.advice
    assert (more.setting, more.changes) == ("num_workers=3", {})
    assert "get_worker_info" in more.why
    assert "Best:" not in verdict.text
    assert "Perhaps: num_workers=3 would remove the wait (250 samples/s), if the dataset" in verdict.text
    assert best_advice(verdict) is None


def test_for_an_iterable_dataset_what_is_right_in_any_case_comes_first() -> None:
    """One worker gives every sample once; that several do is the dataset's own business."""
    verdict = judge(iterable(measured(workers=0, sample=0.01, step=0.04, cores=8)))
    assert [advice.setting for advice in verdict.advice] == ["num_workers=1", "num_workers=3"]
    assert verdict.advice[0].changes == {"num_workers": 1}
    assert "Best: num_workers=1 " in verdict.text
    fewer = judge(iterable(measured(workers=4, sample=0.005, step=0.2)))
    assert [advice.changes for advice in fewer.advice] == [{"num_workers": 1}]


def test_short_epochs_want_workers_that_persist() -> None:
    m = measured(workers=2, sample=0.001, step=0.02, loop=loop(0.0, 0.02, epoch_gap_s=0.5, epochs=3))
    m = replace(m, setting=replace(m.setting, epoch_batches=10))
    verdict = judge(m)
    assert verdict.cause is Cause.STARTUP
    assert verdict.advice[0].changes == {"persistent_workers": True}
    long = replace(m, setting=replace(m.setting, epoch_batches=10_000))
    assert judge(long).cause is Cause.NOTHING


def short_epochs(**more: Any) -> Measurement:
    m = measured(workers=2, sample=0.001, step=0.02, loop=loop(0.002, 0.018, epoch_gap_s=0.82, **more))
    return replace(m, setting=replace(m.setting, epoch_batches=10))


def test_workers_that_persist_are_not_the_best_where_one_epoch_may_be_all() -> None:
    m = short_epochs(epochs=1, first_batch_s=0.84)
    m = with_parts(replace(m, loop=replace(m.loop, epoch_gap_s=None)), dataset=0.001)
    verdict = judge(m)
    assert verdict.cause is Cause.STARTUP
    assert verdict.advice[-1].setting == "persistent_workers=True"
    assert verdict.advice[-1].why.endswith("if there are more epochs")
    assert verdict.advice[-1].changes == {}
    assert "Best: persistent" not in verdict.text
    assert "if there are more epochs" in verdict.text


@pytest.mark.parametrize("loader", ["penstock", "torch"])
def test_a_cache_is_advised_of_whatever_loader_and_noise(loader: str) -> None:
    m = with_parts(measured(workers=2, sample=0.01, step=0.03, cores=2), dataset=0.01)
    noisy = tuple(replace(t, spread=0.3, loader=loader) for t in m.trials)
    m = replace(m, trials=noisy, setting=replace(m.setting, loader=loader))
    assert "penstock.cache(dataset)" in settings_of(m)
    assert "no setting that helps" not in judge(m).text


def test_advice_without_a_figure_is_checked_as_well_or_it_is_told_why_not() -> None:
    verdict = judge(short_epochs(epochs=3))
    advice = best_advice(verdict)
    assert advice is not None
    assert advice.changes == {"persistent_workers": True}
    after = short_epochs(epochs=3)
    text = str(Report(after, checked(advice, after)))
    assert "Checked with persistent_workers=True: 100 samples/s (before 100), waits 82%" in text
    alone = judge(iterable(measured(workers=1, sample=0.01, step=0.04, cores=8)))
    assert why_none(alone).startswith("num_workers=3 is right only if the dataset shares")
    assert "Not measured: what comes of following" in str(Report(unchecked(after, why_none(alone))))


def test_the_share_of_waiting_counts_the_beginning_of_epochs() -> None:
    m = short_epochs(epochs=3)
    waited = (0.002 + 0.08) / (0.02 + 0.08)
    report = Report(m)
    assert report.stall == pytest.approx(waited)
    assert report.stall == pytest.approx(report.predict().stall, abs=0.03)
    assert "waits 82% of the time" in report.verdict.text
    assert figures.waited_share(measured(workers=1, sample=0.01, step=0.04)) == pytest.approx(0.6)


def test_a_loop_that_waits_for_nothing_but_the_beginning_of_its_epochs_is_told_so() -> None:
    m = measured(workers=2, sample=0.001, step=0.02, loop=loop(0.0, 0.02, epoch_gap_s=0.08, epochs=3))
    verdict = judge(replace(m, setting=replace(m.setting, epoch_batches=20)))
    assert verdict.cause is Cause.STARTUP
    assert "waits 13% of the time" in verdict.text


def test_what_promises_no_more_than_there_is_now_is_not_called_the_best() -> None:
    m = measured(workers=8, sample=0.01, step=0.0, cores=2, ceiling=None, loop=loop(0.05, 1e-6))
    verdict = judge(m)
    assert verdict.cause is Cause.CPU
    assert [advice.setting for advice in verdict.advice] == ["num_workers=2"]
    assert "Best" not in verdict.text
    assert "(num_workers=2 would do as well: it is as fast" in verdict.text
    faster = replace(m, loop=loop(0.04, 1e-6))  # than the model has it
    assert judge(faster).advice == ()


def test_a_disturbed_loop_does_not_make_fewer_workers_the_faster() -> None:
    """One worker is expected to do better than the loop did, but not than two are expected to."""
    m = measured(workers=2, sample=0.01, step=0.01, cores=2, loop=loop(0.1, 0.01))
    assert settings_of(m) == []


def test_without_any_detail_it_says_what_it_does_not_know() -> None:
    verdict = judge(measured(workers=2, sample=0.05, step=0.01, inline=False, trials=()))
    assert verdict.cause is Cause.UNKNOWN
    assert "can't be told" in verdict.text


def test_the_line_is_named_where_there_is_no_transform() -> None:
    m = measured(workers=1, sample=0.01, step=0.02)
    assert m.samples is not None
    m = replace(m, samples=replace(m.samples, lines=(Line("data.py:12", "parse", 0.7),)))
    assert "70% of it is spent in data.py:12 (parse)." in judge(m).text


def test_a_cache_is_cut_at_a_step_where_all_of_it_would_be_too_large() -> None:
    m = with_parts(
        measured(workers=2, sample=0.01, step=0.01, cores=2), decode=0.006, Resize=0.003, Pad=0.001
    )
    assert m.samples is not None
    sizes = {"decode": 500, "Resize": 500, "Pad": 5_000_000}
    parts = tuple(replace(part, nbytes=sizes[part.name]) for part in m.samples.parts)
    m = replace(m, samples=replace(m.samples, parts=parts))
    assert "penstock.cache(dataset, until='Pad')" in settings_of(m)


@pytest.mark.parametrize(
    ("each", "said"), [(1, "1 sample "), (23 / 3, "7.7 samples"), (16384, "16,384 samples")]
)
def test_the_size_of_a_batch_is_told_as_people_say_it(each: float, said: str) -> None:
    m = measured()
    m = replace(m, loop=replace(m.loop, batches=30, samples=round(30 * each)))
    assert f"30 batches of {said}" in judge(m).evidence[0]
