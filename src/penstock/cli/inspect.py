"""`penstock inspect`."""

import sys
from pathlib import Path

import click

from penstock.cli.extras import file_trouble, needing
from penstock.errors import PenstockError


@click.command()
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Write a sheet of images: .png, .html."
)
@click.option("--verify/--no-verify", default=True, help="Check the shards' checksums.  [default: verify]")
def inspect(dest: Path, sheet: Path | None, verify: bool) -> None:
    """Show what `penstock prepare` has written to DEST, and whether it is whole.

    The exit status is 1 if a shard is damaged.
    """
    with needing(("pyarrow", "torchvision", "PIL"), "penstock inspect", "prepare"):
        from rich.console import Console

        from penstock.cli.bar import bar
        from penstock.preparing import PreparedDataset
        from penstock.preparing.inspection import inspect as look
        from penstock.preparing.report import show
        from penstock.preparing.sheet import write_sheet

    try:
        with bar("Verifying", "bytes") as (_, progress):
            found = look(dest, verify, progress)
        show(found, dest, Console())
        if sheet is not None and found.damaged:
            click.echo("No sheet is made of damaged data.", err=True)
        elif sheet is not None:
            try:
                write_sheet(PreparedDataset(dest), sheet)
            except OSError as error:
                raise file_trouble(error, sheet) from error
            click.echo(f"The sheet is {sheet}")
    except PenstockError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise file_trouble(error, dest) from error
    if found.damaged:
        sys.exit(1)
