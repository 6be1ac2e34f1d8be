"""Chooses the number of workers from what was measured; pure: no clock, no workers, no I/O."""

from penstock.tuning.controller import Controller, Limits, rate
from penstock.tuning.meter import Meter, Span, Totals
from penstock.tuning.observation import Observation

__all__ = ["Controller", "Limits", "Meter", "Observation", "Span", "Totals", "rate"]
