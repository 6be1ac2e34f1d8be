"""What holds the loop back: one cause, from the figures. Pure, no words for people."""

from __future__ import annotations

import enum

from penstock.profiling import figures
from penstock.profiling.data import Measurement, Samples

ENOUGH = 0.05
"""A loop that waits less than this share of its time is held back by its steps."""
LONG_START = 0.1
"""From this share of an epoch on, its beginning is told of, if there is nothing else to wait for."""
WORTH_IT = 0.7
"""From this share of their rate on, workers aren't worth twice the computing."""


class Cause(enum.Enum):
    """What sets the pace."""

    NOTHING = "the training step sets the pace"
    CPU = "making samples takes more computing than the workers or the cores give"
    CHEAP = "handing samples over costs more than making them"
    SERIALISED = "the source serves one worker at a time"
    STORAGE = "samples wait for storage, the network or another source"
    THREADS = "samples compute in more threads than there are cores"
    INTERPRETER = "threads of one process wait for each other's turn with the interpreter lock"
    OUTLIERS = "a few samples are much slower than the others"
    STARTUP = "the start of the epochs"
    UNKNOWN = "too little could be measured to tell"


def diagnose(m: Measurement) -> Cause:
    """The cause that comes first: a loop may have several, but the others matter only after it."""
    stall = max(figures.waited_in_epochs(m.loop), figures.lost_in_epochs(m) if m.ceiling else 0.0)
    startup = figures.startup_share(m)
    cheap = workers_only_cost(m)
    if cheap and (stall >= ENOUGH or startup >= ENOUGH):
        return Cause.CHEAP
    if startup >= 0.25 and startup >= stall * (1 - startup):
        return Cause.STARTUP
    if stall < ENOUGH:
        return Cause.STARTUP if startup >= LONG_START else Cause.NOTHING
    return _of_loading(m)


def _of_loading(m: Measurement) -> Cause:
    """Why batches come late."""
    samples = m.samples
    if samples is not None and has_outliers(samples):
        return Cause.OUTLIERS
    if m.setting.num_workers and (figures.plateau(m) is not None or contended(samples)):
        return Cause.STORAGE if _reads(samples) and not contended(samples) else Cause.SERIALISED
    if samples is None:
        return Cause.CPU if m.trials else Cause.UNKNOWN
    if figures.interpreter_share(samples) >= 0.2:
        return Cause.INTERPRETER
    if oversubscribed(m):
        return Cause.THREADS
    if figures.waiting_share(samples) >= 0.5:
        return Cause.SERIALISED if contended(samples) else Cause.STORAGE
    return Cause.CPU


def workers_only_cost(m: Measurement) -> bool:
    """Whether the loop's own process makes samples faster than any number of workers that was tried, or not
    much slower where handing one over takes longer than making it.

    And as handing over takes its time, not since something else has the cores, nor since a sample waits for
    what serves one at a time; and as workers might still free the loop for its steps, whether it would be no
    slower in it.
    """
    pooled = [trial.samples_per_s for n, trial in figures.trials_of(m).items() if n > 0]
    inline, handover = figures.inline_rate(m), figures.handover_s(m)
    if not pooled or inline is None or handover is None:
        return False
    cost, b = figures.making_s(m), figures.batch_size(m)
    if inline < max(pooled) * (WORTH_IT if handover > cost else 1):
        return False
    if handover < 0.3 * cost and b * cost > figures.TOO_CHEAP_S:
        return False
    in_loop = b / (figures.step_s(m) + b / inline)
    return in_loop >= 0.97 * figures.samples_per_s(m) or m.setting.num_workers == 0


def has_outliers(samples: Samples) -> bool:
    """Whether the slowest fiftieth of the samples takes as much time as all the others."""
    return samples.measured >= 50 and samples.top_share >= 0.4 and samples.max_s > 8 * samples.p50_s


def oversubscribed(m: Measurement) -> bool:
    """Whether each worker computes in several threads, and together they are more than the cores."""
    if m.samples is None or figures.threads_share(m.samples) < 0.3:
        return False
    return max(1, m.setting.num_workers) * 2 > m.machine.cores


def contended(samples: Samples | None) -> bool:
    """Whether two workers wait for each other's lock."""
    return samples is not None and samples.contended_lock >= 0.3


def _reads(samples: Samples | None) -> bool:
    if samples is None or figures.waiting_share(samples) < 0.3:
        return False
    return figures.waits_for(samples) in ("files", "network")
