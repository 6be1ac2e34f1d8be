"""`penstock.monitor`: figures for a callback, by a clock that the test sets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import penstock
from penstock.profiling.monitoring import Reading, monitor, to_tensorboard

DATA = TensorDataset(torch.arange(100))


def test_every_so_many_batches_there_is_a_reading() -> None:
    readings: list[Reading] = []
    ticks = iter(range(0, 100, 2))
    loader = penstock.DataLoader(DATA, batch_size=10)
    batches = list(monitor(loader, readings.append, every=4, clock=lambda: float(next(ticks))))
    assert len(batches) == 10
    told = [(reading.batches, reading.samples_per_s) for reading in readings]
    assert told == [(4, 20.0), (8, 20.0), (10, 10.0)]
    assert all(0 <= reading.stall <= 1 for reading in readings)


def test_it_tells_of_the_queue() -> None:
    readings: list[Reading] = []
    with penstock.DataLoader(DATA, batch_size=10, num_workers=1) as loader:
        for _ in monitor(loader, readings.append, every=2):
            pass
    assert readings[0].slots_in_use >= 1


def test_what_the_callback_raises_ends_the_epoch() -> None:
    def stop(_: Reading) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(monitor(penstock.DataLoader(DATA, batch_size=10), stop, every=3))


@pytest.mark.parametrize("wrong", [{"every": "a"}, {"every": 1.5}, {"every": None}, {"callback": 3}])
def test_what_is_no_number_or_function_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="a function and a whole number"):
        monitor(penstock.DataLoader(DATA), **{"callback": print, **wrong})


def test_every_has_to_be_a_number_of_batches() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        monitor(penstock.DataLoader(DATA), print, every=0)


def test_it_takes_our_loaders_only() -> None:
    with pytest.raises(TypeError, match=r"takes a penstock.DataLoader.*penstock\.upgrade"):
        monitor(torch.utils.data.DataLoader(DATA), print)  # type: ignore[arg-type]


def test_the_steps_of_tensorboard_are_the_batches_of_all_epochs() -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def add_scalar(self, *arguments: object) -> None:
            written.append(arguments)  # type: ignore[arg-type]

    write = to_tensorboard(Writer(), global_step=1000)
    for batches, stall in ((10, 0.25), (15, 0.5), (10, 0.1), (15, 0.2), (15, 0.3)):
        write(Reading(batches, 100.0, stall, 3))
    assert written[:3] == [
        ("loading/samples_per_s", 100.0, 1010),
        ("loading/stall", 0.25, 1010),
        ("loading/slots_in_use", 3, 1010),
    ]
    assert [step for _, _, step in written[::3]] == [1010, 1015, 1025, 1030, 1045]
