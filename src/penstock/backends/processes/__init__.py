"""Runs tasks in worker processes (``num_workers > 0``).

    main process ──control──> template ──fork──> worker 0, worker 1, …
         └───────────────own socket pair each──────┘

The main process waits on all sockets at once. A worker's death comes as a message of the template, which
reaps it; the template's death, as the end of the control socket.
"""

from penstock.backends.processes.backend import ProcessesBackend
from penstock.backends.processes.worker import WorkerJob

__all__ = ["ProcessesBackend", "WorkerJob"]
