"""What several commands need of packages beyond Penstock's own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click


@contextmanager
def needing(packages: Sequence[str], command: str, extra: str) -> Iterator[None]:
    """Say how to get what a command needs; `packages` by the names that they are imported by."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in packages:
            raise
        raise click.ClickException(
            f'{command} needs {error.name}, which isn\'t here: pip install "penstock[{extra}]"'
        ) from error
