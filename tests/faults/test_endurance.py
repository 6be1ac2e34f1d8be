"""Batch after batch in one process: what it holds of memory and descriptors stays as it is.

``PENSTOCK_ENDURANCE_BATCHES`` sets how many; a million are for a run by hand.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
import pytest

from penstock import DataLoader
from penstock.plan import MAX_QUEUE
from tests.conftest import open_descriptors
from tests.datasets import Mixed, Named

BATCHES = int(os.environ.get("PENSTOCK_ENDURANCE_BATCHES", "20000"))
STEP, EPOCH, KEPT = 1000, 5000, 5


class Held(NamedTuple):
    memory: int
    descriptors: int
    arena: int
    slots: int


def own_memory(process: psutil.Process) -> int:
    """Resident bytes but for files and the arena. (What it shares with others, it shares since a fork.)"""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def held(loader: Any) -> Held:
    """By this process, the template and its workers."""
    memory = sum(map(own_memory, [psutil.Process(), *psutil.Process().children(recursive=True)]))
    return Held(memory, len(open_descriptors()), loader._latest[1].memory.held(), loader.stats().slots)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", [Mixed(4 * EPOCH), Named(4 * EPOCH)], ids=["rows", "blocks"])
@pytest.mark.timeout(120 + BATCHES // 100)
def test_nothing_grows(dataset: Any) -> None:
    seen: list[Held] = []
    kept: deque[Any] = deque(maxlen=KEPT)
    done = 0
    with DataLoader(dataset, batch_size=4, num_workers=2, shuffle=True, persistent_workers=True) as loader:
        while done < BATCHES // 2:
            for batch in loader:
                kept.append(batch)
                done += 1
                if done % STEP == 0:
                    seen.append(held(loader))
        kept.clear()
    print(f"{done} batches:", *(seen[place] for place in (0, 1, len(seen) // 2, -1)), sep="\n  ")
    first, last = seen[1 : max(3, len(seen) // 20)], seen[-max(2, len(seen) // 20) :]
    assert median(each.memory for each in last) < 1.01 * median(each.memory for each in first)
    assert max(each.descriptors for each in last) <= max(each.descriptors for each in first)
    most = (
        2 * MAX_QUEUE + KEPT + 2
    )  # of batches this cheap, as many as are made ahead; it differs with the load
    assert max(each.slots for each in last) <= most
    assert max(each.arena for each in last) <= 1.01 * max(each.arena / each.slots for each in first) * most
