"""Measures samples where workers make them: a dataset whose samples are measurements of another's.

It is loaded by a `penstock.DataLoader` of its own with one worker, or two, so that ``dataset[i]`` never runs
in the training process, and runs as always: after ``worker_init_fn``, under seeds and ``get_worker_info()``.
"""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils import worker as torch_worker

from penstock.bad import path_of
from penstock.collate import Scratch, stack_into
from penstock.errors import NotRepeatableError
from penstock.fetch import batched_getter
from penstock.pipeline import study
from penstock.profiling.alone import Source, run_trial
from penstock.profiling.copying import copy_rate
from penstock.profiling.data import Part, Trial
from penstock.profiling.lines import LineSampler, Seen
from penstock.profiling.parts import Stopwatch, dtype_of, size_of, split, time_libraries

COSTS, PARTS, LINES, STEADY, INLINE = "costs", "parts", "lines", "steady", "inline"
CHEAP_S = 0.0003
"""A sample that takes less is measured together with others."""
SHOWN = 10
"""Of how many of the slowest samples the paths are told."""
SLOW = 3
"""So many times the median is slow enough to be looked at again."""
AT_ONCE = 16
"""How many samples are asked for at once, where the dataset does that, and how many are collated."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure, on which samples, for how long at most."""

    what: str
    indices: tuple[Any, ...]
    seconds: float
    sample_s: float = 0.0
    """What one is known to take."""


@dataclass(slots=True)
class Cost:
    """Of one sample, or in the mean of one of a batch that the dataset makes at once."""

    index: Any
    wall: float
    cpu: float
    other_cpu: float
    unscheduled: float
    path: str | None = None


@dataclass(slots=True)
class Answer:
    """What came of a task."""

    costs: list[Cost] = field(default_factory=list)
    parts: tuple[Part, ...] = ()
    seen: Seen | None = None
    wall: float = 0.0
    together: tuple[float, float] | None = None
    nbytes: int = 0
    dtype: str | None = None
    collate_s: float = 0.0
    copy_rate: float | None = None
    steady: tuple[str, ...] | None = None
    """The names of the transforms' steps that are the same every time; None if that wasn't found out."""
    whole: bool = False
    """Whether samples as a whole are."""
    begins: bool = False
    """Whether what comes before the transforms is."""
    trial: Trial | None = None
    problem: str | None = None


