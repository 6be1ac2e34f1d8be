"""Shows on standard error, while it goes on, what a profile is at."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table

from penstock.profiling.figures import mean, waited_in_epochs
from penstock.profiling.words import count, duration, share

if TYPE_CHECKING:
    from penstock.profiling.watching import Watch

EVERY_S = 0.25


class Live:
    """A view in a ``with`` block; ``shown=None`` shows it on terminals only.

    There is no thread behind it, which would take time from the loop: it is drawn when it is told something.
    """

    def __init__(self, shown: bool | None, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        terminal = self._console.is_terminal
        self._shown = terminal if shown is None else shown
        self._live = RichLive(console=self._console, auto_refresh=False, transient=True) if terminal else None
        self._drawn = 0.0
        self._now = ""

    def __enter__(self) -> Live:
        if self._shown and self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, what: str) -> None:
        """What is done next."""
        if not self._shown:
            return
        if self._live is None:
            self._console.print(f"penstock: {what} ...", highlight=False)
        else:
            self._live.update(f"penstock: {what} ...", refresh=True)

    def tick(self, watch: Watch) -> None:
        """A batch more; the loop's figures up to now, every now and then."""
        if not self._shown:
            return
        now = time.monotonic()
        if self._now != watch.phase:
            self._now = watch.phase
            if self._live is None:
                self._console.print(f"penstock: the loop, with {watch.phase} ...", highlight=False)
        if self._live is not None and now - self._drawn > EVERY_S:
            self._drawn = now
            self._live.update(_table(watch), refresh=True)


def _table(watch: Watch) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("penstock", f"the loop, with {watch.phase}", f"{watch.recorder.elapsed:.0f} s")
    loop = watch.loop
    if loop is not None:
        rate = f"{loop.samples / max(loop.waited_s + loop.stepped_s, 1e-9):,.0f} samples/s"
        table.add_row("", count(watch.recorder.batches, "batch"), rate)
        table.add_row(
            "",
            f"waits {share(waited_in_epochs(loop))} of the time",
            f"a step takes {duration(mean(loop.steps))}",
        )
        if watch.levels:
            table.add_row("", f"{watch.levels[-1].slots} slots of shared memory in use", "")
    return table
