"""Follows an advice, and puts what came of it beside what it promised."""

from __future__ import annotations

from penstock.profiling import figures
from penstock.profiling.advise import Advice
from penstock.profiling.data import Measurement
from penstock.profiling.predict import Checked
from penstock.profiling.verdict import Verdict


def best_advice(verdict: Verdict) -> Advice | None:
    """The first that only sets arguments of the loader, and says what to expect."""
    return next((a for a in verdict.advice if a.changes and a.prediction is not None), None)


def checked(advice: Advice, after: Measurement) -> Checked:
    """`after` is the loop, measured with the advice followed."""
    assert advice.prediction is not None
    return Checked(
        advice.setting, advice.prediction, figures.samples_per_s(after), figures.waited_share(after)
    )
