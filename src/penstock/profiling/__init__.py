"""`penstock.profile`: what a training loop waits for, why, and what to change.

`measure` and what it uses take the figures; `data` holds them; `figures`, `predict`, `diagnose`, `advise` and
`verdict` are pure functions of them; `render` shows them.
"""

from penstock.profiling.monitoring import Reading, monitor, to_tensorboard
from penstock.profiling.report import Report
from penstock.profiling.session import profile

__all__ = ["Reading", "Report", "monitor", "profile", "to_tensorboard"]
