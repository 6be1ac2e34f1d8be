"""Everything at once, by a seeded plan, epoch after epoch: the batches are what the policy says.

``PENSTOCK_CHAOS_EPOCHS`` sets how many epochs; some hundred are for a long run by hand. On a busy machine,
where a process takes its time to die, ``PENSTOCK_CHAOS_TIMEOUT`` should be longer.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock import DataLoader
from tests.datasets import Squares, equal

EPOCHS = int(os.environ.get("PENSTOCK_CHAOS_EPOCHS", "4"))
TIMEOUT = float(os.environ.get("PENSTOCK_CHAOS_TIMEOUT", "1.5"))
SIZE, BATCH = 48, 4
ONCE = "kill", "segv", "exit"
ALWAYS = "raise", "none", "hang"


class Chaos(Squares):
    """At some indices something happens: once, and all is well after it; or always.

    With `ragged`, samples that differ do so in shape, which needs a collate function; else in type.
    """

    def __init__(self, folder: Path, plan: dict[int, str], ragged: bool) -> None:
        super().__init__(SIZE)
        self.folder, self.plan, self.ragged = folder, plan, ragged

    def __getitem__(self, index: int) -> Any:
        what = self.plan.get(index)
        if what == "other":
            return index, torch.rand(3) if self.ragged else torch.rand(2).double(), random.random()
        if what in ALWAYS or (what is not None and self.first(index)):
            if what == "none":
                return None
            self.happen(str(what))
        return index, torch.rand(2), random.random()

    def first(self, index: int) -> bool:
        try:
            (self.folder / str(index)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def happen(self, what: str) -> None:
        if what == "raise":
            raise ValueError("chaos")
        if what == "exit":
            os._exit(3)
        signals = {"kill": signal.SIGKILL, "segv": signal.SIGSEGV, "stop": signal.SIGSTOP}
        if what in signals:
            os.kill(os.getpid(), signals[what])
        os.read(os.pipe()[0], 1)  # hangs; also whoever was stopped and goes on


def a_plan(chance: random.Random) -> dict[int, str]:
    """Few hangs, as each takes its time."""
    kinds = [*chance.choices(["kill", "segv", "exit"], k=3), *chance.choices(["raise", "none"], k=3)]
    kinds += [chance.choice(["hang", "stop"]), *["other"] * chance.choice([0, 1])]
    return dict(zip(chance.sample(range(SIZE), len(kinds)), kinds, strict=True))


def as_they_are(samples: list[Any]) -> list[Any]:
    return samples


def run(dataset: Chaos, workers: int, seed: int) -> tuple[list[Any], Any]:
    with DataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        seed=seed,
        collate_fn=as_they_are if dataset.ragged else None,
        on_error="skip",
        sample_timeout=TIMEOUT if workers else None,
    ) as loader:
        return list(loader), loader


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.timeout(60 + 20 * EPOCHS)
def test_chaos(tmp_path: Path) -> None:
    counts = chaos(range(EPOCHS), tmp_path)
    print(dict(counts))
    deadly = ("kill", "segv", "exit", "hang", "stop")
    assert counts["workers replaced"] >= sum(counts[what] for what in deadly)


def chaos(seeds: range, tmp_path: Path) -> Counter[str]:
    """What happened how often."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        chance = random.Random(seed)
        plan = a_plan(chance)
        lost = {index for index, what in plan.items() if what in (*ALWAYS, "stop")}
        folder = tmp_path / str(seed)
        folder.mkdir()
        ragged = chance.random() < 0.3
        found, loader = run(Chaos(folder, plan, ragged), chance.choice([1, 2, 3]), seed)
        calm = {
            index: "other" if what == "other" else "raise" for index, what in plan.items() if what not in ONCE
        }
        undisturbed, _ = run(Chaos(folder, calm, ragged), 0, seed)
        assert equal(found, undisturbed), (seed, plan)
        assert {bad.index for bad in loader.errors} == lost
        counts.update(plan.values())
        counts["workers replaced"] += loader.stats().workers_replaced
    return counts
