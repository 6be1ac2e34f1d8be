"""From samples to a batch in one block of memory, by torch's collate rules.

Two ways, and the engine is told which was taken:

- *rows*: a regular sample (tensors, arrays and numbers of the same types and shapes as in the others)
  is placed straight into its row of the block, so that several processes can fill one batch. What
  comes out equals ``default_collate``'s.
- *block*: anything else, collated as a whole, is pickled with its tensors and arrays beside the pickle
  in the block (pickle protocol 5, out of band), in their own types.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

from penstock.arena import Bytes, aligned
from penstock.errors import BatchNotSendableError, BatchTooLargeError
from penstock.tree import Structure, StructureMismatch, columns_of, flatten, map_kinds, structure_of

FLUSH_BYTES = 1 << 16
"""Samples are placed in groups of about this many bytes: together while they are small, as a copy has
a fixed cost; one by one when large, while they are still in the processor's cache."""


class Irregular(Exception):
    """A sample can't be placed as a row; the batch has to be collated as a whole."""


@dataclass(frozen=True, slots=True)
class Column:
    """One leaf of a regular sample.

    Attributes:
        kind: the leaf's exact Python type.
        dtype: of the collated tensor.
        shape: of one sample's leaf; () for a number.
    """

    kind: type
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Spec:
    """What a regular sample looks like: its structure, and the type and shape of each leaf."""

    structure: Structure
    columns: tuple[Column, ...]

    @property
    def sample_bytes(self) -> int:
        return sum(column.nbytes for column in self.columns)

    def layout(self, rows: int) -> tuple[list[int], int]:
        """Where each column of `rows` rows starts in a block, and the bytes of them all."""
        starts, end = [], 0
        for column in self.columns:
            starts.append(end)
            end = aligned(end + rows * column.nbytes)
        return starts, end


def spec_of(sample: Any, guess: Spec | None = None) -> Spec:
    """The spec of a sample; `guess` itself if that fits, which is quicker to find.

    Raises:
        Irregular: if it holds something that can't be placed as a row.
    """
    if guess is not None and _fits(sample, guess):
        return guess
    structure = structure_of(sample)
    return Spec(structure, tuple(_column_of(leaf) for leaf in flatten(sample, structure)))


def _fits(sample: Any, spec: Spec) -> bool:
    try:
        leaves = flatten(sample, spec.structure)
    except StructureMismatch:
        return False
    for leaf, column in zip(leaves, spec.columns, strict=True):
        kind: Any = type(leaf)
        if kind is not column.kind:
            return False
        if kind is torch.Tensor:
            if leaf.dtype is not column.dtype or leaf.shape != column.shape:
                return False
        elif kind is np.ndarray and _column_of(leaf) != column:
            return False
    return True


def is_default_collate(collate_fn: Any) -> bool:
    """Whether `collate_fn` is torch's default one, with torch's own rules for what rows hold."""
    return collate_fn is torch.utils.data.default_collate and all(
        rule.__module__ == collate_tensor_fn.__module__ for rule in default_collate_fn_map.values()
    )


_NUMBERS: dict[type, torch.dtype] = {float: torch.float64, int: torch.int64, bool: torch.bool}


def _column_of(leaf: Any) -> Column:
    kind: Any = type(leaf)
    if kind is torch.Tensor:
        if not _is_plain(leaf):
            raise Irregular
        return Column(kind, leaf.dtype, tuple(leaf.shape))
    if kind in _NUMBERS:
        return Column(kind, _NUMBERS[kind], ())
    if kind is np.ndarray or issubclass(kind, np.number | np.bool_):
        return Column(kind, _torch_dtype(leaf.dtype), tuple(leaf.shape))
    raise Irregular


