"""torch's own DataLoader class, whatever its public names stand for by now: ours, or anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

if TYPE_CHECKING:
    from torch.utils.data import DataLoader as TorchDataLoader
else:
    import torch.utils.data.dataloader

    TorchDataLoader = next(
        cls
        for cls in Generic.__subclasses__()
        if (cls.__module__, cls.__name__) == (torch.utils.data.dataloader.__name__, "DataLoader")
    )

__all__ = ["TorchDataLoader"]
