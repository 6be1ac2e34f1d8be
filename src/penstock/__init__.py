"""Penstock keeps PyTorch models fed: `DataLoader` is a drop-in for torch's.

The exceptions are in `penstock.errors`.
"""

from penstock._version import __version__
from penstock.bad import BadSample
from penstock.distributed import DistributedSampler
from penstock.errors import (
    BatchNotSendableError,
    BatchTimeoutError,
    BatchTooLargeError,
    ClosedError,
    DatasetNotSendableError,
    PenstockError,
    SampleTimeoutError,
    StateError,
    TooManyErrorsError,
    WorkerDiedError,
    WorkerError,
)
from penstock.loader import DataLoader
from penstock.stats import Stats, WorkerStats

__all__ = [
    "BadSample",
    "BatchNotSendableError",
    "BatchTimeoutError",
    "BatchTooLargeError",
    "ClosedError",
    "DataLoader",
    "DatasetNotSendableError",
    "DistributedSampler",
    "PenstockError",
    "SampleTimeoutError",
    "StateError",
    "Stats",
    "TooManyErrorsError",
    "WorkerDiedError",
    "WorkerError",
    "WorkerStats",
    "__version__",
]
