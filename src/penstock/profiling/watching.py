"""The iterator that a profiled loop gets: it hands over the loader's batches and times the loop.

When enough was seen, the loader's own iterator is let go and the last batch handed over again and again, to
see what the loop does when data is free. Then it is over: by `StopIteration`, or as `done` says.
"""

from __future__ import annotations

import copy
import enum
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import default_collate

from penstock.profiling import device
from penstock.profiling.data import Level, Loop, Span
from penstock.profiling.recorder import UNKNOWN, CeilingRecorder, LoopRecorder
from penstock.stats import task_observers

MOST_SPANS = 5000
"""Of the workers, and of the loop."""
LOOK_EVERY_S = 0.01
"""Between two looks at how far the loop has come; a limit of batches wants one at each."""
OFTEN = 5
"""Where a loop takes so many batches in `LOOK_EVERY_S`, to look at each would be felt. Once the time line is
full, those are looked at that come before the next look, and then none for `PASSED_BY_S`. All are timed."""
PASSED_BY_S = 15 * LOOK_EVERY_S
_Task = tuple[int, int, float, float, float]
"""What `Watch.note_task` is told."""
CEILING_ROUNDS, CEILING_S, CEILING_MOST = 30, 0.02, 1000
"""So many rounds with one batch; of a loop that is through with them sooner, more, up to a time: else one
moment in which another process has the core would be most of what is measured."""
CEILING_LEAST = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """When enough was seen: after so many batches, or so many seconds, whichever is first."""

    batches: int | None
    seconds: float

    def reached(self, recorder: LoopRecorder, now: float) -> bool:
        if self.batches is not None and recorder.batches >= self.batches:
            return True
        return recorder.batches > 2 and recorder.elapsed_at(now) >= self.seconds


class _Phase(enum.Enum):
    LOOP = "the loader's batches"
    CEILING = "one batch, again and again"
    OVER = "nothing more"


