"""What was done, in lines, and what was found in a folder of prepared data, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock.errors import human_bytes
from penstock.preparing.inspection import Inspection
from penstock.preparing.manifest import MANIFEST, Manifest

SHOWN = 10
"""Lines of a long list."""


def summary(manifest: Manifest, folder: Path) -> list[str]:
    """What was done, in a few lines."""
    lines = [f"{manifest.samples:,} samples, {human_bytes(manifest.bytes)}, {_files(manifest)}: {folder}"]
    left = {cut["where"]: _listed(cut["left to do"]) for cut in manifest.order.source.get("pipeline", ())}
    if len(set(left.values())) == 1:
        left = {"by PreparedDataset's transform": next(iter(left.values()))}
    lines += [f"Left to do, {where}: {steps}" for where, steps in left.items()]
    if bad := len(manifest.bad):
        told = (
            f"{bad:,} samples could not be made: they are" if bad > 1 else "1 sample could not be made: it is"
        )
        lines.append(f"{told} listed in {folder / MANIFEST}")
    return lines


def show(found: Inspection, folder: Path, console: Console) -> None:
    """Print it."""
    manifest = found.manifest
    console.print(_facts(manifest, folder))
    console.print(_table("Columns", ("name", "type"), list(manifest.columns.items())))
    shards = [(s.name, f"{s.samples:,}", human_bytes(s.bytes), s.crc32) for s in manifest.shards]
    console.print(_table("Shards", ("file", "samples", "size", "CRC-32"), shards))
    if manifest.bad:
        bad = [
            (each["index"], each["path"] or "", f"{each['type']}: {each['message']}") for each in manifest.bad
        ]
        console.print(_table("Samples that could not be made", ("index", "path", "why"), bad))
    for name, reason in found.damaged.items():
        console.print(f"[red]{escape(name)} is damaged[/red]: {escape(reason)}", soft_wrap=True)
    if not found.damaged:
        console.print("All shards are whole." if found.verified else "All shards are there; not verified.")


def _facts(manifest: Manifest, folder: Path) -> Table:
    facts = Table(title=escape(str(folder)), title_justify="left", box=None, show_header=False)
    order = manifest.order
    each = human_bytes(manifest.bytes / manifest.samples)
    facts.add_row("samples", f"{manifest.samples:,} of {order.source['samples']:,}")
    facts.add_row("size", f"{human_bytes(manifest.bytes)} in {_files(manifest)}, {each} a sample")
    facts.add_row("source", escape(order.source["kind"]))
    for cut in order.source.get("pipeline", ()):
        facts.add_row(
            cut["where"], escape(f"done: {_listed(cut['kept'])}; left to do: {_listed(cut['left to do'])}")
        )
    if manifest.classes is not None:
        facts.add_row("classes", escape(f"{len(manifest.classes)}: {_listed(manifest.classes)}"))
    facts.add_row("done", escape(_pairs({k: v for k, v in order.done.items() if v is not None})))
    facts.add_row("versions", escape(_pairs(order.versions)))
    return facts


def _files(manifest: Manifest) -> str:
    shards = len(manifest.shards)
    return "1 shard" if shards == 1 else f"{shards:,} shards"


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "nothing"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _table(title: str, headings: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows[:SHOWN]:
        table.add_row(*(escape(str(cell)) for cell in row))
    if len(rows) > SHOWN:
        table.add_row(f"and {len(rows) - SHOWN:,} more")
    return table