class Probe(Dataset[Answer]):
    """``probe[task]`` measures; errors of user code come back as `Answer.problem`."""

    def __init__(self, source: Source) -> None:
        left = {"multiprocessing_context", "generator"}  # neither is of use here, nor can be sent
        options = {name: value for name, value in source.options.items() if name not in left}
        self._source, self.dataset = replace(source, options=options), source.dataset
        self._collate, self._iterable = source.options["collate_fn"], source.iterable
        self._batched = source.batch_size is not None

    def __len__(self) -> int:
        return 1

    def __getitem__(self, task: Task) -> Answer:
        answer = Answer()
        ways = {
            COSTS: self._costs,
            PARTS: self._parts,
            LINES: self._lines,
            STEADY: self._steady,
            INLINE: self._inline,
        }
        try:
            ways[task.what](task, answer)
        except Exception as error:
            answer.problem = f"{type(error).__name__}: {error}"
        return answer

    def _costs(self, task: Task, answer: Answer) -> None:
        kept: list[Any] = []
        gauge = _gauge()
        for index, number, make in _calls(self.dataset, self._iterable, task):
            cost, sample = _measure(index, number, make, gauge)
            if sample is _END:
                break
            answer.costs.append(cost)
            if len(kept) < AT_ONCE:
                kept.extend(sample if number > 1 else [sample])
        if len(answer.costs) > 10:
            del answer.costs[0]  # what is done only once is in it
        if kept:
            answer.nbytes, answer.dtype = size_of(kept[0]), dtype_of(kept[0])
            answer.collate_s = self._collating(kept)
        self._look_again(answer.costs, gauge)
        if answer.costs and not self._iterable and statistics.median(c.wall for c in answer.costs) < CHEAP_S:
            answer.together = self._together(task)

    def _together(self, task: Task) -> tuple[float, float]:
        """(seconds, CPU seconds) of a sample, many at a time: else taking the time takes most of it."""
        tries: list[tuple[float, float]] = []
        until = time.perf_counter() + task.seconds / 4
        while len(tries) < 3 or (len(tries) < 50 and time.perf_counter() < until):
            calls = list(_calls(self.dataset, False, task))
            made = sum(number for _, number, _ in calls)
            wall, cpu = time.perf_counter(), time.thread_time()
            for _, _, make in calls:
                make()
            tries.append(((time.perf_counter() - wall) / made, (time.thread_time() - cpu) / made))
        return statistics.median(wall for wall, _ in tries), statistics.median(cpu for _, cpu in tries)

    def _look_again(self, costs: list[Cost], gauge: Cost) -> None:
        """The slowest count only as slow if they are a second time: another process may have had the core."""
        slowest = sorted(costs, key=lambda cost: -cost.wall)[: max(SHOWN, len(costs) // 50)]
        typical = statistics.median(cost.wall for cost in costs) if costs else 0.0
        for cost in slowest:
            cost.path = path_of(self.dataset, cost.index)
            if cost.wall > SLOW * typical and not self._iterable and batched_getter(self.dataset) is None:
                again, _ = _measure(cost.index, 1, partial(operator.getitem, self.dataset, cost.index), gauge)
                if again.wall < cost.wall:
                    costs[costs.index(cost)] = replace(again, path=cost.path)

    def _collating(self, kept: list[Any]) -> float:
        """CPU seconds a sample, as without workers: in one, torch would make a file for every tensor, which
        belongs to the hand-off."""
        if not self._batched:
            return 0.0
        taken = []
        with suppress(Exception), stack_into(Scratch()):  # a collate function may want a full batch
            for _ in range(5):
                begin = time.thread_time()
                self._collate(kept)
                taken.append((time.thread_time() - begin) / len(kept))
        return min(taken, default=0.0)

    def _inline(self, task: Task, answer: Answer) -> None:
        """The loader alone, without workers: in this one, that there be none of user code in the training
        process; by one thread, as OpenMP would hang with more in a fork of a process that has used it."""
        info, torch_worker._worker_info = torch_worker._worker_info, None
        try:
            answer.trial = run_trial(self._source, 0, task.seconds, task.sample_s)
        finally:
            torch_worker._worker_info = info

    def _parts(self, task: Task, answer: Answer) -> None:
        for _, _, make in islice(_calls(self.dataset, self._iterable, task), 1):
            make()  # libraries import some of their modules only now
        stopwatch = Stopwatch()
        time_libraries(stopwatch)
        dataset = split(self.dataset, stopwatch)
        made = 0
        for place, (_, number, make) in enumerate(_calls(dataset, self._iterable, task)):
            if stopwatch.call("dataset", "other", make) is _END:
                break
            if place == 0:  # what is done only once is in it
                stopwatch.restart()
            else:
                made += number
        answer.parts = stopwatch.parts(max(1, made)) if made else ()
        answer.copy_rate = copy_rate(max((part.nbytes or 0 for part in answer.parts), default=0))

    def _lines(self, task: Task, answer: Answer) -> None:
        begin = time.perf_counter()
        with LineSampler() as sampler:
            for _, _, make in _calls(self.dataset, self._iterable, task, again=True):
                if make() is _END:
                    break
        answer.seen, answer.wall = sampler.seen, time.perf_counter() - begin

    def _steady(self, _: Task, answer: Answer) -> None:
        try:
            found = study(self.dataset)
        except NotRepeatableError:
            answer.steady = ()
            return
        answer.whole, answer.begins = found.whole, True
        answer.steady = tuple(step.name for _, steps in found.pipelines for step in steps if step.kept)


class Dress:
    """The user's ``worker_init_fn``, which is to find its own dataset in ``get_worker_info()``."""

    def __init__(self, dataset: Any, inner: Callable[[int], None] | None) -> None:
        self._dataset, self._inner = dataset, inner

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        if info is not None:
            probe = info.dataset
            object.__setattr__(info, "dataset", getattr(probe, "dataset", self._dataset))  # it refuses others
        if self._inner is not None:
            self._inner(worker)


Call = tuple[Any, int, Callable[[], Any]]
"""(index of the sample, how many samples it makes, what makes it)."""
_END: Any = object()


def _calls(dataset: Any, iterable: bool, task: Task, again: bool = False) -> Iterator[Call]:
    """The calls that make the task's samples, until the time is over; over and over `again`, if wanted."""
    until = time.perf_counter() + task.seconds
    many = None if iterable else batched_getter(dataset)
    while True:
        if iterable:
            calls = _of_iterator(dataset, len(task.indices))
        elif many is not None:
            calls = _of_batches(many, task.indices)
        else:
            calls = ((index, 1, partial(operator.getitem, dataset, index)) for index in task.indices)
        for place, call in enumerate(calls):
            if place > 1 and time.perf_counter() > until:
                return
            yield call
        if not again or not task.indices or time.perf_counter() > until:
            return


def _of_iterator(dataset: Any, number: int) -> Iterator[Call]:
    """What makes the samples gives `_END` after the last."""
    iterator = iter(dataset)
    yield from ((place, 1, partial(next, iterator, _END)) for place in range(number))


def _of_batches(many: Callable[[list[Any]], Any], indices: Sequence[Any]) -> Iterator[Call]:
    rest = iter(indices)
    while batch := list(islice(rest, AT_ONCE)):
        yield batch[0], len(batch), partial(many, batch)


def _measure(index: Any, number: int, make: Callable[[], Any], gauge: Cost) -> tuple[Cost, Any]:
    """What it costs to make so many samples, for each, less what measuring itself does."""
    unscheduled = _unscheduled()
    process, cpu, wall = time.process_time(), time.thread_time(), time.perf_counter()
    sample = make()
    wall = time.perf_counter() - wall - gauge.wall
    cpu, process = time.thread_time() - cpu, time.process_time() - process
    waited = min(max(0.0, _unscheduled() - unscheduled), max(0.0, wall - cpu))
    other = max(0.0, process - cpu - gauge.other_cpu)
    cpu = max(0.0, cpu - gauge.cpu)
    return Cost(index, max(0.0, wall) / number, cpu / number, other / number, waited / number), sample


def _gauge() -> Cost:
    """What is measured of nothing."""
    zero = Cost(None, 0.0, 0.0, 0.0, 0.0)
    tries = [_measure(None, 1, int, zero)[0] for _ in range(20)]
    middle = {
        name: statistics.median(getattr(t, name) for t in tries) for name in ("wall", "cpu", "other_cpu")
    }
    return Cost(None, unscheduled=0.0, **middle)


def _unscheduled() -> float:
    """Seconds that this thread was ready to run, but no core was free."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def as_it_is(answer: Any) -> Any:
    """Collates nothing."""
    return answer
