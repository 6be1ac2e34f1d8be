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
    """One epoch of `loader`, batch by batch, with a `Reading` for `callback` after every so many of them.

    The callback runs in the loop's own thread, between two batches; what it raises ends the epoch.

    Raises:
        TypeError: if `loader` is no penstock.DataLoader.
        ValueError: if `every` is less than 1.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"monitor() takes a penstock.DataLoader, not {type(loader).__name__}: "
            "penstock.upgrade(loader) makes one of torch's"
        )
    if every < 1:
        raise ValueError(f"every should be 1 or more, got {every}")
    return _epoch(loader, callback, every, clock)


def _epoch(
    loader: DataLoader[Any], callback: Callable[[Reading], object], every: int, clock: Clock
) -> Iterator[Any]:
    since, samples, waited = clock(), 0, 0.0
    for number, batch in enumerate(loader, 1):
        yield batch
        del batch
        if number % every:
            continue
        stats, now = loader.stats(), clock()
        took = max(now - since, 1e-9)
        callback(
            Reading(
                stats.batches,
                (stats.samples - samples) / took,
                min(1.0, (stats.wait_s - waited) / took),
                stats.slots_in_use,
            )
        )
        since, samples, waited = now, stats.samples, stats.wait_s


def to_tensorboard(writer: Any, prefix: str = "loading") -> Callable[[Reading], None]:
    """A callback for `monitor` that writes to a ``torch.utils.tensorboard.SummaryWriter``, step by step."""
    steps = 0

    def write(reading: Reading) -> None:
        nonlocal steps
        steps += 1
        for name in ("samples_per_s", "stall", "slots_in_use"):
            writer.add_scalar(f"{prefix}/{name}", getattr(reading, name), steps)

    return write
