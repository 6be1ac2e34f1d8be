"""Runs a recipe with torch's DataLoader and then with Penstock's, and holds one beside the other."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.utils.data as torch_data
from torch.utils.data import Dataset

import penstock
from tests.datasets import equal

Loader = type[torch_data.DataLoader[Any]]
TORCHS: Loader = torch_data.DataLoader
WORKERS = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
]


class Points(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A line with a bend: enough for a loss that changes with every batch."""

    def __init__(self, size: int = 50) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.linspace(-1, 1, 8) * (index % 7 - 3) + index / self.size
        return x, (x.sum() + x.abs().max()).reshape(1)


def seed_all(seed: int = 0) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def beside_torch(recipe: Callable[[Loader], Any]) -> Any:
    """What `recipe` returns with Penstock's loader; the same, and no more warnings, than with torch's."""
    theirs, their_warnings = watched(recipe, TORCHS)
    ours, our_warnings = watched(recipe, penstock.DataLoader)
    found = difference(ours, theirs)
    assert found is None, found
    assert our_warnings - their_warnings == set()
    return ours


def difference(ours: Any, theirs: Any, place: str = "result") -> str | None:
    """Where two nested results differ first, and how; None if they don't."""
    if type(ours) is type(theirs) and isinstance(ours, dict) and ours.keys() == theirs.keys():
        pairs = [(ours[key], theirs[key], f"{place}[{key!r}]") for key in ours]
    elif type(ours) is type(theirs) and isinstance(ours, list | tuple) and len(ours) == len(theirs):
        pairs = [(a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    else:
        both_nan = isinstance(ours, float) and isinstance(theirs, float) and ours != ours and theirs != theirs
        return (
            None if both_nan or equal(ours, theirs) else f"{place}: {ours!r}, with torch's loader: {theirs!r}"
        )
    return next((found for pair in pairs if (found := difference(*pair))), None)


def watched(recipe: Callable[[Loader], Any], loader: Loader) -> tuple[Any, set[tuple[type[Warning], str]]]:
    """What `recipe` returns from a fixed seed, and the warnings on the way."""
    seed_all()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = recipe(loader)
    return result, {(warning.category, str(warning.message)) for warning in caught}
