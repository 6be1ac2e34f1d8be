"""What several commands need of packages beyond Penstock's own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath

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


def file_trouble(error: OSError, path: str | PathLike[str]) -> click.ClickException:
    """What went wrong with a file, by its name; `path` is what it was about if that isn't told."""
    named = error.filename if error.filename is not None else fspath(path)
    return click.ClickException(f"{click.format_filename(named)}: {error.strerror or error}")
