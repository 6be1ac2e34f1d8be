"""Which datasets are known to draw nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset, default_collate

from penstock.fetch import Recipe
from penstock.seeding import draws_nothing


class Unknown(Dataset):
    def __getitem__(self, index):
        return torch.rand(1)

    def __len__(self):
        return 4


class MyTensors(TensorDataset):
    pass


class MyList(list):
    pass


TENSORS = TensorDataset(torch.arange(4))


@pytest.mark.parametrize(
    "dataset",
    [
        TENSORS,
        Subset(TENSORS, [1, 0]),
        ConcatDataset([TENSORS, Subset(TENSORS, [0])]),
        StackDataset(TENSORS, [1, 2, 3, 4]),
        StackDataset(x=TENSORS, y=torch.arange(4)),
        [1, 2],
        (1, 2),
        range(5),
        np.arange(3),
        torch.arange(3),
    ],
    ids=lambda dataset: type(dataset).__name__,
)
def test_torchs_own_over_what_lies_in_memory_draw_nothing(dataset):
    assert draws_nothing(dataset)


@pytest.mark.parametrize(
    "dataset",
    [
        Unknown(),
        MyTensors(torch.arange(4)),
        MyList([1]),
        Subset(Unknown(), [0]),
        ConcatDataset([TENSORS, Unknown()]),
        StackDataset(TENSORS, Unknown()),
        StackDataset(x=TENSORS, y=Unknown()),
    ],
    ids=lambda dataset: type(dataset).__name__,
)
def test_of_anything_else_nothing_is_known(dataset):
    assert not draws_nothing(dataset)


def test_a_collate_function_of_the_users_may_draw():
    assert not Recipe(TENSORS, default_collate, batched=True).seeded
    assert Recipe(TENSORS, lambda samples: samples, batched=True).seeded
