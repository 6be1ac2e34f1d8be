"""`penstock.monitor`: figures for a callback, by a clock that the test sets."""

from __future__ import annotations

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
    assert [(reading.batches, reading.samples_per_s) for reading in readings] == [(4, 20.0), (8, 20.0)]
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


def test_every_has_to_be_a_number_of_batches() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        monitor(penstock.DataLoader(DATA), print, every=0)


def test_it_takes_our_loaders_only() -> None:
    with pytest.raises(TypeError, match=r"takes a penstock.DataLoader.*penstock\.upgrade"):
        monitor(torch.utils.data.DataLoader(DATA), print)  # type: ignore[arg-type]


def test_tensorboard_gets_one_step_for_each_reading() -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def add_scalar(self, *arguments: object) -> None:
            written.append(arguments)  # type: ignore[arg-type]

    write = to_tensorboard(Writer())
    for stall in (0.25, 0.5):
        write(Reading(10, 100.0, stall, 3))
    assert written[:3] == [
        ("loading/samples_per_s", 100.0, 1),
        ("loading/stall", 0.25, 1),
        ("loading/slots_in_use", 3, 1),
    ]
    assert written[4] == ("loading/stall", 0.5, 2)
