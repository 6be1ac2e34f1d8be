"""The house rules: who may import whom, and how long a module may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import penstock

HOUSE = Path(penstock.__file__).parent
MAX_LINES = 500

LAYERS: dict[str, int] = {
    "_version": 0,
    "errors": 0,
    "tree": 0,
    "stats": 0,
    "machine": 0,
    "original": 0,
    "mixing": 0,
    "names": 0,
    "forks": 0,
    "at_hand": 0,
    "stateful": 0,
    "distributed": 1,
    "plan": 1,
    "arena": 1,
    "collate": 1,
    "bad": 1,
    "policy": 1,
    "seeding": 1,
    "streams": 1,
    "shards": 1,
    "tuning": 1,
    "indices": 2,
    "fetch": 2,
    "pipeline": 2,
    "backends": 3,
    "engine": 4,
    "resume": 4,
    "ready": 4,
    "loader": 5,
    "demo": 6,
    "profiling": 6,
    "trials": 6,
    "caching": 3,
    "preparing": 6,
    "cli": 7,
    "integrations": 7,
    "__main__": 8,
}
"""By room: the first part of a module's name after ``penstock``."""
SAME_LAYER = {
    ("collate", "arena"),
    ("ready", "engine"),
    ("stats", "at_hand"),
    ("bad", "policy"),
    ("cli", "integrations"),
}
"""The orders allowed inside a layer; but for the inside of a room, and the backends' base."""
PUBLIC = {"penstock", "penstock.fetch", "penstock.machine", "penstock.pipeline", "penstock.shards"}
"""All that the rooms of layer 6 see of the layers below."""
EXPORTED = {
    "preparing": {
        "penstock.bad",
        "penstock.errors",
        "penstock.loader",
        "penstock.machine",
        "penstock.pipeline",
        "penstock.pipeline.study",
        "penstock.shards",
        "penstock.tree",
    },
    "trials": {"penstock.bad", "penstock.indices", "penstock.loader", "penstock.tuning"},
    "profiling": {
        "penstock.bad",
        "penstock.caching",
        "penstock.collate",
        "penstock.errors",
        "penstock.fetch",
        "penstock.indices",
        "penstock.loader",
        "penstock.machine",
        "penstock.original",
        "penstock.pipeline",
        "penstock.pipeline.compositions",
        "penstock.pipeline.sites",
        "penstock.pipeline.study",
        "penstock.stats",
        "penstock.tree",
    },
}
"""The same for rooms of layer 6 that `penstock` exports, and that therefore can't import it."""


def module_name(path: Path) -> str:
    parts = ("penstock", *path.relative_to(HOUSE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(HOUSE.rglob("*.py"))}


def imports(name: str) -> Iterator[str]:
    """The modules of ours that module `name` imports, in any place and any form."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "penstock")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            if base.split(".")[0] == "penstock":
                inner = (f"{base}.{alias.name}" for alias in node.names)
                yield from {module if module in modules() else base for module in inner}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def may_import(name: str, other: str) -> bool:
    here, there = room(name), room(other)
    if here == there and here != "backends":
        return True
    if not there:  # the public API
        return LAYERS[here] >= 6 and here not in EXPORTED
    if here == there == "backends":
        return other == "penstock.backends.base" or backend(name) == backend(other) != "base"
    if LAYERS[here] == LAYERS[there]:
        return (here, there) in SAME_LAYER
    if LAYERS[here] == 6:
        return other in EXPORTED.get(here, PUBLIC)
    return LAYERS[here] > LAYERS[there]


def backend(name: str) -> str:
    """Which one a module below ``penstock.backends`` belongs to."""
    return ".".join(name.split(".")[2:3])


@pytest.mark.parametrize("name", [name for name in modules() if name != "penstock"])
def test_every_module_imports_only_from_below(name: str) -> None:
    assert room(name) in LAYERS, f"give {room(name)} a layer, in DESIGN and here"
    assert [other for other in imports(name) if not may_import(name, other)] == []


@pytest.mark.parametrize(
    ("name", "other", "allowed"),
    [
        ("penstock.fetch", "penstock.collate", True),
        ("penstock.collate", "penstock.fetch", False),
        ("penstock.collate", "penstock.arena", True),
        ("penstock.arena", "penstock.collate", False),
        ("penstock.arena", "penstock.errors", True),
        ("penstock.stats", "penstock.errors", False),
        ("penstock.backends.base", "penstock.fetch", True),
        ("penstock.backends.base", "penstock.backends.inline", False),
        ("penstock.backends.inline", "penstock.backends.base", True),
        ("penstock.backends.inline", "penstock.backends.processes", False),
        ("penstock.backends.processes.wire", "penstock.backends.processes.messages", True),
        ("penstock.backends.processes.wire", "penstock.engine", False),
        ("penstock.engine", "penstock", False),
        ("penstock.demo.run", "penstock", True),
        ("penstock.demo.run", "penstock.demo.cases", True),
        ("penstock.demo.run", "penstock.loader", False),
        ("penstock.preparing.run", "penstock.loader", True),
        ("penstock.preparing.run", "penstock", False),
        ("penstock.preparing.run", "penstock.engine", False),
        ("penstock.demo.run", "penstock.trials", False),
        ("penstock.trials", "penstock.loader", True),
        ("penstock.trials", "penstock", False),
        ("penstock.trials", "penstock.engine", False),
        ("penstock.cli.demo", "penstock.demo.run", True),
        ("penstock.cli.run", "penstock.integrations.run", True),
        ("penstock.integrations.run", "penstock.cli.run", False),
    ],
)
def test_the_rule_itself(name: str, other: str, allowed: bool) -> None:
    assert may_import(name, other) is allowed


def test_imports_are_found() -> None:
    assert "penstock.plan" in set(imports("penstock.fetch.fetcher"))
    assert "penstock.backends.processes.failures" in set(imports("penstock.backends.processes.template"))
    assert "penstock.loader" in set(imports("penstock"))


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: set(imports(name)) - {name} for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", modules())
def test_no_module_is_long(name: str) -> None:
    assert len(modules()[name].read_text().splitlines()) <= MAX_LINES
