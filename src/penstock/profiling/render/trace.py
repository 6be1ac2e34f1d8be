"""The time line as Chrome's tracing and Perfetto read it (the Trace Event Format)."""

from __future__ import annotations

from typing import Any

from penstock.profiling.data import Measurement

PROCESS = 1


def events(m: Measurement) -> dict[str, Any]:
    """One row for the loop, one for each worker, and the slots of shared memory as a counter."""
    lanes = ["loop", *sorted({span.lane for span in m.spans} - {"loop"}, key=lambda lane: (len(lane), lane))]
    rows = {lane: number for number, lane in enumerate(lanes, 1)}
    names = [
        {"ph": "M", "name": "thread_name", "pid": PROCESS, "tid": row, "args": {"name": lane}}
        for lane, row in rows.items()
    ]
    spans = [
        {
            "ph": "X",
            "name": span.name,
            "cat": span.lane.split()[0],
            "pid": PROCESS,
            "tid": rows[span.lane],
            "ts": round(span.start_s * 1e6, 1),
            "dur": round(span.length_s * 1e6, 1),
        }
        for span in m.spans
    ]
    slots = [
        {
            "ph": "C",
            "name": "slots in use",
            "pid": PROCESS,
            "ts": round(level.at_s * 1e6, 1),
            "args": {"slots": level.slots},
        }
        for level in m.levels
    ]
    return {"traceEvents": [*names, *spans, *slots], "displayTimeUnit": "ms"}
