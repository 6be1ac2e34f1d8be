"""One thread in workers for the libraries that would start more: OpenMP, BLAS and OpenCV, as torch has there.

Workers are many so that each may keep one processor busy; pools of threads in each of them only take the
processors from each other. A library reads how many it may have from the environment when it is loaded; one
that is loaded already is told, in the template. `worker_init_fn` and the dataset come later, so what they
set counts.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController

_POOLS = "OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR"
VARIABLES = dict.fromkeys((*(f"{pool}_NUM_THREADS" for pool in _POOLS), "OPENCV_FOR_THREADS_NUM"), "1")


def look() -> None:
    """Find the libraries before a fork: after one, each page that is touched again costs."""
    _libraries(len(sys.modules))


@lru_cache(maxsize=1)
def _libraries(modules: int) -> list[Any]:  # noqa: ARG001  the cache's key
    """Those that are loaded, and were when so many modules were."""
    found: list[Any] = ThreadpoolController().lib_controllers
    return found


def one_from_here_on() -> None:
    os.environ.update(VARIABLES)
    for library in _libraries(len(sys.modules)):
        if library.internal_api != "openblas" or not _one_for_openblas(library):
            library.set_num_threads(1)
    cv2: Any = sys.modules.get("cv2")
    if hasattr(cv2, "setNumThreads"):
        cv2.setNumThreads(0)  # after a fork, 1 waits for ever for the pool's threads to end; 0 lets them be


def _one_for_openblas(library: Any) -> bool:
    """Whether OpenBLAS let itself be told without being called.

    A call starts the threads that a fork has ended, here or in whichever process it is made, and each turns
    in circles for tens of milliseconds before it sleeps. The number is a variable of the library's.
    """
    try:
        number = ctypes.c_int.in_dll(library.dynlib, "blas_cpu_number")
    except ValueError:
        return False
    number.value = 1
    return True
