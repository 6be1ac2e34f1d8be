"""`penstock prepare`."""

import signal
import sys
from pathlib import Path

import click

from penstock.cli.extras import file_trouble, needing
from penstock.errors import PenstockError


@click.command()
@click.argument("source")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--resize-short", type=click.IntRange(min=1), help="Pixels of images' shorter side.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jpeg", "png", "raw"]),
    default="jpeg",
    show_default=True,
    help="How images are stored; raw: as numbers.",
)
@click.option("--quality", type=click.IntRange(1, 100), help="Of JPEG.  [default: 90]")
@click.option("--until", help="Cut the dataset's transform before this step (number or name).")
@click.option("--workers", type=click.IntRange(min=0), help="Processes.  [default: one for each core]")
@click.option(
    "--shard-size",
    default="64MB",
    show_default=True,
    help="What a file holds, about: samples (5000), or bytes (64MB).",
)
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="Whether a sample that can't be made ends the work, or is left out and listed in the manifest.",
)
@click.option("--max-errors", type=click.FloatRange(min=0), help="With skip: how many; below 1, a share.")
def prepare(
    source: str,
    dest: Path,
    resize_short: int | None,
    form: str,
    quality: int | None,
    until: str | None,
    workers: int | None,
    shard_size: str,
    on_error: str,
    max_errors: float | None,
) -> None:
    """Run the part of a pipeline that is the same every time, once, and store what comes of it in DEST.

    SOURCE is a folder of images, in class folders or not, or a dataset as module:object. Interrupted, the
    same command goes on where it was. penstock.PreparedDataset and Hugging Face's datasets read DEST.
    """
    try:
        with needing(("pyarrow", "torchvision", "PIL"), "penstock prepare", "prepare"):
            from penstock.cli.bar import bar, plain_log
            from penstock.preparing import prepare as run
            from penstock.preparing.report import summary

        with bar("Preparing", "samples") as (console, progress), plain_log(console):
            prepared = run(
                source,
                dest,
                resize_short=resize_short,
                format=form,
                quality=quality,
                until=int(until) if until is not None and until.isdigit() else until,
                workers=workers,
                shard_size=shard_size,
                on_error=on_error,
                max_errors=max_errors,
                progress=progress,
            )
    except (PenstockError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise file_trouble(error, source) from error
    except KeyboardInterrupt:
        click.echo("Interrupted: the same command goes on with it.", err=True)
        sys.exit(128 + signal.SIGINT)
    click.echo("\n".join(summary(prepared.manifest, dest)))
