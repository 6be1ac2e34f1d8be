"""What ``default_collate`` stacks into, when it is called to collate a whole batch.

torch's own rule makes a file in /dev/shm for every tensor that a worker stacks, which ends in a bus error
where that is small, and takes new memory every time, whose first touch costs more than the copy.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils import worker as torch_worker
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

from penstock.arena import Bytes
from penstock.collate.dense import is_plain, tensor_in

LEAST = 1 << 18
"""A smaller tensor (in bytes) is as quickly made in new memory."""
KEPT = 8
"""How many pieces of memory to keep for the next batches."""


class Scratch:
    """Private memory that is used again once the last tensor that views it is gone.

    Whoever holds such a tensor, user code included, holds its memory: that is given out anew only when the
    array that all its views have in common dies (in whichever thread; that only moves it to a deque, of which
    the oldest piece then goes). Several threads may ask for it.
    """

    def __init__(self) -> None:
        self._idle: deque[Bytes] = deque(maxlen=KEPT)
        self._leased: dict[int, tuple[weakref.ref[Bytes], Bytes]] = {}

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor."""
        numel = int(np.prod(shape, dtype=np.int64))
        return tensor_in(self.block(numel * dtype.itemsize), 0, dtype, shape, numel)

    def block(self, nbytes: int) -> Bytes:
        """At least so many uninitialised bytes."""
        memory = self._take(nbytes)
        lease = np.frombuffer(memory.data, np.uint8)  # over an array, its views would pass it by
        end = weakref.ref(lease, self._take_back)
        self._leased[id(end)] = end, memory
        return lease

    def _take_back(self, end: weakref.ref[Bytes]) -> None:
        _, memory = self._leased.pop(id(end), (end, None))
        if memory is not None:  # otherwise an interrupt came before it was noted
            self._idle.append(memory)

    def _take(self, nbytes: int) -> Bytes:
        for _ in range(len(self._idle)):
            try:
                memory = self._idle.pop()  # the one that was used last is the warmest
            except IndexError:  # another thread has it
                break
            if nbytes <= memory.nbytes <= 2 * nbytes:
                return memory
            self._idle.appendleft(memory)
        return np.empty(nbytes, np.uint8)


class stack_into:
    """While entered, ``default_collate`` stacks large plain tensors into `scratch`; any number of times."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def __enter__(self) -> None:
        self._replaced = default_collate_fn_map.get(torch.Tensor) is collate_tensor_fn
        if self._replaced:
            default_collate_fn_map[torch.Tensor] = self._stack

    def __exit__(self, *_: object) -> None:
        if self._replaced and default_collate_fn_map.get(torch.Tensor) == self._stack:  # or it is another's
            default_collate_fn_map[torch.Tensor] = collate_tensor_fn

    def _stack(self, batch: Sequence[torch.Tensor], *, collate_fn_map: Any = None) -> torch.Tensor:
        elem = batch[0]
        nbytes = len(batch) * elem.numel() * elem.dtype.itemsize
        if nbytes < LEAST or any(
            type(t) is not torch.Tensor
            or not is_plain(t)
            or t.dtype is not elem.dtype
            or t.shape != elem.shape
            for t in batch
        ):
            return _stack_privately(batch, collate_fn_map)
        return torch.stack(list(batch), out=self._scratch.empty((len(batch), *elem.shape), elem.dtype))


def _stack_privately(batch: Sequence[torch.Tensor], collate_fn_map: Any) -> torch.Tensor:
    """torch's own rule, with its errors, without its shared memory.

    In a worker it refuses tensors that require a gradient, as what came of them couldn't be sent.
    """
    info = torch_worker._worker_info
    if info is None or any(getattr(item, "requires_grad", False) for item in batch):
        return collate_tensor_fn(batch, collate_fn_map=collate_fn_map)  # type: ignore[no-any-return]
    torch_worker._worker_info = None
    try:
        return collate_tensor_fn(batch, collate_fn_map=collate_fn_map)  # type: ignore[no-any-return]
    finally:
        torch_worker._worker_info = info
