"""Penstock keeps PyTorch models fed: `DataLoader` is a drop-in for torch's.

The exceptions are in `penstock.errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from penstock._version import __version__
from penstock.errors import (
    BatchNotSendableError,
    BatchTimeoutError,
    BatchTooLargeError,
    ClosedError,
    DamagedShardError,
    DatasetNotSendableError,
    NotFingerprintableError,
    NotRepeatableError,
    NotStorableError,
    PenstockError,
    PrepareError,
    SampleTimeoutError,
    StateError,
    TooManyErrorsError,
    WorkerDiedError,
    WorkerError,
)
from penstock.stats import CacheStats, Decision, Stats, WorkerStats

if TYPE_CHECKING:
    from penstock.bad import BadSample
    from penstock.caching import CachedDataset, cache
    from penstock.distributed import DistributedIterableDataset, DistributedSampler
    from penstock.integrations.upgrade import upgrade
    from penstock.loader import DataLoader
    from penstock.preparing import PreparedDataset, prepare
    from penstock.profiling.monitoring import Reading, monitor, to_tensorboard
    from penstock.profiling.report import Report
    from penstock.profiling.session import profile
    from penstock.trials import tune

__all__ = [
    "BadSample",
    "BatchNotSendableError",
    "BatchTimeoutError",
    "BatchTooLargeError",
    "CacheStats",
    "CachedDataset",
    "ClosedError",
    "DamagedShardError",
    "DataLoader",
    "DatasetNotSendableError",
    "Decision",
    "DistributedIterableDataset",
    "DistributedSampler",
    "NotFingerprintableError",
    "NotRepeatableError",
    "NotStorableError",
    "PenstockError",
    "PrepareError",
    "PreparedDataset",
    "Reading",
    "Report",
    "SampleTimeoutError",
    "StateError",
    "Stats",
    "TooManyErrorsError",
    "WorkerDiedError",
    "WorkerError",
    "WorkerStats",
    "__version__",
    "cache",
    "monitor",
    "prepare",
    "profile",
    "to_tensorboard",
    "tune",
    "upgrade",
]

_NEED_TORCH = {
    "BadSample": "penstock.bad",
    "CachedDataset": "penstock.caching",
    "DataLoader": "penstock.loader",
    "DistributedIterableDataset": "penstock.distributed",
    "DistributedSampler": "penstock.distributed",
    "PreparedDataset": "penstock.preparing",
    "Reading": "penstock.profiling.monitoring",
    "Report": "penstock.profiling.report",
    "cache": "penstock.caching",
    "monitor": "penstock.profiling.monitoring",
    "prepare": "penstock.preparing",
    "profile": "penstock.profiling.session",
    "to_tensorboard": "penstock.profiling.monitoring",
    "tune": "penstock.trials",
    "upgrade": "penstock.integrations.upgrade",
}
"""Imported when first asked for: `penstock run` is there before its program, which imports torch itself."""


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(_NEED_TORCH[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_NEED_TORCH})
