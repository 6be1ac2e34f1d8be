"""The main process's share of a shuffle: `python -m benchmarks.shuffle HOW SAMPLES`.

Each way is measured in a process of its own: the seconds until the first batch's indices are there, and the
memory that it took at most.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.data import BatchSampler, RandomSampler

from benchmarks.targets import Target
from penstock.demo.measure import Spread
from penstock.indices import IndexStream

BATCH = 256

HOW: dict[str, Callable[[int], object]] = {
    "randperm alone": torch.randperm,
    "penstock": lambda samples: next(IndexStream(_batches(samples), batched=True)),
    "torch": lambda samples: next(iter(_batches(samples))),
}


def _batches(samples: int) -> BatchSampler:
    return BatchSampler(RandomSampler(range(samples)), BATCH, drop_last=False)


def measure_shuffle(how: str, samples: int) -> dict[str, float]:
    """Seconds, and bytes a sample, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.shuffle", how, str(samples)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(answer.stdout)
    return figures


def shuffle_targets(seconds: dict[str, Spread], bytes_each: dict[str, Spread]) -> list[Target]:
    """Penstock's against what the shuffle itself takes."""
    return [
        Target(
            "seconds to the first indices: Penstock's to randperm's",
            seconds["penstock"].median / seconds["randperm alone"].median,
            at_most=1.1,
        ),
        Target("bytes a sample", bytes_each["penstock"].median, at_most=10),
    ]


def main(how: str, samples: int) -> None:
    """Do it once and print, as JSON, what it took."""
    HOW[how](1000)  # what is imported and set up late
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    kept = HOW[how](samples)
    seconds = time.perf_counter() - start
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    del kept
    print(json.dumps({"seconds": seconds, "bytes_each": taken * 1024 / samples}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
