"""How many cases are drawn: as many as everyday has time for, or as the environment says."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings

FACTOR = float(os.environ.get("PENSTOCK_DIFFERENTIAL", "1"))
"""``PENSTOCK_DIFFERENTIAL=100`` runs a hundred times as many cases, and other ones each time."""


def many(cases: int, shrink: bool = True) -> Callable[[Any], Any]:
    """So many cases on an ordinary day, when they are the same ones each time; `shrink` one that fails."""
    phases = (Phase.explicit, Phase.generate, *((Phase.shrink,) if shrink else ()))
    return settings(
        max_examples=max(1, round(cases * FACTOR)),
        deadline=None,
        derandomize=FACTOR == 1,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
