"""Figures as people say them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """In the unit that suits it, to two or three digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= factor:
            return f"{_short(seconds / factor)} {unit}"
    return f"{_short(seconds / 1e-6)} µs"


def size(nbytes: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{_short(nbytes / factor)} {unit}"
    return f"{nbytes:.0f} B"


def rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else _short(per_second)


def share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 or part <= 0 else "less than 1%"


def count(number: int, noun: str) -> str:
    """As in no workers, 1 worker, 2 workers, 3 batches."""
    plural = "es" if noun.endswith("ch") else "s"
    return f"{number or 'no'} {noun}{'' if number == 1 else plural}"


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 20 else f"{value:.2g}"
