"""The verdict: what a person would say, with the figures behind it. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.profiling import figures
from penstock.profiling.advise import Advice, advise, gains
from penstock.profiling.data import Measurement, Part, Samples
from penstock.profiling.diagnose import Cause, diagnose
from penstock.profiling.predict import Checked
from penstock.profiling.words import count, duration, rate, share, size

_STANDS = {
    "files": "reading files",
    "network": "waiting for the network, a pipe or another process",
    "lock": "waiting for a lock",
    "interpreter": "waiting for the interpreter lock",
    "sleep": "sleeping",
    "other": "waiting",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What holds the loop back, and what to do."""

    cause: Cause
    text: str
    """One to four sentences."""
    evidence: tuple[str, ...]
    """The figures that it follows from."""
    advice: tuple[Advice, ...]
    """The best first."""


def judge(m: Measurement) -> Verdict:
    """The verdict on a measurement."""
    cause = diagnose(m)
    advice = advise(m, cause)
    sentences = [_headline(m, cause), *_why(m, cause), *_what_to_do(m, cause, advice)]
    return Verdict(cause, " ".join(sentences), tuple(_evidence(m)), advice)


def _headline(m: Measurement, cause: Cause) -> str:
    speed = f"{rate(figures.samples_per_s(m))} samples/s"
    if not figures.has_step(m):
        return f"Your loop does next to nothing with its batches, so this is the loader alone: {speed}."
    waited = figures.waited_share(m)
    if cause is Cause.NOTHING:
        much = "doesn't wait for data" if waited < 0.01 else f"waits {share(waited)} of the time"
        return f"Your loop {much}: the training step sets the pace, with {speed}."
    lost = figures.lost_share(m)
    if m.ceiling is not None and lost > waited + 0.1:
        return (
            f"Your loop waits {share(waited)} of the time, and its steps share the cores with the loading: "
            f"with data for free it would be {share(lost)} shorter."
        )
    return f"Your loop waits {share(waited)} of the time."


def _why(m: Measurement, cause: Cause) -> Iterator[str]:
    if cause is Cause.NOTHING:
        yield "Faster loading would change nothing."
        return
    if cause is Cause.UNKNOWN:
        yield "Why can't be told, as neither a sample nor the loader alone could be measured."
        return
    if cause is Cause.STARTUP:
        epoch = count(m.setting.epoch_batches or 0, "batch")
        yield (
            f"The beginning of an epoch takes {duration(figures.startup_s(m))}, "
            f"{share(figures.startup_share(m))} of an epoch of {epoch}."
        )
        return
    if cause is Cause.CHEAP:
        yield from _cheap(m)
        return
    if figures.has_step(m) and m.samples is not None:
        batch = figures.batch_size(m) * (figures.alone_s(m.samples) + m.samples.collate_s)
        kind = "of CPU " if figures.waiting_share(m.samples) < 0.2 else ""
        yield f"A step takes {duration(figures.step_s(m))}, a batch takes {duration(batch)} {kind}to make."
    if m.samples is not None:
        yield from _of_samples(m, m.samples, cause)
    elif cause is Cause.SERIALISED:
        yield _no_scaling(m)


def _cheap(m: Measurement) -> Iterator[str]:
    inline = figures.inline_rate(m) or 0.0
    best = max((t.samples_per_s for n, t in figures.trials_of(m).items() if n), default=0.0)
    yield (
        f"A sample takes only {duration(1 / inline)} to make, less than handing it over: without workers "
        f"the loader gives {rate(inline)} samples/s, with them {rate(best)} at best"
        f"{', for twice the computing' if best > inline else ''}."
    )


def _of_samples(m: Measurement, samples: Samples, cause: Cause) -> Iterator[str]:
    if cause is Cause.OUTLIERS:
        yield (
            f"Two samples in a hundred take {share(samples.top_share)} of all loading time: up to "
            f"{duration(samples.max_s)}, where the median is {duration(samples.p50_s)}."
        )
    elif cause is Cause.SERIALISED:
        if samples.contended_lock >= 0.3:
            lock = share(samples.contended_lock)
            yield f"Two workers spend {lock} of their time waiting for each other's lock."
        if figures.plateau(m) is not None:
            yield _no_scaling(m)
    elif cause is Cause.STORAGE:
        what = _STANDS[figures.waits_for(samples)]
        part = share(figures.waiting_share(samples))
        yield f"A worker spends {part} of a sample's time {what}, not computing."
        if figures.plateau(m) is not None:
            yield _no_scaling(m)
    elif cause is Cause.INTERPRETER:
        part = share(figures.interpreter_share(samples))
        yield (
            f"A worker spends {part} of a sample's time waiting for the interpreter lock, while other "
            "threads of its process run Python: threads don't make Python code faster, workers do."
        )
    elif cause is Cause.THREADS:
        yield (
            f"{share(figures.threads_share(samples))} of a sample's CPU time is spent in other threads than "
            f"the worker's own: {count(max(1, m.setting.num_workers), 'worker')} of several threads each "
            f"share {count(m.machine.cores, 'core')}."
        )
    else:
        yield from _most_expensive(samples)


