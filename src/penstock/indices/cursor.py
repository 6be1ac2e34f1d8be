"""Indices that lie in arrays, taken some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

Indices = NDArray[np.int64]
_NONE: Indices = np.empty(0, np.int64)


class Cursor:
    """Goes along some tensors of int64; each is gone before the next one is asked for."""

    def __init__(self, runs: Iterator[torch.Tensor]) -> None:
        self._runs, self._run, self._at = runs, _NONE, 0

    @property
    def left(self) -> int:
        """How many there are before the next tensor is asked for."""
        return len(self._run) - self._at

    def take(self, count: int) -> Indices:
        """The next so many; fewer at the end."""
        at, end = self._at, self._at + count
        if end <= len(self._run):
            self._at = end
            return self._run[at:end]
        parts = [self._run[at:].copy()] if at < len(self._run) else []
        missing = count - sum(map(len, parts))
        self._run, self._at = _NONE, 0
        while missing and (run := next(self._runs, None)) is not None:
            self._run = (run if run.is_cpu else run.cpu()).numpy()  # a generator may be an accelerator's
            del run
            self._at = min(missing, len(self._run))
            parts.append(self._run[: self._at])
            missing -= self._at
        if len(parts) > 1:
            return np.concatenate(parts)
        return parts[0] if parts else _NONE
