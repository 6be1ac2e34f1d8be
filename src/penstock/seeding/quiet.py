"""Datasets that are known to draw nothing, so that their samples need no random state of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

from penstock.seeding.plain import only_looks_up

_READ_ONLY = (list, tuple, range, np.ndarray, torch.Tensor)


def draws_nothing(dataset: Any) -> bool:
    """Whether no code runs for a sample but torch's own, or such as only looks up what the dataset holds."""
    kind = type(dataset)
    if kind is Subset:
        return draws_nothing(dataset.dataset)
    if kind is ConcatDataset:
        return all(map(draws_nothing, dataset.datasets))
    if kind is StackDataset:
        parts = dataset.datasets
        return all(map(draws_nothing, parts.values() if isinstance(parts, dict) else parts))
    if kind is TensorDataset:
        return all(type(tensor) is torch.Tensor for tensor in dataset.tensors)
    return kind in _READ_ONLY or only_looks_up(dataset)
