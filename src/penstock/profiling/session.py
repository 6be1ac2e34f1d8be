"""The call that does it all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from penstock.profiling.apply import apply
from penstock.profiling.check import best_advice, checked, unchecked, why_none
from penstock.profiling.live import Live
from penstock.profiling.measure import (
    Details,
    assemble,
    machine,
    measure_details,
    measure_loop,
    require_loader,
    setting_of,
)
from penstock.profiling.report import Report
from penstock.profiling.watching import Limits


def profile(
    loader: Any,
    step: Callable[[Any], object] | None = None,
    *,
    batches: int | None = 200,
    seconds: float = 20.0,
    check: bool = False,
    live: bool | None = None,
) -> Report:
    """Find out what a training loop over `loader` waits for, why, and what would help.

    Runs ``for batch in loader: step(batch)`` for so many batches or seconds, whichever is first, then once
    more with one batch repeated, then the samples and the loader alone: some 15 seconds beyond the loop.
    The loader, torch's or Penstock's, runs as it is set; samples are made in worker processes only, unless it
    has none. With `check`, the best advice is followed and measured as well. With `live` it shows on standard
    error what it is at; by default, on a terminal.

    Raises:
        TypeError: if `loader` is no DataLoader, or `step` can't be called.
        ValueError: if it gives fewer than three batches, or a limit isn't positive.
        Exception: whatever the loader or `step` raises.
    """
    require_loader(loader)
    if step is not None and not callable(step):
        raise TypeError(f"step should be callable with a batch, got {step!r}")
    if not seconds > 0 or (batches is not None and batches < 3):
        raise ValueError(f"at least 3 batches and some seconds are needed, got {batches=} and {seconds=}")
    limits = Limits(batches, seconds)
    of, setting = machine(), setting_of(loader, has_step=step is not None)
    with Live(live) as view:
        watch = measure_loop(loader, step, limits, view.tick)
        details = measure_details(loader, watch.loop, view.say, seconds)
        report = Report(assemble(watch, details, setting, of))
        if check:
            report = _checked(report, loader, step, limits, view)
    return report


def _checked(report: Report, loader: Any, step: Any, limits: Limits, view: Live) -> Report:
    """Follow the best advice that only sets arguments of the loader, and measure the loop again."""
    advice = best_advice(report.verdict)
    if advice is None:
        return Report(unchecked(report.data, why_none(report.verdict)))
    view.say(f"following the advice: {advice.setting}")
    changed = apply(loader, advice.changes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores, on purpose
        watch = measure_loop(changed, step, limits, view.tick)
    after = assemble(watch, Details(), setting_of(changed, has_step=step is not None), machine())
    return Report(report.data, checked(advice, after))
