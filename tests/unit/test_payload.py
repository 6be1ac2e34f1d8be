"""A job on its way to another process: what comes out is what went in, and large memory isn't copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from penstock.backends.processes import payload
from tests.datasets import equal

LARGE = payload._LARGE


@pytest.fixture
def fd() -> Iterator[int]:
    file = os.memfd_create("a-test")
    yield file
    os.close(file)


def through(fd: int, value: object) -> Any:
    payload._write(fd, payload._serialised(value))
    return payload._read(fd)


@pytest.mark.parametrize("count", [0, 3, LARGE])
def test_arrays_and_tensors_of_all_sizes(fd: int, count: int) -> None:
    sent = {
        "tensor": torch.arange(count),
        "bfloat16": torch.arange(count).to(torch.bfloat16),
        "array": np.arange(count, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(2 * count).reshape(2, count)),
        "bytes": bytes(count),
    }
    assert equal(through(fd, sent), sent)


def test_functions_come_by_value(fd: int) -> None:
    large = torch.arange(LARGE)
    assert through(fd, lambda: large.sum() + 1)() == large.sum() + 1


def test_views_share_memory_still(fd: int) -> None:
    whole = torch.arange(LARGE)
    found = through(
        fd, SimpleNamespace(whole=whole, odd=whole[1::2], parameter=torch.nn.Parameter(whole * 1.0))
    )
    found.whole[1] = -1
    assert found.odd[0] == -1
    assert found.parameter.requires_grad
    assert whole[1] == 1


def test_what_is_written_to_is_private(fd: int) -> None:
    payload._write(fd, payload._serialised([np.zeros(LARGE), torch.zeros(LARGE)]))
    for _ in range(2):
        for each in payload._read(fd):
            assert each[0] == 0
            each[0] = 1


def test_large_memory_is_not_in_the_pickle() -> None:
    pickled, *large = payload._serialised([np.zeros(LARGE, np.uint8), torch.zeros(LARGE, dtype=torch.uint8)])
    assert [len(part) for part in large] == [LARGE, LARGE]
    assert len(pickled) < 2000
