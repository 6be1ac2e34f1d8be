"""Figures that follow from a measurement by arithmetic, and what is measured of copying."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from penstock.profiling import device, figures
from penstock.profiling.copying import LARGEST, copy_rate
from penstock.profiling.data import Ceiling
from penstock.profiling.verdict import judge
from tests.profiling.made import BATCH, measured


def test_what_a_batch_takes_beside_its_samples() -> None:
    m = measured(workers=1, sample=0.01, step=0.05)
    assert m.samples is not None
    m = replace(
        m,
        samples=replace(m.samples, collate_s=0.001),
        trials=tuple(replace(trial, cpu_s=0.013, main_cpu_s=0.02) for trial in m.trials),
        ceiling=Ceiling(20, 0.05, 0.0, copy_s=0.004),
    )
    assert figures.beside_samples_s(m) == {
        "collating": pytest.approx(BATCH * 0.001),
        "placing": pytest.approx(BATCH * 0.002),
        "hand-off": pytest.approx(0.02),
        "copying to the device": 0.004,
    }
    (line,) = [line for line in judge(m).evidence if line.startswith("beside dataset[i]")]
    assert line.endswith("20 ms hand-off, 4 ms copying to the device")


def test_without_workers_nothing_is_placed_or_handed_over() -> None:
    assert set(figures.beside_samples_s(measured(workers=0))) <= {"collating", "copying to the device"}


def test_what_was_not_measured_is_left_out() -> None:
    m = measured(inline=False, trials=(), ceiling=None)
    assert figures.beside_samples_s(m) == {}
    assert not [line for line in judge(m).evidence if line.startswith("beside")]


def test_copying_a_batch_to_a_device() -> None:
    assert device.in_use() is None or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    assert device.copy_s([torch.zeros(3)], None) is None
    cpu = torch.device("cpu")  # in the place of an accelerator
    assert device.copy_s({"name": "no tensor"}, cpu) is None
    small, large = torch.zeros(1), torch.zeros(1 << 22)
    taken = [device.copy_s({"image": (each, 3)}, cpu) for each in (small, large)]
    assert taken[0] is not None
    assert taken[1] is not None
    assert 0 < taken[0] < taken[1]


@pytest.mark.parametrize("nbytes", [1, 400, 150_000, LARGEST + 5])
def test_the_rate_of_copying(nbytes: int) -> None:
    rate = copy_rate(nbytes)
    assert rate is not None
    assert 1e3 < rate < 1e12


def test_of_no_bytes_there_is_no_rate() -> None:
    assert copy_rate(0) is None
