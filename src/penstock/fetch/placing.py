"""Puts the samples of a task where they belong: as rows of a slot, or collated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from penstock.arena import Memory
from penstock.collate import (
    BlockWriter,
    Irregular,
    ReadyRows,
    RowWriter,
    Scratch,
    Spec,
    group_of,
    spec_of,
    stack_into,
    tensors_of,
)
from penstock.fetch.outcomes import Block, Direct, Outcome, Rows


class Placer:
    """Owned by one process. `memory` is its mapping of the arena; without one, every batch is collated and
    given as an object, exactly as torch does it. `can_send` tells whether the caller can be told of a spec.
    """

    def __init__(
        self, memory: Memory | None, collate_fn: Callable[[Any], Any], can_send: Callable[[Spec], bool]
    ) -> None:
        self._memory, self._collate_fn, self._can_send = memory, collate_fn, can_send
        self._spec: Spec | None = None
        self._writers: dict[int, tuple[int, RowWriter]] = {}
        self._scratch = Scratch()
        self._stacking = stack_into(self._scratch)

    def begin(self) -> None:
        """Before an epoch: the main process may have given memory back."""
        self._writers.clear()

    @property
    def shares(self) -> bool:
        """Whether samples may be placed as rows at all."""
        return self._memory is not None

    @property
    def group(self) -> int:
        """How many samples to make before they are placed."""
        return 1 if self._spec is None else group_of(self._spec)

    def writer(self, first: Any, slot: int, rows: int) -> RowWriter:
        """What places samples like `first` in a batch of so many rows; raises `Irregular`."""
        spec = spec_of(first, self._spec)
        if not self.knows(spec):
            raise Irregular
        return self._writer_of(slot, spec, rows)

    def whole(self, samples: Sequence[Any], slot: int) -> Outcome:
        """All samples of a batch, placed; raises `Irregular`."""
        writer = self.writer(samples[0], slot, len(samples))
        for start in range(0, len(samples), writer.group):
            writer.write(samples[start : start + writer.group], start)
        return Rows(writer.spec, len(samples))

    def ready(self, ready: ReadyRows, slot: int, first: int, rows: int) -> Outcome:
        """Rows that lie in memory, from the row `first` on; their spec is known."""
        if self._memory is None:
            return Direct(next(ready.batches([len(ready.rows)], self._scratch)))
        end = first + len(ready.rows)
        ready.copy_to([tensor[first:end] for tensor in self._writer_of(slot, ready.spec, rows).tensors])
        return Rows(ready.spec, rows)

    def collated(self, samples: Any, slot: int) -> Outcome:
        """What the loader's `collate_fn` makes of them."""
        with self._stacking:
            batch = self._collate_fn(samples)
        del samples
        memory = self._memory
        if memory is None:
            return Direct(batch)
        return Block(*BlockWriter(lambda nbytes: memory.reserve(slot, nbytes)).pack(batch))

    def knows(self, spec: Spec) -> bool:
        """Whether the caller knows, or can be told of, this spec, which is then that of the samples."""
        if spec is not self._spec and not self._can_send(spec):
            return False
        self._spec = spec
        return True

    def _writer_of(self, slot: int, spec: Spec, rows: int) -> RowWriter:
        """For so many rows in a slot; making 200 views anew for every task would be felt."""
        known = self._writers.get(slot)
        if known is not None and known[0] == rows and known[1].spec is spec:
            return known[1]
        assert self._memory is not None
        block = self._memory.reserve(slot, spec.layout(rows)[1])
        writer = RowWriter(spec, tensors_of(block, spec, rows))
        self._writers[slot] = rows, writer
        return writer
