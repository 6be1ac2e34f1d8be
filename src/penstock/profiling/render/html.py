"""The report as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from penstock.profiling import figures
from penstock.profiling.data import Measurement, Samples, Span
from penstock.profiling.predict import Checked, Prediction, predict
from penstock.profiling.verdict import Verdict, beyond
from penstock.profiling.words import duration, rate, share, size

TIMELINE_S = 3.0
"""So much of the end of the loop is drawn."""
MOST_BARS = 1500
COLOURS = {
    "wait": "#c0392b",
    "step": "#27864f",
    "collate": "#b7791f",
    "samples": "#2b6cb0",
    "slots": "#888888",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
#verdict { font-size: 1.15rem; border-left: 4px solid #2b6cb0; padding-left: 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
code { background: #f2f2f2; padding: 0 .25em; }
"""


def page(plain: dict[str, Any], m: Measurement, verdict: Verdict, checked: Checked | None) -> str:
    """`plain` is the report as JSON, which is in the page as well.

    Raises:
        ModuleNotFoundError: without plotly.
    """
    title = f"{m.setting.dataset}, num_workers={m.setting.num_workers} {m.setting.where}".strip()
    data = json.dumps(plain).replace("<", "\\u003c")
    sections = "\n".join(_sections(m, verdict, checked))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style>{_library()}</head>\n'
        f"<body><h1>{escape(title)}</h1>\n"
        f'{sections}\n<script type="application/json" id="report">{data}</script></body></html>\n'
    )


def _library() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the page needs plotly: pip install "penstock[report]"', name="plotly"
        ) from error
    return f"<script>{get_plotlyjs()}</script>"


def _sections(m: Measurement, verdict: Verdict, checked: Checked | None) -> Iterator[str]:
    yield f'<p id="verdict" data-cause="{verdict.cause.name}">{escape(verdict.text)}</p>'
    if verdict.advice:
        yield "<h2>What to change</h2>" + _table(
            "advice",
            ("setting", "samples/s", "between", "why"),
            [(a.setting, *_figures(a.prediction), a.why) for a in verdict.advice],
        )
    if checked is not None:
        expected = checked.predicted
        beside = f", predicted {rate(expected.samples_per_s)}" if expected is not None else ""
        yield (
            f'<p id="checked">Checked with <code>{escape(checked.setting)}</code>: '
            f"{rate(checked.samples_per_s)} samples/s{beside}{beyond(checked)}.</p>"
        )
    yield "<h2>Measured</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in verdict.evidence) + "</ul>"
    yield _table("figures", ("figure", "value"), _of_loop(m))
    if m.spans:
        yield "<h2>Time line</h2>" + _plot("timeline", *_timeline(m))
    if m.samples is not None:
        yield from _of_samples(m.samples)
    if m.trials:
        yield "<h2>Workers</h2>" + _plot("workers", *_workers(m))
    if m.problems:
        yield "<h2>Not measured</h2><ul>" + "".join(f"<li>{escape(p)}</li>" for p in m.problems) + "</ul>"


def _figures(expected: Prediction | None) -> tuple[str, str]:
    if expected is None:
        return "", ""
    return rate(expected.samples_per_s), f"{rate(expected.low)} and {rate(expected.high)}"


def _of_loop(m: Measurement) -> list[tuple[str, str]]:
    return [
        ("samples per second", rate(figures.samples_per_s(m))),
        ("share of the time waited", share(figures.waited_share(m))),
        ("a step", duration(figures.step_s(m))),
        ("first batch", duration(m.loop.first_batch_s)),
        (
            "between two epochs",
            duration(m.loop.epoch_gap_s) if m.loop.epoch_gap_s is not None else "not measured",
        ),
        *((f"{what}, a batch", duration(s)) for what, s in figures.beside_samples_s(m).items()),
    ]


def _of_samples(samples: Samples) -> Iterator[str]:
    if samples.parts:
        yield "<h2>What a sample costs</h2>" + _plot("parts", *_parts(samples))
    if samples.lines:
        rows: list[tuple[str, ...]] = [
            (f"{line.where} {line.function}", share(line.share)) for line in samples.lines
        ]
        yield _table("lines", ("line", "share of the time"), rows)
    if samples.slowest:
        rows = [(slow.index, duration(slow.seconds), slow.path or "") for slow in samples.slowest]
        median = duration(samples.p50_s)
        looked_at = f"Of {samples.measured:,} that were timed, the one in the middle takes {median}."
        yield f"<h2>Slowest samples</h2><p>{looked_at}</p>"
        yield _table("slowest", ("sample", "time", "file"), rows)


