"""Which datasets are known to draw nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset, default_collate

from penstock.fetch import Recipe
from penstock.seeding import draws_nothing


class Held(Dataset):
    """As people write what they hold in memory."""

    scale = 2.0

    def __init__(self, **more):
        self.x, self.labels, self.transform = np.ones((4, 3)), ["a", "b"], None
        vars(self).update(more)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(f"{index} is past the end")
        x = torch.tensor(self.x[index].copy(), dtype=torch.float32) * self.scale
        if self.transform is not None:
            x = self.transform(x)
        return {"x": x, "label": self.labels[index % 2], "all": [float(v) for v in self.x[index]]}

    def __len__(self):
        return len(self.x)


class Odd:
    def copy(self):
        return random.random()


class Called(Held):
    def __getitem__(self, index):
        return self.helper(index)

    def helper(self, index):
        return index + random.random()


class OddLength(Held):
    def __len__(self):
        return random.randrange(1, 4)


class AnyName(Held):
    def __getattr__(self, name):
        return random.random()


class WithProperty(Held):
    @property
    def x(self):
        return np.random.rand(4, 3)

    @x.setter
    def x(self, value):
        pass


class OddTensor(torch.Tensor):
    pass


class Many(Held):
    def __getitems__(self, indices):
        return [torch.rand(1) for _ in indices]


def code_of(expression, **scope):
    """A dataset whose samples are given by `expression`."""
    names = {"torch": torch, "np": np, "random": random, "odd": Odd(), **scope}
    exec(f"def get(self, index): return {expression}", names)
    return type("Given", (Held,), {"__getitem__": names["get"]})()


class Unknown(Dataset):
    def __getitem__(self, index):
        return torch.rand(1)

    def __len__(self):
        return 4


class MyTensors(TensorDataset):
    def __getitem__(self, index):
        return super().__getitem__(index)


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
        Held(),
        Subset(Held(), [1]),
        code_of("torch.from_numpy(self.x[index]), np.asarray(self.x, dtype=np.float32).sum()"),
        code_of("x[index]", x=[torch.zeros(1)]),
    ],
    ids=lambda dataset: type(dataset).__name__,
)
def test_what_only_looks_up_what_lies_in_memory_draws_nothing(dataset):
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
        Held(transform=Odd()),
        Held(labels=[Odd()]),
        Held(labels={"a": Odd()}),
        Held(x=np.array([Odd()], dtype=object)),
        Held(x=torch.ones(4, 3).as_subclass(OddTensor)),
        Held(scale=Odd()),
        Held(x=[1] * 200_000),
        Called(),
        OddLength(),
        AnyName(),
        WithProperty(),
        Many(),
        code_of("torch.rand(1)"),
        code_of("self.x[index] + random.random()"),
        code_of("np.random.rand()"),
        code_of("torch.tensor(self.x).normal_()"),
        code_of("torch.initial_seed()"),
        code_of("getattr(torch, 'rand')(1)"),
        code_of("odd.copy()"),
        code_of("type(self)().x"),
        code_of("__import__('random').random()"),
        code_of("len(index)", len=lambda _: random.random()),
        code_of("[torch.randn(1) for _ in range(2)]"),
    ],
    ids=lambda dataset: type(dataset).__name__,
)
def test_of_anything_else_nothing_is_known(dataset):
    assert not draws_nothing(dataset)


def test_what_an_inner_function_or_a_default_brings_in_counts():
    rng = random.Random(0)

    class Enclosing(Held):
        def __getitem__(self, index):
            return rng.random()

    class Default(Held):
        def __getitem__(self, index, rng=rng):
            return rng.copy()

    assert not draws_nothing(Enclosing())
    assert not draws_nothing(Default())


def test_a_collate_function_of_the_users_may_draw():
    assert not Recipe(TENSORS, default_collate, batched=True).seeded
    assert Recipe(TENSORS, lambda samples: samples, batched=True).seeded
