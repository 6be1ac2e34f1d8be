"""What a profile measured: frozen, plain, and the same after a round trip through JSON.

Times are in seconds, sizes in bytes, shares between 0 and 1.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

VERSION = 1
"""Of the form of the data: a file of another is refused."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """The loader as it ran."""

    loader: str
    """"penstock" or "torch"."""
    dataset: str
    """The class's name."""
    num_workers: int
    batch_size: int | None = None
    prefetch_factor: int | None = None
    persistent_workers: bool = False
    iterable: bool = False
    epoch_batches: int | None = None
    """Batches of an epoch, where that is known."""
    dataset_size: int | None = None
    has_step: bool = True
    """False where nothing is done with the batches on purpose."""
    where: str = ""
    """The file and line of the loop, where a script was profiled."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What it ran on."""

    cores: int
    """CPUs that this process may use."""
    memory_bytes: int = 0
    """What was free at the start."""
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Loop:
    """The training loop, as it really ran; all but the first batch of each epoch."""

    batches: int
    samples: int
    waits: tuple[float, ...]
    """What each batch was waited for."""
    steps: tuple[float, ...]
    """What the loop did with each."""
    first_batch_s: float
    """From ``iter()`` to the first batch."""
    epoch_gap_s: float | None = None
    """From the end of one epoch's last step to the first batch of the next."""
    epochs: int = 1
    wait_cpu_s: float = 0.0
    """CPU time of the loop's thread for each batch while it waited."""
    step_cpu_s: float = 0.0
    """CPU time of the process for each step."""

    @property
    def waited_s(self) -> float:
        return sum(self.waits)

    @property
    def stepped_s(self) -> float:
        return sum(self.steps)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The loop with one batch handed over again and again: what it can do when data is free."""

    batches: int
    batch_s: float
    cpu_s: float
    """CPU time of the process for each batch."""
    copy_s: float | None = None
    """In which such a batch is copied to the accelerator; None where none is in use."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of ``dataset[i]``; means for a sample."""

    name: str
    kind: str
    """"reading", "decoding", "transform" or "other"."""
    wall_s: float
    cpu_s: float
    nbytes: int | None = None
    """Size of what it gives."""
    deterministic: bool | None = None
    """Whether it gives the same under another seed; None where that wasn't found out."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of user code, and its share of the time of ``dataset[i]``."""

    where: str
    function: str
    share: float
    waiting: bool = False
    """Whether it mostly waited there instead of computing."""


@dataclass(frozen=True, slots=True)
class SlowSample:
    index: str
    seconds: float
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """What one sample costs, alone in one process; means."""

    measured: int
    wall_s: float
    cpu_s: float
    """Of the thread that made it."""
    other_cpu_s: float = 0.0
    """Of other threads of its process."""
    unscheduled_s: float = 0.0
    """Ready to run, but every core was taken."""
    waits: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds it stood still, by what for: "files", "network", "lock", "interpreter", "sleep", "other".

    "interpreter" is the interpreter lock, which another thread of the same process had."""
    contended_lock: float = 0.0
    """The share of two workers' time that went by waiting for a lock, beyond that of one alone."""
    p50_s: float = 0.0
    p99_s: float = 0.0
    max_s: float = 0.0
    top_share: float = 0.0
    """The slowest two in a hundred samples' share of all time."""
    nbytes: int = 0
    dtype: str | None = None
    """Of most of its bytes."""
    collate_s: float = 0.0
    """Collating, for each sample."""
    copy_bytes_per_s: float = 2e9
    """At which as many bytes as its largest part has are copied in memory: what reading a cache takes."""
    deterministic: bool | None = None
    parts: tuple[Part, ...] = ()
    lines: tuple[Line, ...] = ()
    slowest: tuple[SlowSample, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """The loader alone, with nothing done with its batches, for a number of workers."""

    workers: int
    samples_per_s: float
    spread: float
    """Relative standard error of that."""
    batch_size: int
    first_batch_s: float
    cpu_s: float
    """CPU time of all workers for each sample."""
    main_cpu_s: float
    """CPU time of the loop's thread for each batch: the hand-off."""
    idle: float
    """Share of the machine's CPU time that nobody used meanwhile."""
    foreign: float = 0.0
    """Share of it that other programs used."""
    worker_bytes: int = 0
    """Memory of its own of each worker."""
    growth_bytes: float = 0.0
    """By which a worker's memory grew with each sample that it made."""
    loader: str = "penstock"


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took a while: for the time line."""

    lane: str
    """"loop" or "worker 3"."""
    name: str
    start_s: float
    """Since the profile began."""
    length_s: float


@dataclass(frozen=True, slots=True)
class Level:
    """How many slots of shared memory were in use."""

    at_s: float
    slots: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """All of it."""

    setting: Setting
    machine: Machine
    loop: Loop
    ceiling: Ceiling | None = None
    samples: Samples | None = None
    trials: tuple[Trial, ...] = ()
    spans: tuple[Span, ...] = ()
    levels: tuple[Level, ...] = ()
    problems: tuple[str, ...] = ()
    """What couldn't be measured, and why."""
    version: int = VERSION


def to_plain(thing: Any) -> Any:
    """As JSON takes it: dicts, lists, numbers, strings."""
    if dataclasses.is_dataclass(thing):
        return {f.name: to_plain(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
    if isinstance(thing, tuple | list):
        return [to_plain(each) for each in thing]
    if isinstance(thing, dict):
        return {str(key): to_plain(value) for key, value in thing.items()}
    return thing


def from_plain(cls: type[T], plain: Any) -> T:
    """The other way.

    Raises:
        ValueError: if it isn't such data.
    """
    try:
        made: T = _build(cls, plain)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"this is no {cls.__name__}: {error}") from error
    return made


def _build(hint: Any, plain: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if plain is None else _build(next(a for a in arguments if a is not type(None)), plain)
    if origin is tuple:
        return tuple(_build(arguments[0], each) for each in plain)
    if origin is dict:
        return {key: _build(arguments[1], value) for key, value in plain.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = _hints(hint)
        return hint(**{name: _build(hints[name], value) for name, value in plain.items()})
    if hint is float and isinstance(plain, int):
        return float(plain)
    if not isinstance(plain, hint):
        raise TypeError(f"{plain!r} should be {hint.__name__}")
    return plain


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)
