"""`penstock.monitor`: a loader's figures while a training runs, for a callback or for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from penstock.loader import DataLoader

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Reading:
    """Of the batches since the last reading."""

    batches: int
    """Handed over in this epoch up to now."""
    samples_per_s: float
    stall: float
    """The share of the time that the loop waited."""
    slots_in_use: int
    """Slots of shared memory that hold a batch in the making, ready or with the loop: the queue's depth."""


def monitor(
    loader: DataLoader[Any],
    callback: Callable[[Reading], object],
    every: int = 50,
    clock: Clock = time.perf_counter,
) -> Iterator[Any]:
    """One epoch of `loader`, batch by batch, with a `Reading` for `callback` after every so many of them, and
    of those that are left at its end.

    The callback runs in the loop's own thread, between two batches; what it raises ends the epoch.

    Raises:
        TypeError: if `loader` is no penstock.DataLoader, `callback` no function or `every` no whole number.
        ValueError: if `every` is less than 1.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"monitor() takes a penstock.DataLoader, not {type(loader).__name__}: "
            "penstock.upgrade(loader) makes one of torch's"
        )
    if not callable(callback) or not hasattr(every, "__index__"):
        raise TypeError(f"monitor() takes a function and a whole number, but got {callback!r} and {every=}")
    if every < 1:
        raise ValueError(f"every should be 1 or more, got {every}")
    return _epoch(loader, callback, every, clock)


def _epoch(
    loader: DataLoader[Any], callback: Callable[[Reading], object], every: int, clock: Clock
) -> Iterator[Any]:
    since, samples, waited = clock(), 0, 0.0
    number = 0

    def tell() -> None:
        nonlocal since, samples, waited
        stats, now = loader.stats(), clock()
        took = max(now - since, 1e-9)
        rate, stall = (stats.samples - samples) / took, min(1.0, (stats.wait_s - waited) / took)
        since, samples, waited = now, stats.samples, stats.wait_s
        callback(Reading(stats.batches, rate, stall, stats.slots_in_use))

    for batch in loader:
        number += 1
        yield batch
        del batch
        if number % every == 0:
            tell()
    if number % every:
        tell()


def to_tensorboard(writer: Any, prefix: str = "loading", global_step: int = 0) -> Callable[[Reading], None]:
    """A callback for `monitor`, one for all epochs, that writes to a
    ``torch.utils.tensorboard.SummaryWriter``.

    A figure's step is the number of batches that the loop was given up to then, over all epochs, and of
    `global_step` before: the steps of a loop that takes one for each batch.
    """
    before, latest = global_step, 0

    def write(reading: Reading) -> None:
        nonlocal before, latest
        if reading.batches <= latest:  # another epoch
            before += latest
        latest = reading.batches
        for name in ("samples_per_s", "stall", "slots_in_use"):
            writer.add_scalar(f"{prefix}/{name}", getattr(reading, name), before + latest)

    return write
