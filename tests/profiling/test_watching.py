"""The iterator that a profiled loop gets, and how many samples it takes a batch to hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

import penstock
from penstock.profiling.measure import watch_of
from penstock.profiling.watching import Limits, Watch, samples_in
from penstock.stats import task_observers

IMAGES = TensorDataset(torch.zeros(10, 3, 8, 8), torch.arange(10))
LOADERS = [DataLoader, penstock.DataLoader]


def counted(loader: Any) -> list[int]:
    return [samples_in(batch, loader) for batch in loader]


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize(
    "collate",
    [
        None,
        lambda samples: samples,
        lambda samples: tuple(zip(*samples, strict=True)),
        lambda samples: [torch.cat([image.flatten() for image, _ in samples]), len(samples)],
        lambda samples: {"images": torch.stack([image for image, _ in samples])},
        str,
    ],
    ids=["torch's", "a list", "zipped", "joined", "a dict", "opaque"],
)
def test_the_collation_does_not_matter(make: Callable[..., Any], collate: Any) -> None:
    assert counted(make(IMAGES, batch_size=5, collate_fn=collate)) == [5, 5]


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize("collate", [None, lambda samples: samples], ids=["torch's", "a list"])
def test_the_last_batch_is_shorter(make: Callable[..., Any], collate: Any) -> None:
    assert counted(make(IMAGES, batch_size=4, collate_fn=collate)) == [4, 4, 2]
    batches = BatchSampler(SequentialSampler(range(10)), 4, drop_last=False)
    assert counted(make(IMAGES, batch_sampler=batches, collate_fn=collate)) == [4, 4, 2]


@pytest.mark.parametrize("make", LOADERS)
def test_the_datasets_own_batches_count_as_one(make: Callable[..., Any]) -> None:
    assert counted(make(torch.zeros(3, 7), batch_size=None)) == [1, 1, 1]


@pytest.mark.parametrize("make", LOADERS)
def test_strings_are_counted(make: Callable[..., Any]) -> None:
    assert counted(make([("a", "b")] * 6, batch_size=4)) == [4, 2]


def ignore(_: Watch) -> None:
    """Neither shown nor ended."""


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize("taken", [1, 5])
def test_a_loop_that_leaves_its_epochs_gets_batches_until_it_is_over(
    make: Callable[..., Any], taken: int
) -> None:
    loader = make(IMAGES, batch_size=1)
    watch = watch_of(loader, Limits(4, 1000), True, ignore)
    for _ in range(20):
        for number, batch in enumerate(watch.iterate(lambda: iter(loader), ignore), 1):
            assert batch[0].shape == (1, 3, 8, 8)
            if number == taken:
                break
    assert watch.over


def test_what_is_done_at_the_end_of_an_epoch_is_not_of_the_loop() -> None:
    loader, listening = penstock.DataLoader(IMAGES), []
    watch = watch_of(loader, Limits(None, 1000), True, ignore)
    for _ in watch.iterate(lambda: iter(loader), lambda _: listening.extend(task_observers)):
        pass
    assert watch.iterating is False
    assert listening == []
