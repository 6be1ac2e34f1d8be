"""Shows on stderr how far things are: a bar on a terminal, one line for each phase elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Phase = Callable[[str, int], Callable[[], None]]


@contextmanager
def phases() -> Iterator[Phase]:
    """Gives a function that starts a phase of so many steps, and returns what to call for each."""
    console = Console(stderr=True)
    # No refresh of its own: that would be a thread, which takes time from what is measured and
    # may hold a lock just when workers are forked.
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        auto_refresh=False,
        disable=not console.is_terminal,
    )

    def start(title: str, steps: int) -> Callable[[], None]:
        if not console.is_terminal:
            console.print(f"{title} ...", highlight=False)
        task = progress.add_task(title, total=steps)

        def advance() -> None:
            progress.advance(task)
            progress.refresh()

        return advance

    with progress:
        yield start