def _is_plain(tensor: torch.Tensor) -> bool:
    """A dense tensor in main memory whose bytes are all there is to it."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.requires_grad
        and not tensor.is_quantized
        and not tensor.is_nested
    )


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except (TypeError, ValueError):
        raise Irregular from None


def tensors_of(block: Bytes, spec: Spec, rows: int) -> list[torch.Tensor]:
    """One tensor of shape (rows, *shape) for each column, each a view of `block` that keeps it."""
    starts, _ = spec.layout(rows)
    return [
        tensor_in(block, start, column.dtype, (rows, *column.shape), rows * column.numel)
        for start, column in zip(starts, spec.columns, strict=True)
    ]


def tensor_in(
    block: Bytes, start: int, dtype: torch.dtype, shape: tuple[int, ...], numel: int
) -> torch.Tensor:
    """A tensor over the bytes of `block` from `start` on."""
    if numel == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(block, dtype=dtype, count=numel, offset=start).view(shape)


def batch_of_rows(block: Bytes, spec: Spec, rows: int) -> Any:
    """The batch that ``default_collate`` would make of the samples whose rows `block` holds."""
    structure = map_kinds(spec.structure, lambda kind: list if kind is tuple else kind)
    return structure.build(iter(tensors_of(block, spec, rows)))


class RowWriter:
    """Places samples into the rows of one block, in order, from row `first` on.

    The caller reserves ``spec.layout(rows)[1]`` bytes before; `tensors` is `tensors_of` them.

    Attributes:
        group: how many samples to `write` at a time.
    """

    def __init__(self, spec: Spec, tensors: list[torch.Tensor], first: int) -> None:
        self._spec, self._tensors = spec, tensors
        self._next = first
        self.group = max(1, FLUSH_BYTES // max(1, spec.sample_bytes))

    def write(self, samples: Sequence[Any]) -> None:
        """Place the next samples.

        Raises:
            Irregular: if one is not as the spec says.
        """
        begin, end = self._next, self._next + len(samples)
        try:
            columns = columns_of(samples, self._spec.structure)
        except StructureMismatch:
            raise Irregular from None
        for leaves, column, tensor in zip(columns, self._spec.columns, self._tensors, strict=True):
            whole = begin == 0 and end == len(tensor)
            _place(leaves, column, tensor if whole else tensor[begin:end])
        self._next = end


def _place(leaves: Sequence[Any], column: Column, out: torch.Tensor) -> None:
    """Copy leaves into `out`, of shape (len(leaves), *column.shape)."""
    if set(map(type, leaves)) != {column.kind}:
        raise Irregular
    if column.kind is torch.Tensor:
        _place_tensors(leaves, column, out)
    elif column.kind is np.ndarray:
        _place_arrays(leaves, column, out.numpy())
    else:
        try:
            out.numpy()[...] = leaves
        except OverflowError:
            raise Irregular from None


def _place_tensors(leaves: Sequence[torch.Tensor], column: Column, out: torch.Tensor) -> None:
    first = leaves[0]
    if first.shape != column.shape or {leaf.dtype for leaf in leaves} != {column.dtype}:
        raise Irregular
    if len(leaves) == 1 and _is_plain(first):
        out[0].copy_(first)
        return
    try:
        torch.stack(leaves, out=out)  # type: ignore[arg-type]
    except RuntimeError:  # another shape, device or layout, or it requires a gradient
        raise Irregular from None


def _place_arrays(leaves: Sequence[Any], column: Column, out: Any) -> None:
    for leaf in leaves:
        if leaf.shape != column.shape or leaf.dtype != out.dtype:
            raise Irregular
    for row, leaf in zip(out, leaves, strict=True) if column.shape else ():
        row[...] = leaf
    if not column.shape:
        out[...] = leaves


class BlockWriter:
    """Packs one collated batch of any kind into a block that grows as needed.

    `reserve(nbytes)` returns the first `nbytes` of the block; what was written before stays there.
    Tensors that ``default_collate`` stacks while this writer is `stacking` are made in the block, so
    that packing need not copy them.
    """

    def __init__(self, reserve: Any) -> None:
        self._reserve = reserve
        self._end = 0
        self._placed: dict[int, tuple[int, int]] = {}

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor in the block."""
        numel = int(np.prod(shape, dtype=np.int64))
        start, block = self._take(numel * dtype.itemsize)
        tensor = tensor_in(block, start, dtype, shape, numel)
        self._placed[tensor.data_ptr()] = (start, numel * dtype.itemsize)
        return tensor

    def pack(self, batch: Any) -> tuple[int, int]:
        """Write `batch`; returns (start of the pickle, bytes of the block).

        Raises:
            BatchNotSendableError: if it holds something that can't be pickled.
            BatchTooLargeError: from `reserve`.
        """
        places: list[tuple[int, int]] = []
        stream = _dumps(batch, lambda buffer: places.append(self._place(buffer)))
        table = pickle.dumps((places, stream), protocol=5)
        start, block = self._take(len(table))
        block[start : start + len(table)] = np.frombuffer(table, np.uint8)
        return start, start + len(table)

    def _place(self, buffer: pickle.PickleBuffer) -> tuple[int, int]:
        data = np.frombuffer(buffer.raw(), np.uint8)
        address = data.__array_interface__["data"][0]
        if self._placed.get(address, (0, -1))[1] == data.nbytes:
            return self._placed[address]
        start, block = self._take(data.nbytes)
        block[start : start + data.nbytes] = data
        return start, data.nbytes

    def _take(self, nbytes: int) -> tuple[int, Bytes]:
        start, self._end = self._end, aligned(self._end + nbytes)
        return start, self._reserve(self._end)


