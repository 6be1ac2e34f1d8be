"""One thread in workers for the libraries that would start more: OpenMP, BLAS and OpenCV, as torch has there.

Workers are many so that each may keep one processor busy; pools of threads in each of them only take the
processors from each other. A library reads how many threads it may have from the environment when it is loaded;
one that is loaded already is told. `worker_init_fn` and the dataset come after all this, so what they set counts.

BLAS libraries that are told in a forked process start their threads there; so they are told before the fork, for
the moment of the fork.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController

VARIABLES = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "OPENCV_FOR_THREADS_NUM",
    )
}


def one_for_a_fork() -> AbstractContextManager[object]:
    """A process forked inside has one thread of each library that is loaded; after it all is as it was."""
    limited: AbstractContextManager[object] = ThreadpoolController().limit(limits=1)
    return limited


def one_from_here_on(forked: bool) -> None:
    """In the template; `forked` inside `one_for_a_fork`."""
    os.environ.update(VARIABLES)
    if not forked:
        ThreadpoolController().limit(limits=1)
    if hasattr(cv2 := sys.modules.get("cv2"), "setNumThreads"):
        cv2.setNumThreads(0)  # after a fork, 1 waits for ever for the pool's threads to end; 0 lets them be
