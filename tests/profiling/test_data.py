"""The data: plain, frozen, and the same after JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from penstock.profiling.data import Level, Line, Span, from_plain, to_plain
from penstock.profiling.predict import Checked, Prediction
from penstock.profiling.report import Report
from tests.profiling.made import SLOW, Measurement, measured, with_parts


def everything() -> Measurement:
    made = with_parts(measured(), decode=0.004, Resize=0.003, RandomCrop=0.003)
    assert made.samples is not None
    return dataclasses.replace(
        made,
        samples=dataclasses.replace(made.samples, lines=(Line("a.py:3", "f", 0.5),), slowest=(SLOW,)),
        spans=(Span("loop", "step", 0.0, 1.0),),
        levels=(Level(0.5, 3),),
        problems=("nothing",),
    )


def test_a_measurement_survives_json() -> None:
    made = everything()
    assert from_plain(Measurement, json.loads(json.dumps(to_plain(made)))) == made


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        everything().loop.batches = 3  # type: ignore[misc]


def test_a_report_is_saved_and_loaded(tmp_path: Path) -> None:
    expected = Prediction(1.0, 0.9, 1.1, 0.1, 0.0, 0.2, 100, "cores")
    report = Report(everything(), Checked("num_workers=2", expected, 1.0, 0.1))
    report.save(tmp_path / "report.json")
    again = Report.load(tmp_path / "report.json")
    assert again.data == report.data
    assert again.checked == report.checked
    assert again.verdict == report.verdict
    assert again.predict(num_workers=2) == report.predict(num_workers=2)


def test_the_json_tells_the_verdict_to_other_programs(tmp_path: Path) -> None:
    report = Report(everything())
    report.save(tmp_path / "report.json")
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["verdict"]["cause"] == report.verdict.cause.name
    assert plain["verdict"]["text"] == report.verdict.text
    assert plain["figures"] == {"samples_per_s": report.samples_per_s, "stall": report.stall}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "no JSON"),
        ("[]", "no report"),
        ("{}", "no report"),
        ('{"penstock_report": 99}', "form 99"),
        ('{"penstock_report": 1}', "no measurement"),
        ('{"penstock_report": 1, "measurement": {"setting": 3}}', "no Measurement"),
        ('{"penstock_report": 1, "measurement": {"settings": {}}}', "no Measurement"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.json.*{match}"):
        Report.load(tmp_path / "x.json")
