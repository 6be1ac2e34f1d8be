"""A bar on a terminal, with rate and time left; elsewhere nothing."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int, int], None]


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")


@contextmanager
def bar(title: str, unit: str) -> Iterator[tuple[Console, Advance]]:
    """Gives what to write to meanwhile, and what to call with how much is done, of how much."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit)
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    # No refresh of its own: that would be a thread, which may hold a lock just when workers are forked.
    progress = Progress(
        *columns, *times, console=console, auto_refresh=False, disable=not console.is_terminal
    )
    task = progress.add_task(title, total=None)
    begun = False

    def advance(done: int, total: int) -> None:
        nonlocal begun
        if not begun:  # what an earlier run has done isn't of this one's rate
            progress.reset(task, completed=done, total=total)
        else:
            progress.update(task, completed=done)
        begun = True
        progress.refresh()

    with progress:
        yield console, advance


@contextmanager
def plain_log(console: Console) -> Iterator[None]:
    """Have Penstock's warnings written above the bar instead of into it."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)

    handler, log = Handler(), logging.getLogger("penstock")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
