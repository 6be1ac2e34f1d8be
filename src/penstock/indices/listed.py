"""A sampler of certain indices, again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

from torch.utils.data import Sampler


class Listed(Sampler[Any]):
    """Gives `indices` in their order, over and over, until there were `size`."""

    def __init__(self, indices: Sequence[Any], size: int) -> None:
        self.indices, self.size = indices, size

    def __iter__(self) -> Iterator[Any]:
        return islice(cycle(self.indices), self.size)

    def __len__(self) -> int:
        return self.size
