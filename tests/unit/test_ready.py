"""Rows that lie in memory: a gather of any of them is what torch gathers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.collate import ReadyColumn, ReadyRows, Scratch, spec_of
from penstock.collate.ready import ALONE_BYTES

DTYPES = [torch.uint8, torch.bool, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.float32]
DTYPES += [torch.int64, torch.uint64, torch.float64, torch.complex64, torch.complex128]


def column_of(shape: tuple[int, ...], dtype: torch.dtype, rows: int = 50) -> torch.Tensor:
    return (torch.arange(rows * torch.Size(shape).numel()) % 251).reshape(rows, *shape).to(dtype)


def gathered(column: torch.Tensor, rows: list[int], sizes: list[int]) -> list[torch.Tensor]:
    return [batch.clone() for batch in ready(column, rows).batches(sizes, Scratch())]


def ready(column: torch.Tensor, rows: list[int]) -> ReadyRows:
    return ReadyRows(spec_of(column[0].clone()), [ReadyColumn(column)], np.array(rows, np.int64))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (0,)], ids=str)
def test_any_dtype_and_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    column = column_of(shape, dtype)
    rows = [49, 0, 7, 7, 12]
    first, second = gathered(column, rows, [3, 2])
    assert first.dtype == second.dtype == dtype
    expected = torch.stack([column[row] for row in rows])
    assert torch.equal(torch.cat([first, second]), expected)


@pytest.mark.parametrize("sizes", [[2, 1, 2], [2, 2, 1], [1, 2, 2], [5]], ids=str)
def test_batches_of_any_sizes(sizes: list[int]) -> None:
    column, rows = column_of((3,), torch.float32), [49, 0, 7, 7, 12]
    batches = gathered(column, rows, sizes)
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), column[rows])


def test_more_than_one_thread_gathers() -> None:
    column = column_of((ALONE_BYTES // 4,), torch.float32, rows=3)
    (batch,) = gathered(column, [2, 0], [2])
    assert torch.equal(batch, column[[2, 0]])


def test_columns_that_do_not_lie_together() -> None:
    column = column_of((3, 4), torch.float32).transpose(1, 2)
    (batch,) = gathered(column, [5, 1], [2])
    assert torch.equal(batch, column[[5, 1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [[2, 2], [1, 3]], ids=str)
def test_a_batch_holds_the_memory_that_it_stands_in(sizes: list[int], dtype: torch.dtype) -> None:
    column, scratch = column_of((100,), dtype), Scratch()
    *_, kept = ready(column, [1, 2, 3, 4]).batches(sizes, scratch)
    kept = kept[-1:].view(-1)[10:]
    for _ in range(3):
        list(ready(column, [9, 9, 9, 9]).batches(sizes, scratch))
    assert torch.equal(kept, column[4, 10:])


@pytest.mark.parametrize("sample", [(), {}, {"a": ()}], ids=str)
def test_samples_without_a_leaf(sample: object) -> None:
    spec = spec_of(sample)
    rows = ReadyRows(spec, [], np.arange(5))
    assert list(rows.batches([2, 2, 1], Scratch())) == [torch.utils.data.default_collate([sample])] * 3