def unpack(block: Bytes, start: int) -> Any:
    """The batch that `BlockWriter.pack` wrote; its tensors and arrays view `block` and keep it."""
    places, stream = pickle.loads(block[start:].tobytes())
    return pickle.loads(stream, buffers=[block[a : a + n] for a, n in places])


def _dumps(batch: Any, place: Any) -> bytes:
    """Pickle `batch` by reference to its classes, or, where that can't be, with them (cloudpickle)."""
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=5, buffer_callback=place).dump(batch)
    except BatchTooLargeError:
        raise
    except Exception as plain:
        try:
            return cloudpickle.dumps(batch)  # type: ignore[no-any-return]
        except Exception:
            raise BatchNotSendableError(type(batch).__name__, f"{plain}") from plain
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    """Leaves the bytes of plain tensors beside the pickle; numpy does so for its arrays by itself."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not torch.Tensor or not _is_plain(obj) or obj.is_conj() or obj.is_neg():
            return NotImplemented
        if obj.numel() == 0:
            return _empty_tensor, (obj.dtype, tuple(obj.shape))
        order = sorted(range(obj.dim()), key=obj.stride, reverse=True)
        dense = obj.permute(order)  # channels_last and the like stay as they are
        stride = obj.stride()
        if not dense.is_contiguous():
            dense = obj.contiguous()
            stride = dense.stride()
        raw: Any = dense.view(-1).view(torch.uint8).numpy()
        data = pickle.PickleBuffer(raw)
        return _rebuild_tensor, (data, obj.dtype, tuple(obj.shape), stride)


def _empty_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def _rebuild_tensor(
    data: Any, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]
) -> torch.Tensor:
    return torch.frombuffer(data, dtype=dtype).as_strided(shape, stride)


class stack_into:
    """While entered, ``default_collate`` stacks plain tensors in `writer`'s block.

    torch's own rule makes a file in /dev/shm for every tensor it stacks in a worker, which ends with a
    bus error where that is small. Not for several threads.
    """

    def __init__(self, writer: BlockWriter) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        self._replaced = default_collate_fn_map.get(torch.Tensor) is collate_tensor_fn
        if self._replaced:
            default_collate_fn_map[torch.Tensor] = self._stack

    def __exit__(self, *_: object) -> None:
        if self._replaced:
            default_collate_fn_map[torch.Tensor] = collate_tensor_fn

    def _stack(self, batch: Sequence[torch.Tensor], *, collate_fn_map: Any = None) -> torch.Tensor:
        elem = batch[0]
        regular = all(
            type(t) is torch.Tensor and t.dtype is elem.dtype and t.shape == elem.shape and _is_plain(t)
            for t in batch
        )
        if regular and elem.numel():
            out = self._writer.empty((len(batch), *elem.shape), elem.dtype)
            return torch.stack(list(batch), out=out)
        return _stack_privately(batch, collate_fn_map)


def _stack_privately(batch: Sequence[torch.Tensor], collate_fn_map: Any) -> torch.Tensor:
    """torch's own rule, with its errors, without its shared memory."""
    worker = torch.utils.data._utils.worker
    info, worker._worker_info = worker._worker_info, None
    try:
        return collate_tensor_fn(batch, collate_fn_map=collate_fn_map)  # type: ignore[no-any-return]
    finally:
        worker._worker_info = info
