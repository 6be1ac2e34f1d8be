"""The memory of a loader and all its workers: `python -m benchmarks.memory LOADER WORKERS PATHS`.

Each is measured in a process of its own, so that both start from the same place. A page that n
processes share counts 1/n in each one's PSS, so that the sum counts it once.
"""

import json
import subprocess
import sys

import psutil

from benchmarks.datasets import PathList
from benchmarks.targets import Target
from penstock.demo.cases import LOADERS
from penstock.demo.measure import Spread

WORKERS = 8


def measure_memory(loader: str, paths: int) -> int:
    """Summed PSS in bytes at the end of a pass over so many paths, in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", loader]
    command += [str(WORKERS), str(paths)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(answer.stdout)["pss_bytes"])


def memory_target(ours: Spread, theirs: Spread) -> Target:
    """Penstock's summed PSS against torch's."""
    return Target(
        f"summed PSS, {WORKERS} workers: Penstock's to torch's",
        ours.median / theirs.median,
        at_most=1.0,
    )


def pss() -> int:
    """Bytes of this process and all its descendants, shared pages counted once."""
    here = psutil.Process()
    family = [here, *here.children(recursive=True)]
    return sum(int(member.memory_full_info().pss) for member in family)


def main(loader: str, workers: int, paths: int) -> None:
    """Make one pass and print, as JSON, what is held while the iterator is still open."""
    batches = LOADERS[loader](PathList(paths), batch_size=256, shuffle=True, num_workers=workers)
    iterator = iter(batches)
    for _ in range(len(batches)):
        next(iterator)
    print(json.dumps({"pss_bytes": pss()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
