"""`penstock demo`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import click


@click.command()
@click.option("--quick", is_flag=True, help="Fewer images and passes: less than a minute.")
@click.option("--images", type=click.IntRange(min=8), help="How many image files to make.")
@click.option("--json", "figures", type=click.File("w", lazy=False), help="Write all figures here.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    callback=lambda _context, _option, folder: _vacant(folder),
    help="Make the images in this new folder, and leave them there.",
)
def demo(quick: bool, images: int | None, figures: TextIO | None, keep: Path | None) -> None:
    """Measure torch's DataLoader and Penstock's on three common cases.

    Makes a folder of images of its own, so that nothing else is needed.
    """
    with _extras():
        from rich.console import Console

        from penstock.demo.progress import phases
        from penstock.demo.report import data, show
        from penstock.demo.run import FULL, QUICK, DemoError, run

    scale = QUICK if quick else FULL
    scale = replace(scale, images=images or scale.images)
    try:
        with _folder(keep) as folder, phases() as phase:
            result = run(scale, folder, phase)
    except DemoError as error:
        raise click.ClickException(str(error)) from error
    show(result, Console())
    if figures is not None:
        json.dump(data(result), figures, indent=2)


def _vacant(folder: Path | None) -> Path | None:
    """Refuse a folder with files in it: they would be measured as well."""
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise click.BadParameter(f"{folder} is not empty")
    return folder


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder to keep, or one that is removed at the end."""
    if keep is not None:
        yield keep
        return
    with TemporaryDirectory(prefix="penstock-demo-") as name:
        yield Path(name)


@contextmanager
def _extras() -> Iterator[None]:
    """Say how to get what the demo needs beyond Penstock itself."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("torchvision", "PIL"):
            raise
        raise click.ClickException(
            'the demo needs torchvision and Pillow: pip install "penstock[demo]"'
        ) from error