def _table(name: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table id="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _plot(name: str, traces: list[dict[str, Any]], layout: dict[str, Any]) -> str:
    layout = {"margin": {"t": 20, "r": 20, "l": 100}, "height": 320, **layout}
    arguments = ", ".join(json.dumps(each).replace("<", "\\u003c") for each in (traces, layout))
    return (
        f'<div id="{name}"></div><script>Plotly.newPlot("{name}", {arguments}, '
        "{displaylogo: false, responsive: true});</script>"
    )


def _timeline(m: Measurement) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    end = max(span.start_s + span.length_s for span in m.spans)
    shown = [span for span in m.spans if span.start_s >= end - TIMELINE_S][-MOST_BARS:]
    traces: list[dict[str, Any]] = []
    for kind in ("wait", "step", "samples", "collate"):
        spans = [span for span in shown if _kind(span) == kind]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": kind,
                "y": [span.lane for span in spans],
                "x": [span.length_s for span in spans],
                "base": [span.start_s for span in spans],
                "text": [span.name for span in spans],
                "textposition": "none",
                "marker": {"color": COLOURS[kind]},
            }
        )
    levels = [level for level in m.levels if level.at_s >= end - TIMELINE_S]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "line": {"shape": "hv", "color": COLOURS["slots"]},
            "name": "slots in use",
            "x": [level.at_s for level in levels],
            "y": [level.slots for level in levels],
            "yaxis": "y2",
        }
    )
    return traces, {
        "barmode": "overlay",
        "xaxis": {"title": {"text": "seconds"}},
        "yaxis": {"type": "category", "autorange": "reversed"},
        "yaxis2": {"overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False},
        "legend": {"orientation": "h"},
    }


def _kind(span: Span) -> str:
    return span.name if span.name in COLOURS else "samples"


def _parts(samples: Samples) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    parts = samples.parts

    def bars(name: str, values: list[float], colour: str) -> dict[str, Any]:
        return {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [part.name for part in parts],
            "x": [value * 1e3 for value in values],
            "text": [size(part.nbytes) if part.nbytes is not None else "" for part in parts],
            "marker": {"color": colour},
        }

    computing = bars("computing", [part.cpu_s for part in parts], COLOURS["samples"])
    waiting = bars("waiting", [max(0.0, part.wall_s - part.cpu_s) for part in parts], COLOURS["wait"])
    return [computing, waiting], {
        "barmode": "stack",
        "xaxis": {"title": {"text": "milliseconds for each sample"}},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
        "legend": {"orientation": "h"},
    }


def _workers(m: Measurement) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    trials = figures.trials_of(m)
    expected: dict[int, Prediction] = {}
    for workers in range(max(*trials, m.machine.cores, m.setting.num_workers, 1) + 1):
        try:
            expected[workers] = predict(m, num_workers=workers)
        except ValueError:
            continue
    counts = list(expected)
    there_and_back = counts + counts[::-1]
    band = [expected[n].low for n in counts] + [expected[n].high for n in counts[::-1]]
    return [
        {
            "x": there_and_back,
            "y": band,
            "fill": "toself",
            "line": {"width": 0},
            "opacity": 0.3,
            "name": "interval",
        },
        {"x": counts, "y": [expected[n].samples_per_s for n in counts], "name": "in the loop, predicted"},
        {
            "x": list(trials),
            "y": [trial.samples_per_s for trial in trials.values()],
            "mode": "markers",
            "name": "the loader alone, measured",
        },
        {
            "x": [m.setting.num_workers],
            "y": [figures.samples_per_s(m)],
            "mode": "markers",
            "marker": {"symbol": "star", "size": 14},
            "name": "the loop, measured",
        },
    ], {
        "xaxis": {"title": {"text": "num_workers"}, "dtick": 1},
        "yaxis": {"title": {"text": "samples/s"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": -0.3},
    }
