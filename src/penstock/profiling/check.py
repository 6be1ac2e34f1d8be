"""Follows an advice, and puts what came of it beside what it promised."""

from __future__ import annotations

from dataclasses import replace

from penstock.profiling import figures
from penstock.profiling.advise import Advice
from penstock.profiling.data import Measurement
from penstock.profiling.predict import Checked
from penstock.profiling.verdict import Verdict


def best_advice(verdict: Verdict) -> Advice | None:
    """The first that only sets arguments of the loader."""
    return next((advice for advice in verdict.advice if advice.changes), None)


def why_none(verdict: Verdict) -> str:
    """Why there is no best advice to check."""
    if not verdict.advice:
        return "there is none"
    first = verdict.advice[0]
    known = f"is right only if {first.only_if}" if first.only_if else "isn't an argument of the loader"
    return f"{first.setting} {known}"


def unchecked(m: Measurement, why: str) -> Measurement:
    """The same, which tells that no advice was followed."""
    return replace(m, problems=(*m.problems, f"what comes of following the advice: {why}"))


def checked(advice: Advice, after: Measurement) -> Checked:
    """`after` is the loop, measured with the advice followed."""
    return Checked(
        advice.setting, advice.prediction, figures.samples_per_s(after), figures.waited_share(after)
    )
