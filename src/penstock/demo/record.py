"""Figures as plain data, ready for JSON: what ran, on what, and every single pass."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from penstock.demo.measure import Spread, Summary
from penstock.machine import cpus


def environment() -> dict[str, Any]:
    """The versions, and the machine as far as it bears on the figures."""
    packages = ("penstock", "torch", "torchvision", "pillow", "numpy")
    return {
        "versions": {package: version(package) for package in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cpus(),
    }


def records(rows: Sequence[Summary]) -> list[dict[str, Any]]:
    """Each contender's medians with their spread, and its passes. Times are in seconds."""
    return [
        {
            "loader": row.loader,
            "workers": row.workers,
            "samples_per_second": asdict(row.rate),
            "steady_samples_per_second": _optional(row.steady_rate),
            "seconds_to_first_batch": asdict(row.first_batch),
            "cpu_seconds_per_sample": asdict(row.cpu_per_sample),
            "passes": [asdict(run) for run in row.passes],
        }
        for row in rows
    ]


def _optional(spread: Spread | None) -> dict[str, float] | None:
    """A spread as data, where there is one."""
    return None if spread is None else asdict(spread)
