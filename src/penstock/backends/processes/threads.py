"""One thread in workers for the libraries that would start more: OpenMP, BLAS and OpenCV, as torch has there.

Workers are many so that each may keep one processor busy; pools of threads in each of them only take the
processors from each other. A library reads how many it may have from the environment when it is loaded; one
that is loaded already is told. `worker_init_fn` and the dataset come later, so what they set counts.

BLAS libraries that are told in a forked process start their threads there; so they are told before it, for
the moment of the fork.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import ThreadpoolController

_POOLS = "OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR"
VARIABLES = dict.fromkeys((*(f"{pool}_NUM_THREADS" for pool in _POOLS), "OPENCV_FOR_THREADS_NUM"), "1")


def one_for_a_fork() -> AbstractContextManager[object]:
    """A process forked inside has one thread of each library that is loaded; after it all is as it was."""
    limited: AbstractContextManager[object] = ThreadpoolController().limit(limits=1)
    return limited


def one_from_here_on(forked: bool) -> None:
    """In the template; `forked` inside `one_for_a_fork`."""
    os.environ.update(VARIABLES)
    if not forked:
        ThreadpoolController().limit(limits=1)
    cv2: Any = sys.modules.get("cv2")
    if hasattr(cv2, "setNumThreads"):
        cv2.setNumThreads(0)  # after a fork, 1 waits for ever for the pool's threads to end; 0 lets them be
