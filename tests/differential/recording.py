"""Runs a setting with one DataLoader class, and writes down all that the caller of the loader sees."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from tests.differential.sources import Mapped, MapSource, Order, StreamSource
from tests.equality import difference

MOST_BATCHES = 30
"""Of one epoch, as samplers may be endless."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a loader is made of and what is done with it.

    Attributes:
        arguments: to the constructor; an `Order` stands for a sampler that is made of it, and an `int` as
            ``generator`` for one that is seeded so.
        steps: the names of functions in `STEPS`, in order.
    """

    source: MapSource | StreamSource
    arguments: dict[str, Any]
    steps: tuple[str, ...]
    seed: int

    def made_arguments(self) -> dict[str, Any]:
        made = {name: v.make() if isinstance(v, Order) else v for name, v in self.arguments.items()}
        if isinstance(made.get("generator"), int):
            made["generator"] = torch.Generator().manual_seed(made["generator"])
        return made

    def changed(self, **arguments: Any) -> Setting:
        return dataclasses.replace(self, arguments={**self.arguments, **arguments})

    def without(self, *names: str) -> Setting:
        kept = {name: value for name, value in self.arguments.items() if name not in names}
        return dataclasses.replace(self, arguments=kept)


@dataclasses.dataclass(frozen=True)
class Event:
    """One thing that the caller saw: ``what`` it was, and its value."""

    what: str
    value: Any = None

    def unlike(self, other: Event) -> str | None:
        if self.what != other.what:
            return f"{self} instead of {other}"
        return difference(self.value, other.value, self.what)


@dataclasses.dataclass(frozen=True)
class Raised:
    """An exception: its type, and what it says without what no two runs have in common."""

    kind: type[BaseException]
    text: str


class Recorder:
    """Makes one loader and takes the steps, writing down each event."""

    def __init__(self, loader_class: Any, setting: Setting) -> None:
        self.events: list[Event] = []
        self._class, self._setting = loader_class, setting
        self.loader: Any = None

    def run(self) -> list[Event]:
        torch.default_generator.manual_seed(self._setting.seed)  # `torch.manual_seed` takes 3 ms
        random.seed(self._setting.seed)
        np.random.seed(self._setting.seed)
        dataset = self._setting.source.make()
        arguments = self._setting.made_arguments()
        self.loader = self.watched("loader", lambda: self._class(dataset, **arguments), keep=False)
        if self.loader is not None:
            self._note("attributes", attributes(self.loader))
            for step in self._setting.steps:
                STEPS[step](self)
        if arguments.get("num_workers", 0) == 0:
            self._note("asked", getattr(dataset, "asked", None))
        self._note("generator", torch.rand(1))
        if isinstance(arguments.get("generator"), torch.Generator):
            self._note("own generator", torch.rand(1, generator=arguments["generator"]))
        self.loader = None
        return self.events

    def watched(self, what: str, call: Callable[[], Any], keep: bool = True) -> Any:
        """Write down what `call` returns (with `keep`), warns of and raises; returns what it returns."""
        result = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = call()
                self._note(what, result if keep else None)
            except StopIteration:
                self._note(f"{what}: end")
            except Exception as error:
                self._note(f"{what}: raised", Raised(type(error), plain(str(error))))
        for warning in caught:
            self._note("warning", (warning.category, plain(str(warning.message))))
        return result

    def _note(self, what: str, value: Any = None) -> None:
        self.events.append(Event(what, value))

    # -- what may be done with a loader ----------------------------------------------------------

    def epoch(self, most: int = MOST_BATCHES) -> None:
        """One epoch by ``next()``: an exception from one batch isn't the end."""
        iterator = self.watched("iter", lambda: iter(self.loader), keep=False)
        if iterator is not None:
            self._draw(iterator, most)

    def _draw(self, iterator: Iterator[Any], most: int) -> None:
        for _ in range(most):
            self.watched("batch", lambda: next(iterator))
            if any(event.what == "batch: end" for event in self.events[-2:]):
                return

    def loop(self) -> None:
        """One epoch by ``for``, ended by the first exception."""
        self.watched("loop", lambda: list(itertools.islice(self.loader, MOST_BATCHES)))

    def length(self) -> None:
        self.watched("length", lambda: len(self.loader))

    def two_at_once(self) -> None:
        """An iterator inside another one."""
        outer = self.watched("iter", lambda: iter(self.loader), keep=False)
        if outer is not None:
            self._draw(outer, 1)
            self.epoch(3)
            self._draw(outer, 3)

    def length_of_iterator(self) -> None:
        self.watched("length", lambda: len(iter(self.loader)))

    def grow(self) -> None:
        """The dataset is changed between two epochs."""
        dataset = self.loader.dataset
        if isinstance(dataset, Mapped):
            dataset.size += 2
        elif isinstance(dataset, list) and dataset:
            dataset.append(dataset[0])

    def assign(self) -> None:
        """Set what may be set after construction, and what may not."""
        for name in ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"):
            self.watched(name, lambda name=name: setattr(self.loader, name, None))
        for name, value in {"timeout": 0, "pin_memory": False, "generator": None, "own": 1}.items():
            self.watched(name, lambda name=name, value=value: setattr(self.loader, name, value))


STEPS: dict[str, Callable[[Recorder], None]] = {
    "epoch": Recorder.epoch,
    "left early": lambda recorder: recorder.epoch(2),
    "whole": lambda recorder: recorder.epoch(10_000),
    "loop": Recorder.loop,
    "length": Recorder.length,
    "two at once": Recorder.two_at_once,
    "length of an iterator": Recorder.length_of_iterator,
    "grow": Recorder.grow,
    "assign": Recorder.assign,
}


def record(loader_class: Any, setting: Setting) -> list[Event]:
    """All that is seen of one loader."""
    torch.set_warn_always(True)  # what torch warns of once in a process would come to the first one alone
    try:
        return Recorder(loader_class, setting).run()
    finally:
        torch.set_warn_always(False)


_CHANGING = re.compile(r"0x[0-9a-f]+|\bpid \d+")


def plain(text: str) -> str:
    """A message without addresses and process ids."""
    return _CHANGING.sub("…", text)


KEPT = (
    *("batch_size", "num_workers", "pin_memory", "drop_last", "timeout", "worker_init_fn", "prefetch_factor"),
    *("persistent_workers", "pin_memory_device", "in_order", "collate_fn", "_auto_collation"),
)


def attributes(loader: Any) -> dict[str, Any]:
    """What a framework reads off a loader to make another of it."""
    kinds = ("sampler", "batch_sampler", "dataset", "generator", "multiprocessing_context")
    return {
        **{name: getattr(loader, name) for name in KEPT},
        **{name: type(getattr(loader, name)) for name in kinds if name != "dataset"},
        "inner sampler": type(getattr(loader.batch_sampler, "sampler", None)),
    }