class Watch:
    """One loop over one loader, and what was seen of it.

    For the ceiling it waits for the accelerator, so that what a step began there is counted to it; not in the
    loop itself, which is to be seen as it runs.
    """

    def __init__(
        self, loader: Any, limits: Limits, settle: int, ceiling: bool, tick: Callable[[Watch], None]
    ) -> None:
        self.limits = limits
        self.recorder, self.ceiling = LoopRecorder(settle), CeilingRecorder()
        self.levels: list[Level] = []
        self.kept: Any = None
        """The batch for the ceiling."""
        self._tasks: list[_Task] = []
        self.next_look = self._level_at = self.unseen_until = 0.0
        self._last_look = 0.0, 0
        """How long the epochs had lasted by then, and how many batches there had been."""
        self._after_loop = _Phase.CEILING if ceiling else _Phase.OVER
        self._tick, self._phase, self.in_loop = tick, _Phase.LOOP, True
        self._epoch: weakref.ref[Watched] | None = None
        self.follow(loader)

    def follow(self, loader: Any) -> None:
        """The epochs from now on are over this loader."""
        self.loader, self._slots_in_use = loader, getattr(loader, "_slots_in_use", None)

    @property
    def over(self) -> bool:
        return self._phase is _Phase.OVER

    @property
    def loop(self) -> Loop | None:
        return self.recorder.loop()

    def iterate(self, begin: Callable[[], Iterator[Any]], done: Callable[[Watch], None]) -> Watched:
        """Begin an epoch; `begin` makes the loader's own iterator. `done` is called at the end of each, and
        once when all was seen; what it raises ends the loop."""
        if self.in_loop:
            self.recorder.begin()
        else:
            self._begin_again()
        watched = Watched(self, begin() if self.in_loop else None, done)
        self._epoch = weakref.ref(watched)
        return watched

    def _begin_again(self) -> None:
        """The loop was left, and comes back, while it gets one batch again and again: at last that ends."""
        self.ceiling.begin()
        if self.ceiling.epochs > CEILING_LEAST:
            self._phase = _Phase.OVER

    @property
    def iterating(self) -> bool:
        """Whether an epoch was begun and neither ended nor given up."""
        watched = None if self._epoch is None else self._epoch()
        return watched is not None and not watched.ended

    @property
    def spans(self) -> tuple[Span, ...]:
        """The time line: what the workers and the loop did, as long as both are known."""
        tasks, loop = self._task_spans(), self._loop_spans()
        ends = [spans[-1].start_s for spans in (tasks, loop) if len(spans) >= MOST_SPANS]
        end = min(ends, default=float("inf"))
        return tuple(span for span in (*tasks, *loop) if span.start_s <= end)

    def _loop_spans(self) -> list[Span]:
        started, spans = self.recorder.started or 0.0, []
        for asked, got, done in self.recorder.moments(MOST_SPANS // 2):
            spans.append(Span("loop", "wait", asked - started, got - asked))
            if done != UNKNOWN:
                spans.append(Span("loop", "step", got - started, done - got))
        return spans

    def note_task(self, worker: int, samples: int, ended: float, fetch_s: float, collate_s: float) -> None:
        """As `penstock.stats.task_observers` has it."""
        if ended and len(self._tasks) < MOST_SPANS // 2:
            self._tasks.append((worker, samples, ended, fetch_s, collate_s))

    def _task_spans(self) -> list[Span]:
        started, spans = self.recorder.started or 0.0, []
        for worker, samples, ended, fetch_s, collate_s in self._tasks:
            begin, lane = ended - fetch_s - collate_s - started, f"worker {worker}"
            spans.append(Span(lane, f"{samples} samples", begin, fetch_s))
            spans.append(Span(lane, "collate", begin + fetch_s, collate_s))
        return spans

    def look(self, now: float) -> bool:
        """The loop has taken a batch: whether the ceiling comes next. To be called from `next_look` on."""
        if self.limits.batches is None:
            self._pass_by(now)
            self.next_look = max(now, self.unseen_until) + LOOK_EVERY_S
        if self._slots_in_use is not None and now >= self._level_at and len(self.levels) < MOST_SPANS:
            self._level_at = now + LOOK_EVERY_S
            self.levels.append(Level(now - (self.recorder.started or 0.0), self._slots_in_use()))
        if self.limits.reached(self.recorder, now):
            self._phase, self.in_loop, self.unseen_until = self._after_loop, False, 0.0
        self._tick(self)
        return self._phase is _Phase.CEILING

    def _pass_by(self, now: float) -> None:
        """Decide whether the next batches are looked at."""
        (then, before), batches = self._last_look, self.recorder.batches
        self._last_look = elapsed, _ = self.recorder.elapsed_at(now), batches
        often = (batches - before) * LOOK_EVERY_S >= OFTEN * (elapsed - then)
        if often and batches >= MOST_SPANS // 2:
            self.unseen_until = now + PASSED_BY_S

    def keep(self, batch: Any) -> None:
        """For the ceiling."""
        self.kept = _copied(batch)
        self.ceiling.copy_s = device.copy_s(batch, device.in_use())

    def asked_again(self) -> None:
        """The ceiling took a round more."""
        self.ceiling.asked()
        rounds, seconds = self.ceiling.rounds, self.ceiling.seconds
        enough = rounds > CEILING_ROUNDS and (seconds > CEILING_S or rounds > CEILING_MOST)
        if enough or (rounds > CEILING_LEAST and seconds > 0.2 * self.limits.seconds):
            self._phase = _Phase.OVER
        self._tick(self)

    @property
    def phase(self) -> str:
        return self._phase.value


class Watched:
    """See above."""

    def __init__(self, watch: Watch, inner: Iterator[Any] | None, done: Callable[[Watch], None]) -> None:
        self._watch, self._done = watch, done
        self._inner: Any = inner
        self._begun = self.ended = False

    def __iter__(self) -> Watched:
        return self

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the loader's own iterator offers."""
        return getattr(self.__dict__["_inner"], name)

    def __next__(self) -> Any:
        watch = self._watch
        recorder = watch.recorder
        passed_by = recorder.asked < watch.unseen_until and self._begun
        if not (passed_by or watch.in_loop):
            return self._finish() if watch.over else self._again()
        try:
            if not passed_by:
                return self._seen(watch)
            wall, note = recorder.wall, recorder.passed.append
            recorder.asked = asked = wall()
            batch = next(self._inner)
            note(asked)
            note(wall())
            return batch
        except StopIteration:
            recorder.end()
            self.ended = True
            self._done(watch)
            raise

    def _seen(self, watch: Watch) -> Any:
        noted = watch.note_task
        watch.recorder.ask()
        task_observers.append(noted)  # the tasks that are done meanwhile are this loader's
        try:
            batch = next(self._inner)
        finally:
            task_observers.remove(noted)
        self._begun = True
        got = watch.recorder.got(samples_in(batch, watch.loader))
        if got >= watch.next_look and watch.look(got):
            watch.keep(batch)
        return batch

    def _again(self) -> Any:
        """The batch that was kept, in a copy: the step may change it."""
        watch = self._watch
        if not self._let_go():
            device.synchronise(device.in_use())
            watch.asked_again()
            if watch.over:
                return self._finish()
        batch = _copied(watch.kept)
        device.synchronise(device.in_use())
        watch.ceiling.gives()
        return batch

    def _let_go(self) -> bool:
        """End the loader's own iterator, whose workers would go on and take the cores; False if it was."""
        if self._inner is None:
            return False
        self._watch.recorder.close()
        close_iterator(self._watch.loader, self._inner)
        self._inner = None
        return True

    def _finish(self) -> Any:
        self._let_go()
        self._watch.kept = None
        self._done(self._watch)
        raise StopIteration


def close_iterator(loader: Any, iterator: Any) -> None:
    """End the workers of a loader's iterator, ours or torch's."""
    for name in ("close", "_shutdown_workers"):
        end = getattr(iterator, name, None)
        if callable(end):
            end()
            break
    if getattr(loader, "_iterator", None) is not None:  # of persistent workers
        loader._iterator = None


def samples_in(batch: Any, loader: Any) -> int:
    """How many samples a batch holds: one, if batches are the dataset's own.

    After torch's collation it is the first tensor's length. What another function made of them may have any
    shape: only a length that a full batch has, or the epoch's last one, is believed.
    """
    first = batch[0] if type(batch) in (list, tuple) and batch else batch
    if isinstance(first, torch.Tensor) and loader.collate_fn is default_collate and first.dim():
        return first.size(0)  # most often
    if not getattr(loader, "_auto_collation", True):
        return 1
    lengths = list(_lengths(batch))
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if not isinstance(size, int):
        return lengths[-1] if lengths else 1
    if lengths and loader.collate_fn is default_collate:
        return lengths[-1]
    return next((known for known in (size, _last_size(loader, size)) if known in lengths), size)


def _lengths(batch: Any) -> Iterator[int]:
    """Of all that is on the way down to the first tensor."""
    if isinstance(batch, torch.Tensor):
        yield int(batch.shape[0]) if batch.dim() else 1
        return
    if isinstance(batch, list | tuple):
        yield len(batch)
    inner = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    for each in inner:
        if isinstance(each, torch.Tensor | list | tuple | dict):
            yield from _lengths(each)
            return


def _last_size(loader: Any, size: int) -> int | None:
    try:
        return len(loader.sampler) % size or None
    except TypeError:
        return None


def _copied(batch: Any) -> Any:
    try:
        return copy.deepcopy(batch)
    except Exception:  # it can't be copied: the step gets it as it is
        return batch
