"""What every test ends with: no process, no mapping and no descriptor of ours is left."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

# Python's own helpers, started by the spawn and forkserver start methods, live until the interpreter ends.
PYTHONS_HELPERS = ("resource_tracker", "forkserver")


def our_children() -> list[psutil.Process]:
    """All descendants of this process but Python's own helpers."""
    children = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if not any(name in line for name in PYTHONS_HELPERS):
            children.append(process)
    return children


def our_mappings() -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "penstock" in line]


def open_descriptors() -> dict[str, str]:
    """What each descriptor points to."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the one that lists them
    return found


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Shells start what runs in the background with Ctrl-C ignored, and all that it starts inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def unfrozen_in_the_end() -> Iterator[None]:
    """Or the interpreter's end tells of what was left frozen."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = open_descriptors()
    gc.freeze()  # so that a collection looks at what this test made, and not at torch and the like each time
    yield
    gc.collect()
    if our_children() or our_mappings():
        gc.unfreeze()  # garbage may hang on what is older than the test
        gc.collect()
    assert our_children() == []
    assert our_mappings() == []
    new = {fd: target for fd, target in open_descriptors().items() if fd not in before}
    ours = {fd: t for fd, t in new.items() if "penstock" in t or "pidfd" in t or "socket" in t}
    assert ours == {}
