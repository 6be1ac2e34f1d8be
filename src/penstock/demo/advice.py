"""One plain sentence per case, worked out from the figures, whichever way they fall."""

from collections.abc import Sequence

from penstock.demo.measure import Summary, paired

NAMES = {"torch": "torch's DataLoader", "penstock": "penstock.DataLoader"}
NOTABLE = 1.05  # a smaller ratio between two medians is called no difference
COSTLY = 1.25  # so many times the CPU time per sample explains why workers do not help


def best(rows: Sequence[Summary], loader: str | None = None, pooled: bool | None = None) -> Summary:
    """The row of most samples per second.

    Among one loader's rows where it is named, and among those with workers (`pooled` true) or
    without (false) where that is said.
    """
    return max(
        (row for row in rows if loader in (None, row.loader) and pooled in (None, row.workers > 0)),
        key=lambda row: row.rate.median,
    )


def ratio(above: Summary, below: Summary) -> float:
    """How many times the samples per second of `below`, in the middle of all rounds."""
    return paired(above, below).median


def advise(rows: Sequence[Summary]) -> str:
    """What to do and why. The rows hold both loaders, each with workers and without."""
    inline, pooled = best(rows, pooled=False), best(rows, pooled=True)
    return _with_workers(rows) if ratio(pooled, inline) > NOTABLE else _without_workers(rows)


def duration(seconds: float) -> str:
    """A time in the unit that suits it, to three digits."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"


def _without_workers(rows: Sequence[Summary]) -> str:
    """The sentence for a case in which no number of workers helps."""
    effects = " and ".join(f"{NAMES[loader]} {_effect(rows, loader)}" for loader in NAMES)
    return f"Use num_workers=0: {_obstacle(rows)}, so that {effects}; without workers {_compare(rows)}."


def _obstacle(rows: Sequence[Summary]) -> str:
    """Why workers do not help: what they cost, or else how little they got to run."""
    inline, pooled = best(rows, "torch", pooled=False), best(rows, pooled=True)
    without, with_them = inline.cpu_per_sample.median, pooled.cpu_per_sample.median
    if with_them > without * COSTLY:
        return (
            f"a sample takes {duration(without)} of CPU time without workers and "
            f"{duration(with_them)} at best with them, as they have to be started and to hand "
            "every batch over"
        )
    return f"the workers kept no more than {with_them * pooled.rate.median:.1f} cores busy"


def _with_workers(rows: Sequence[Summary]) -> str:
    """The sentence for a case in which workers help."""
    ours, theirs = best(rows, "penstock"), best(rows, "torch")
    inline = best(rows, "torch", pooled=False)
    winner = best(rows)
    why = (
        f"as a sample takes {duration(1 / inline.rate.median)} without workers, enough work to "
        f"share out: this is {ratio(winner, inline):.2g} times as fast as torch's without workers"
    )
    if ratio(ours, theirs) > NOTABLE:
        rival = f"{ratio(ours, theirs):.2f} times as fast as torch's best ({_setting(theirs)})"
        choice = f"Use penstock.DataLoader with {_setting(ours)}, {rival}"
    elif ratio(theirs, ours) > NOTABLE:
        rival = f"{ratio(theirs, ours):.2f} times as fast as Penstock's best ({_setting(ours)})"
        choice = f"Keep torch's DataLoader with {_setting(theirs)}, {rival}"
    else:
        choice = f"Use {_setting(winner)} with either loader, for their best differ by less than 5%"
    return f"{choice}, {why}."


def _effect(rows: Sequence[Summary], loader: str) -> str:
    """What a loader's best number of workers does to it."""
    inline, pooled = best(rows, loader, pooled=False), best(rows, loader, pooled=True)
    gain = ratio(pooled, inline)
    count = f"with {pooled.workers} worker{'s' if pooled.workers > 1 else ''}"
    if gain > NOTABLE:
        return f"is {gain:.2g} times as fast {count} as without"
    if gain < 1 / NOTABLE:
        return f"is {1 / gain:.2g} times slower {count} than without"
    return f"is no faster {count} than without"


def _compare(rows: Sequence[Summary]) -> str:
    """Penstock against torch, both without workers."""
    gain = ratio(best(rows, "penstock", pooled=False), best(rows, "torch", pooled=False))
    if gain > NOTABLE:
        return f"Penstock is {gain:.2f} times as fast as torch"
    if gain < 1 / NOTABLE:
        return f"torch is {1 / gain:.2f} times as fast as Penstock"
    return "the two loaders differ by less than 5%"


def _setting(row: Summary) -> str:
    """The argument that gives this row."""
    return f"num_workers={row.workers}"