def _no_scaling(m: Measurement) -> str:
    return (
        f"More workers don't make it faster than {rate(figures.plateau(m) or 0.0)} samples/s although cores "
        "idle: the source serves one at a time."
    )


def _most_expensive(samples: Samples) -> Iterator[str]:
    part = max(samples.parts, key=lambda p: p.wall_s, default=None)
    if part is not None and len(samples.parts) > 1:
        total = sum(p.wall_s for p in samples.parts)
        if total > 0 and part.wall_s / total >= 0.2:
            yield f"{_spoken(part)} is {share(part.wall_s / total)} of it."
    elif samples.lines and samples.lines[0].share >= 0.2:
        line = samples.lines[0]
        yield f"{share(line.share)} of it is spent in {line.where} ({line.function})."


def _spoken(part: Part) -> str:
    return {"decoding": "Decoding", "reading": "Reading"}.get(part.kind, part.name)


def _what_to_do(m: Measurement, cause: Cause, advice: tuple[Advice, ...]) -> Iterator[str]:
    helping = () if cause is Cause.NOTHING else tuple(each for each in advice if gains(m, each))
    for place, each in enumerate(helping[:2]):
        word = "Or" if place else "Perhaps" if each.only_if else "Best"
        given = f", if {each.only_if}" if each.only_if and each.prediction is not None else ""
        yield f"{word}: {each.setting}{_promise(m, each)}{given}."
    if not advice and cause is Cause.CHEAP:
        yield "num_workers=0 is right."
    if not helping and cause is Cause.CPU:
        yield (
            f"With {count(m.setting.num_workers, 'worker')} on {count(m.machine.cores, 'core')} there is no "
            "setting that helps: only cheaper samples do."
        )
    for each in advice:
        if not helping:
            yield f"({each.setting} would do as well: {each.why}.)"


def _promise(m: Measurement, advice: Advice) -> str:
    expected = advice.prediction
    if expected is None:
        return f" ({advice.why})"
    if figures.has_step(m):
        wait = (
            "would remove the wait"
            if expected.stall < 0.05
            else f"would leave a wait of {share(expected.stall)}"
        )
        return f" {wait} ({rate(expected.samples_per_s)} samples/s)"
    gain = expected.samples_per_s / max(figures.samples_per_s(m), 1e-9)
    return f" would make it {gain:.1f} times as fast ({rate(expected.samples_per_s)} samples/s)"


def _evidence(m: Measurement) -> Iterator[str]:
    loop, batch = m.loop, figures.batch_size(m)
    yield (
        f"{count(loop.batches, 'batch')} of {rate(batch)} sample{'' if batch == 1 else 's'} with "
        f"num_workers={m.setting.num_workers}: {duration(figures.mean(loop.waits))} of waiting and "
        f"{duration(figures.mean(loop.steps))} of the loop's own for each"
    )
    if m.ceiling is not None:
        yield f"with one batch handed over again and again, {duration(m.ceiling.batch_s)} for each"
    yield f"first batch after {duration(loop.first_batch_s)}" + (
        f"; {duration(loop.epoch_gap_s)} between two epochs" if loop.epoch_gap_s is not None else ""
    )
    if m.samples is not None:
        yield from _evidence_of_samples(m.samples)
    beside = [f"{duration(seconds)} {what}" for what, seconds in figures.beside_samples_s(m).items()]
    if beside:
        yield f"beside dataset[i], a batch takes {', '.join(beside)}"
    for trial in m.trials:
        yield (
            f"the loader alone ({trial.loader}), {count(trial.workers, 'worker')}: "
            f"{rate(trial.samples_per_s)} samples/s (±{trial.spread:.0%})"
            + (f", {size(trial.worker_bytes)} each" if trial.worker_bytes else "")
        )


def _evidence_of_samples(samples: Samples) -> Iterator[str]:
    still = ", ".join(
        f"{duration(s)} {_STANDS[kind]}" for kind, s in samples.waits.items() if s > 0.02 * samples.wall_s
    )
    computing = duration(samples.cpu_s + samples.other_cpu_s)
    yield (
        f"a sample takes {duration(figures.alone_s(samples))}, {computing} of it computing"
        f"{', ' + still if still else ''}; 99 in 100 take less than {duration(samples.p99_s)}"
    )
    if samples.deterministic is not None:
        yield "the samples are " + ("the same every time" if samples.deterministic else "random")


def beyond(checked: Checked) -> str:
    """What is to be added where a check came out otherwise than was promised."""
    expected = checked.predicted
    if expected is None or not checked.outside:
        return ""
    return f": that is outside of what was expected, {rate(expected.low)} to {rate(expected.high)}"
