"""The report as a page, as a trace and for the terminal."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.profiling.data import Level, Measurement, Span
from penstock.profiling.predict import Checked, predict
from penstock.profiling.report import Report
from tests.profiling.made import SLOW, measured, with_parts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
)


def made() -> Measurement:
    m = with_parts(measured(workers=1, sample=0.01, step=0.04), decode=0.006, Resize=0.003, RandomCrop=0.001)
    assert m.samples is not None
    spans = tuple(
        each
        for k in range(20)
        for each in (
            Span("loop", "wait", 0.1 * k, 0.06),
            Span("loop", "step", 0.1 * k + 0.06, 0.04),
            Span("worker 0", "10 samples", 0.1 * k, 0.09),
            Span("worker 0", "collate", 0.1 * k + 0.09, 0.005),
        )
    )
    levels = tuple(Level(0.1 * k, k % 3) for k in range(20))
    nasty = replace(SLOW, path="images/</script><b>17.png")
    return replace(m, samples=replace(m.samples, slowest=(nasty,)), spans=spans, levels=levels)


@pytest.mark.parametrize("came", [0.5, 1.0, 2.0])
def test_a_check_that_came_out_otherwise_says_so(came: float, tmp_path: Path) -> None:
    m = made()
    promised = predict(m, num_workers=2)
    after = Checked("num_workers=2", promised, came * promised.samples_per_s, 0.0)
    report = Report(m, after)
    report.html(tmp_path / "report.html")
    for text in str(report), (tmp_path / "report.html").read_text():
        assert ("that is outside of what was expected" in " ".join(text.split())) is (came != 1.0)


def test_the_terminal_gets_the_verdict_first() -> None:
    report = Report(made())
    lines = str(report).splitlines()
    text = " ".join(lines[1:6])
    assert text.startswith("Your loop waits 60% of the time. A step takes 40 ms, a batch takes 100 ms of CPU")
    assert "num_workers=3" in str(report)
    assert "images/</script><b>17.png" not in lines[0]


def test_the_slowest_samples_are_those_of_so_many(page: Path) -> None:
    m = made()
    assert m.samples is not None
    slow = replace(m, samples=replace(m.samples, measured=1234, max_s=0.8))
    assert "slowest of 1,234 samples" in str(Report(slow))
    assert f"Of {m.samples.measured} that were timed" in page.read_text()


def test_what_was_not_measured_is_told() -> None:
    assert "Not measured: the cat" in str(Report(replace(made(), problems=("the cat",))))


def test_a_report_of_a_loop_alone_is_shown() -> None:
    m = replace(made(), samples=None, trials=(), spans=(), levels=(), ceiling=None)
    assert "can't be told" in str(Report(m))


def test_the_trace_has_a_row_for_each_lane(tmp_path: Path) -> None:
    Report(made()).trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert set(names.values()) == {"loop", "worker 0"}
    waits = [event for event in events if event["ph"] == "X" and event["name"] == "wait"]
    assert len(waits) == 20
    assert waits[1]["ts"] == pytest.approx(100_000)
    assert waits[1]["dur"] == pytest.approx(60_000)
    assert {event["args"]["slots"] for event in events if event["ph"] == "C"} == {0, 1, 2}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("plotly", reason='pip install "penstock[report]"')
    path = tmp_path_factory.mktemp("page") / "report.html"
    Report(made()).html(path)
    return path


def test_the_page_needs_no_network(page: Path) -> None:
    text = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", text)


def embedded(text: str) -> Any:
    match = re.search(r'<script type="application/json" id="report">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def test_the_page_holds_the_report(page: Path) -> None:
    report = Report(made())
    assert embedded(page.read_text()) == json.loads(json.dumps(report.to_dict()))
    assert Report.from_dict(embedded(page.read_text())).data == report.data


@pytest.fixture(scope="module")
def shown(page: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(the page as the browser has it, what it said)."""
    profile = tmp_path_factory.mktemp("chromium")
    line = [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
class TestInABrowser:
    def test_nothing_goes_wrong(self, shown: tuple[str, str]) -> None:
        assert "CONSOLE" not in shown[1], shown[1]

    def test_every_picture_is_drawn(self, shown: tuple[str, str]) -> None:
        for name in ("timeline", "parts", "workers"):
            place = shown[0].index(f'<div id="{name}"')
            assert "main-svg" in shown[0][place : place + 3000], name

    def test_its_figures_are_those_of_the_json(self, shown: tuple[str, str]) -> None:
        dom, plain = shown[0], embedded(shown[0])
        verdict = re.search(r'<p id="verdict" data-cause="(\w+)">(.*?)</p>', dom)
        assert verdict is not None
        assert (verdict[1], html.unescape(verdict[2])) == (
            plain["verdict"]["cause"],
            plain["verdict"]["text"],
        )
        cells = cells_of(dom, "figures")
        assert float(cells["samples per second"]) == pytest.approx(
            plain["figures"]["samples_per_s"], rel=0.01
        )
        assert cells["share of the time waited"] == f"{plain['figures']['stall']:.0%}"
        best = plain["verdict"]["advice"][0]
        assert float(cells_of(dom, "advice")[best["setting"]]) == pytest.approx(
            best["prediction"]["samples_per_s"], rel=0.01
        )
        slow = plain["measurement"]["samples"]["slowest"][0]
        assert float(cells_of(dom, "slowest")[slow["index"]].split()[0]) == pytest.approx(
            slow["seconds"] * 1e3
        )
        assert html.escape(slow["path"], quote=False) in dom

    def test_its_bars_are_as_long_as_the_parts(self, shown: tuple[str, str]) -> None:
        plot = re.search(r'Plotly\.newPlot\("parts", (\[.*?\]), \{"margin"', shown[0], re.DOTALL)
        assert plot is not None
        computing = json.loads(plot[1])[0]
        parts = embedded(shown[0])["measurement"]["samples"]["parts"]
        assert computing["y"] == [part["name"] for part in parts]
        assert computing["x"] == pytest.approx([part["cpu_s"] * 1e3 for part in parts])


def cells_of(dom: str, table: str) -> dict[str, str]:
    """The second cell of each row, by the first."""
    match = re.search(rf'<table id="{table}">.*?</table>', dom, re.DOTALL)
    assert match is not None, table
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td>", match[0], re.DOTALL)
    return {html.unescape(first): html.unescape(second) for first, second in rows}
