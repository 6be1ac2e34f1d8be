"""The contract of `penstock.backends.base`, kept by every backend."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import threading
import time
import warnings
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import default_collate

from penstock.arena import Arena
from penstock.backends.base import Backend, Busy, Died, Done, Event, State
from penstock.backends.inline import InlineBackend
from penstock.backends.processes import ProcessesBackend, WorkerJob
from penstock.collate import batch_of_rows, unpack
from penstock.errors import ClosedError, DatasetNotSendableError
from penstock.fetch import Block, Direct, Dropped, Failed, NotRegular, Recipe, Rows
from penstock.plan import Course, Task, split
from tests.conftest import our_children
from tests.datasets import Fails, Hooked, Marks, Mixed, Named, Squares, equal

START_METHODS = ["fork", "forkserver", "spawn"]
EVERY = pytest.mark.parametrize("kind", ["inline", *START_METHODS])
QUICK = pytest.mark.parametrize("kind", ["inline", "fork"])
DEADLINE_S = 60.0


class Bench:
    """A backend on an arena of its own, with what an engine would do by hand."""

    def __init__(
        self, kind: str, recipe: Recipe, workers: int, worker_init_fn: Any, first: int | None
    ) -> None:
        self.arena = Arena(1 << 26)
        self.backend = make_backend(kind, recipe, self.arena, workers, worker_init_fn, first)
        self.slots: dict[int, int] = {}

    def submit(
        self, batch: int, indices: list[Any], parts: int = 1, rows: bool = True, generation: int = 1
    ) -> None:
        """Submit one batch, in so many tasks."""
        slot = self.slots[batch] = self.arena.acquire() or 0
        size = len(indices)
        for p in split(size, parts):
            part = tuple(indices[p.start : p.stop])
            self.backend.submit(Task(generation, batch, p.start, part, size, rows), slot)
        self.backend.flush()

    def events(self, count: int) -> list[Event]:
        """The next `count` events."""
        found: list[Event] = []
        end = time.monotonic() + DEADLINE_S
        while len(found) < count:
            assert time.monotonic() < end, f"only {found} came"
            found += self.backend.wait(DEADLINE_S)
        assert len(found) == count
        return found

    def done(self, count: int) -> list[Done]:
        found = [event for event in self.events(count) if isinstance(event, Done)]
        assert len(found) == count
        return found

    def run(self, batch: int, indices: list[Any], **how: Any) -> Any:
        """The outcome of one batch that is one task."""
        self.submit(batch, indices, **how)
        (done,) = self.done(1)
        return done.outcome

    def batch(self, done: Done) -> Any:
        """The batch that an outcome tells of; it is gone with the bench."""
        outcome = done.outcome
        if isinstance(outcome, Rows):
            block = self.arena.lease(self.slots[done.batch], outcome.spec.layout(outcome.rows)[1])
            return batch_of_rows(block, outcome.spec, outcome.rows)
        if isinstance(outcome, Block):
            return unpack(self.arena.lease(self.slots[done.batch], outcome.nbytes), outcome.start)
        assert isinstance(outcome, Direct)
        return outcome.batch


def make_backend(
    kind: str, recipe: Recipe, arena: Arena, workers: int, worker_init_fn: Any, first: int | None
) -> Backend:
    if kind == "inline":
        return InlineBackend(recipe)
    context = multiprocessing.get_context(kind)
    job = WorkerJob(recipe, worker_init_fn, workers)
    return ProcessesBackend(job, arena.memory, context, base_seed=3, workers=first)


@contextmanager
def bench(
    kind: str,
    dataset: Any,
    collate_fn: Any = default_collate,
    batched: bool = True,
    workers: int = 2,
    start: bool = True,
    worker_init_fn: Any = None,
    first: int | None = None,
) -> Iterator[Bench]:
    """`first` is how many of the workers there are at the start."""
    bench = Bench(kind, Recipe(dataset, collate_fn, batched), workers, worker_init_fn, first)
    try:
        if start:
            bench.backend.start()
            bench.backend.begin(Course(1, 3, 1), {})
        yield bench
    finally:
        bench.backend.close()
        bench.arena.close()
        vars(bench).clear()  # a failed test keeps the bench


# -- work ----------------------------------------------------------------------------------------------


@EVERY
def test_a_backend_makes_torchs_batches_and_tells_of_errors(kind: str) -> None:
    dataset = Mixed(20)
    with bench(kind, dataset) as b:
        for number in range(3):
            b.submit(number, [number, 2 * number, 7])
        b.submit(3, [1, "no index", 2])
        by_batch = {done.batch: done for done in b.done(4)}
        for number in range(3):
            expected = default_collate([dataset[i] for i in (number, 2 * number, 7)])
            assert equal(b.batch(by_batch[number]), expected)
        failed = by_batch[3].outcome
        assert isinstance(failed, Failed)
        assert (type(failed.error), failed.position) == (TypeError, 1)


@QUICK
def test_every_task_is_done_once(kind: str) -> None:
    with bench(kind, Squares()) as b:
        for number in range(10):
            b.submit(number, [1, 2, 3, 4])
        done = b.done(10)
        assert Counter((d.batch, d.offset) for d in done) == Counter((n, 0) for n in range(10))
        assert {(d.generation, d.timing.samples) for d in done} == {(1, 4)}
        assert b.backend.wait(0) == []


def test_large_batches_are_placed_as_rows() -> None:
    dataset = Squares(width=100_000)
    with bench("fork", dataset) as b:
        b.submit(0, [3, 1, 2])
        (done,) = b.done(1)
        assert isinstance(done.outcome, Rows)
        assert equal(b.batch(done), default_collate([dataset[i] for i in (3, 1, 2)]))


def test_several_tasks_fill_one_batch() -> None:
    dataset, indices = Mixed(50), list(range(17))
    with bench("fork", dataset) as b:
        b.submit(0, indices, parts=5)
        done = b.done(5)
        assert Counter(d.offset for d in done) == Counter(p.start for p in split(17, 5))
        assert sum(d.timing.samples for d in done) == 17
        assert len({d.outcome for d in done}) == 1
        assert equal(b.batch(done[0]), default_collate([dataset[i] for i in indices]))


def test_samples_that_are_no_rows_are_told_as_not_regular() -> None:
    with bench("fork", Named()) as b:
        assert b.run(0, [1, 2]) == NotRegular()


@QUICK
def test_samples_of_a_class_that_cannot_be_imported_do_not_end_the_worker(kind: str) -> None:
    local = namedtuple("local", "x y")
    with bench(kind, [local(i, float(i)) for i in range(4)]) as b:
        b.submit(0, [1, 2])
        (event,) = b.events(1)
        assert isinstance(event, Done)


@QUICK
def test_a_whole_batch_is_collated_where_rows_are_not_wanted(kind: str) -> None:
    dataset = Named()
    with bench(kind, dataset) as b:
        b.submit(0, [1, 2], rows=False)
        (done,) = b.done(1)
        assert isinstance(done.outcome, Direct if kind == "inline" else Block)
        assert equal(b.batch(done), default_collate([dataset[1], dataset[2]]))


@QUICK
def test_without_batching_a_sample_goes_to_the_collate_function_as_it_is(kind: str) -> None:
    with bench(kind, Named(), collate_fn=lambda sample: ["collated", *sample], batched=False) as b:
        b.submit(0, [4], rows=False)
        (done,) = b.done(1)
        assert equal(b.batch(done), ["collated", torch.full((4,), 4.0), "sample 4"])


@QUICK
def test_what_a_dataset_raises_is_told_with_its_place_and_traceback(kind: str) -> None:
    with bench(kind, Fails(ValueError("bad one"), bad=5)) as b:
        failed = b.run(0, [3, 4, 5, 6])
        assert isinstance(failed, Failed)
        assert repr(failed.error) == repr(ValueError("bad one"))
        assert failed.position == 2
        assert "in __getitem__" in failed.text


@QUICK
def test_what_the_collate_function_raises_is_told_without_a_place(kind: str) -> None:
    def collate(samples: list[Any]) -> Any:
        raise KeyError(len(samples))

    with bench(kind, Squares(), collate) as b:
        failed = b.run(0, [3, 4], rows=False)
        assert isinstance(failed, Failed)
        assert (repr(failed.error), failed.position) == ("KeyError(2)", None)


@QUICK
def test_work_goes_on_after_a_failure(kind: str) -> None:
    with bench(kind, Fails(ValueError("bad one"), bad=5), workers=1) as b:
        assert isinstance(b.run(0, [5]), Failed)
        assert not isinstance(b.run(1, [6]), Failed)


@QUICK
def test_the_time_a_task_took_is_told(kind: str) -> None:
    with bench(kind, Hooked(lambda _: time.sleep(0.01))) as b:
        b.submit(0, [1, 2])
        (done,) = b.done(1)
        assert 0.02 <= done.timing.fetch_s < DEADLINE_S
        assert 0 <= done.timing.collate_s < DEADLINE_S


def test_tasks_of_another_generation_are_dropped_before_their_first_sample(tmp_path: Path) -> None:
    with bench("fork", Marks(tmp_path)) as b:
        b.backend.begin(Course(2, 3, 2), {})
        for number in range(4):
            b.submit(number, [1, 2], generation=1)
        assert [done.outcome for done in b.done(4)] == [Dropped()] * 4
        assert list(tmp_path.iterdir()) == []
        assert isinstance(b.run(4, [1, 2], generation=2), Rows)


def test_submitting_never_waits_for_a_worker() -> None:
    with gate() as (enter, leave, is_in), bench("fork", Hooked(enter), workers=1) as b:
        b.submit(0, [0])
        is_in()
        for number in range(1, 5):
            b.submit(number, [0] * 200_000)  # each more than a socket takes
        leave()
        b.backend.begin(Course(2, 3, 2), {})
        assert Counter(done.batch for done in b.done(5)) == Counter(range(5))


def test_busy_names_the_workers_at_work_and_their_samples() -> None:
    with gate() as (enter, leave, is_in), bench("fork", Hooked(enter), workers=2) as b:
        b.submit(7, [11, 12])
        is_in()
        while not (busy := b.backend.busy())[0].pid:
            b.backend.wait(DEADLINE_S)
        assert busy == [Busy(0, busy[0].pid, (7, 0), busy[0].since)]
        assert 0 < busy[0].since <= time.monotonic()
        assert psutil.Process(busy[0].pid).parent() != psutil.Process()
        leave()
        b.done(1)
        assert b.backend.busy() == []


@QUICK
def test_wait_can_be_called_again_after_a_signal_handler_raised(kind: str, tmp_path: Path) -> None:
    class Interrupted(BaseException):
        pass

    def on_signal(*_: object) -> None:
        raise Interrupted

    main, once = os.getpid(), tmp_path / "once"

    def interrupt(index: int) -> None:
        if index == 2 and not once.exists():
            once.touch()
            os.kill(main, signal.SIGUSR1)
            enter(index)

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        with gate() as (enter, leave, _), bench(kind, Hooked(interrupt)) as b:
            b.submit(0, [1, 2, 3])
            with pytest.raises(Interrupted):
                b.done(1)
            leave()
            assert equal(b.batch(b.done(1)[0])[1], torch.tensor([1, 2, 3]))
    finally:
        signal.signal(signal.SIGUSR1, before)


# -- life cycle ----------------------------------------------------------------------------------------


@QUICK
def test_the_states_are_new_open_closed(kind: str) -> None:
    with bench(kind, Squares(), start=False) as b:
        states = [b.backend.state]
        b.backend.start()
        states.append(b.backend.state)
        b.backend.close()
        states.append(b.backend.state)
        assert states == [State.NEW, State.OPEN, State.CLOSED]


@QUICK
def test_nothing_can_be_submitted_before_the_start(kind: str) -> None:
    with bench(kind, Squares(), start=False) as b, pytest.raises(ClosedError, match="not started yet"):
        b.submit(0, [1])


@QUICK
def test_nothing_can_be_submitted_after_closing(kind: str) -> None:
    with bench(kind, Squares()) as b:
        b.backend.close()
        with pytest.raises(ClosedError, match="closed"):
            b.submit(0, [1])


@QUICK
def test_closing_before_the_start_is_allowed(kind: str) -> None:
    with bench(kind, Squares(), start=False) as b:
        b.backend.close()
        assert b.backend.state is State.CLOSED


@QUICK
def test_closing_twice_is_closing_once(kind: str) -> None:
    with bench(kind, Squares()) as b:
        b.run(0, [1])
        b.backend.close()
        b.backend.close()
        assert b.backend.state is State.CLOSED


@QUICK
def test_closing_with_tasks_outstanding_leaves_no_process(kind: str) -> None:
    with bench(kind, Squares(200_000)) as b:
        for number in range(4):
            b.submit(number, list(range(50_000)))
        b.backend.close()
        assert our_children() == []


@pytest.mark.parametrize("kind", ["forkserver", "spawn"])
def test_a_dataset_that_cannot_be_sent_closes_the_backend(kind: str) -> None:
    with bench(kind, Hooked(threading.Lock()), start=False) as b:
        with pytest.raises(DatasetNotSendableError, match="'hook'"):
            b.backend.start()
        assert b.backend.state is State.CLOSED


@QUICK
def test_a_forked_child_cannot_use_the_parents_workers_and_its_closing_leaves_them(kind: str) -> None:
    with bench(kind, Squares()) as b:

        def in_child() -> None:
            if kind == "inline":  # has none
                assert not isinstance(b.run(0, [1, 2]), Failed)
            else:
                with pytest.raises(ClosedError, match="forked"):
                    b.submit(0, [1])
            b.backend.close()

        assert in_a_forked_child(in_child) == 0
        assert b.backend.state is State.OPEN
        assert not isinstance(b.run(1, [1, 2]), Failed)


# -- deaths --------------------------------------------------------------------------------------------


def the_template() -> psutil.Process:
    (template,) = (process for process in our_children() if process.ppid() == os.getpid())
    return template


class Roll:
    """A ``worker_init_fn`` that tells each worker's process id."""

    def __init__(self) -> None:
        self.told, self.tell = os.pipe()

    def __call__(self, worker: int) -> None:
        os.write(self.tell, struct.pack("ii", worker, os.getpid()))

    def call(self, workers: int) -> dict[int, int]:
        """The process ids by number, once so many workers run."""
        found = dict(struct.unpack("ii", os.read(self.told, 8)) for _ in range(workers))
        os.close(self.told)
        os.close(self.tell)
        return found


def kill(pid: int) -> None:
    """Kill a worker, and wait until the template has seen so."""
    process = psutil.Process(pid)
    process.kill()
    psutil.wait_procs([process], timeout=DEADLINE_S)


def test_a_death_names_the_worker_the_sample_and_the_tasks_that_are_lost() -> None:
    def die(index: int) -> None:
        if index == 13:
            os.kill(os.getpid(), signal.SIGKILL)

    with bench("fork", Hooked(die), workers=1) as b:
        b.submit(0, [1, 2])
        b.submit(1, [12, 13])
        b.submit(2, [3, 4])
        events = b.events(2)
        assert isinstance(events[0], Done)
        died = events[1]
        assert isinstance(died, Died)
        assert (died.worker, died.exitcode, died.sample) == (0, -signal.SIGKILL, (1, 1))
        assert [task.batch for task in died.lost] == [1, 2]


def test_deaths_are_told_however_late_they_are_asked_for() -> None:
    roll = Roll()
    with bench("fork", Squares(), workers=3, worker_init_fn=roll) as b:
        pids = roll.call(3)
        for pid in pids.values():
            kill(pid)
        died = [event for event in b.events(3) if isinstance(event, Died)]
        assert {d.worker: d.pid for d in died} == pids
        assert {d.exitcode for d in died} == {-signal.SIGKILL}


def test_a_death_right_after_the_workers_started_is_told() -> None:
    with gate() as (enter, _, is_in), bench("fork", Hooked(enter), workers=2) as b:
        b.submit(0, [1, 2], parts=2)
        is_in()
        while not all(worker.pid for worker in b.backend.busy()):
            assert b.backend.wait(DEADLINE_S) == []  # but for that they started, nothing is told
        for worker in b.backend.busy():
            kill(worker.pid)
        died = [event for event in b.events(2) if isinstance(event, Died)]
        assert {d.exitcode for d in died} == {-signal.SIGKILL}
        assert sorted(task.offset for d in died for task in d.lost) == [0, 1]


def test_the_others_do_the_work_that_is_submitted_after_a_death() -> None:
    roll = Roll()
    with bench("fork", Squares(), workers=2, worker_init_fn=roll) as b:
        kill(roll.call(2)[0])
        (died,) = b.events(1)
        assert isinstance(died, Died)
        b.submit(0, [1, 2])
        assert {done.worker for done in b.done(1)} == {1}


def test_the_death_of_the_template_closes_the_backend_and_ends_its_workers() -> None:
    roll = Roll()
    with bench("fork", Squares(), workers=2, worker_init_fn=roll) as b:
        workers = [psutil.Process(pid) for pid in roll.call(2).values()]
        template = the_template()
        template.kill()
        died = b.events(1)[0]
        assert isinstance(died, Died)
        assert (died.worker, died.pid, died.exitcode) == (None, template.pid, -signal.SIGKILL)
        assert psutil.wait_procs(workers, timeout=DEADLINE_S)[1] == []
        with pytest.raises(ClosedError):
            b.submit(1, [1])


# -- more and fewer workers ----------------------------------------------------------------------------


def until_running(b: Bench, workers: int) -> None:
    """Wait until so many run; nothing else happens."""
    while b.backend.running != workers:
        assert b.backend.wait(DEADLINE_S) == []


def at_work(b: Bench, batches: range) -> dict[int, psutil.Process]:
    """Submit so many batches to a gated dataset; the workers that got them."""
    for number in batches:
        b.submit(number, [number])
    return {busy.worker: psutil.Process(busy.pid) for busy in b.backend.busy()}


@QUICK
def test_there_is_a_least_and_a_most_number_of_workers(kind: str) -> None:
    with bench(kind, Squares(), first=1) as b:
        assert (b.backend.workers, b.backend.most) == (1, 1 if kind == "inline" else 2)
        b.backend.resize(b.backend.most)
        assert b.backend.workers == b.backend.most
        for impossible in (0, b.backend.most + 1):
            with pytest.raises(ValueError, match=f"1 to {b.backend.most} workers"):
                b.backend.resize(impossible)
        b.submit(0, [1, 2])
        assert b.done(1)[0].timing.samples == 2


@pytest.mark.parametrize(
    "kind", ["fork", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("forkserver", "spawn"))]
)
def test_workers_that_are_added_share_the_work(kind: str) -> None:
    with bench(kind, Squares(), workers=3, first=1) as b:
        until_running(b, 1)
        b.backend.resize(3)
        until_running(b, 3)
        for number in range(3):
            b.submit(number, [number])
        assert {done.worker for done in b.done(3)} == {0, 1, 2}


def test_nothing_is_given_to_a_worker_that_is_added_before_it_runs() -> None:
    with gate() as (enter, leave, is_in), bench("fork", Hooked(enter), first=1) as b:
        until_running(b, 1)
        b.backend.resize(2)
        assert set(at_work(b, range(4))) == {0}
        is_in()
        until_running(b, 2)
        assert set(at_work(b, range(4, 8))) == {0, 1}
        leave()
        b.done(8)


def test_workers_that_are_let_go_do_what_they_were_given_and_end_untold() -> None:
    with gate() as (enter, leave, is_in), bench("fork", Hooked(enter), workers=3) as b:
        until_running(b, 3)
        workers = at_work(b, range(6))
        for _ in range(3):
            is_in()
        b.backend.resize(1)
        assert set(at_work(b, range(6, 9))) == {0, 1, 2}
        leave()
        assert Counter(done.batch for done in b.done(9)) == Counter(range(9))
        assert psutil.wait_procs([workers[1], workers[2]], timeout=DEADLINE_S)[1] == []
        assert set(at_work(b, range(9, 12))) == {0}
        assert [done.worker for done in b.done(3)] == [0, 0, 0]
        assert b.backend.wait(0) == []
        assert workers[0].is_running()


def test_a_worker_that_is_leaving_stays_when_it_is_wanted_again() -> None:
    with gate() as (enter, leave, is_in), bench("fork", Hooked(enter)) as b:
        until_running(b, 2)
        workers = at_work(b, range(2))
        is_in()
        is_in()
        b.backend.resize(1)
        b.backend.resize(2)
        leave()
        b.done(2)
        assert at_work(b, range(2, 4)) == workers
        b.done(2)


def test_a_worker_that_has_left_is_followed_by_another() -> None:
    roll = Roll()
    with bench("fork", Squares(), worker_init_fn=roll) as b:
        until_running(b, 2)
        b.backend.resize(1)
        b.backend.resize(2)
        assert b.backend.running == 1
        until_running(b, 2)
        for number in range(2):
            b.submit(number, [number])
        assert {done.worker for done in b.done(2)} == {0, 1}
        roll.call(3)


def test_the_tasks_of_one_that_dies_in_leaving_are_told_as_lost_and_nobody_follows_it() -> None:
    with gate() as (enter, leave, is_in), bench("fork", Hooked(enter)) as b:
        until_running(b, 2)
        workers = at_work(b, range(2))
        is_in()
        is_in()
        b.backend.resize(1)
        kill(workers[1].pid)
        (died,) = b.events(1)
        assert isinstance(died, Died)
        assert (died.worker, [task.batch for task in died.lost]) == (1, [1])
        b.backend.replace(1, Course(1, 3, 1), None)
        b.backend.submit(died.lost[0], b.slots[1])
        leave()
        assert [done.worker for done in b.done(2)] == [0, 0]


def test_one_may_die_while_another_is_being_added() -> None:
    with gate() as (enter, leave, is_in), bench("fork", Hooked(enter), first=1) as b:
        until_running(b, 1)
        workers = at_work(b, range(1))
        is_in()
        b.backend.resize(2)
        kill(workers[0].pid)
        events = b.events(1)
        assert isinstance(events[0], Died)
        b.backend.replace(0, Course(1, 3, 1), None)
        for task in events[0].lost:
            b.backend.submit(task, b.slots[0])
        leave()
        until = b.done(1)
        assert until[0].batch == 0
        until_running(b, 2)


def test_a_worker_that_is_added_begins_with_the_course_under_way() -> None:
    with bench("fork", Squares(), first=1) as b:
        b.backend.begin(Course(2, 3, 2), {})
        b.backend.resize(2)
        until_running(b, 2)
        for number in range(2):
            b.submit(number, [number], generation=2)
        done = b.done(2)
        assert {d.worker for d in done} == {0, 1}
        assert not any(isinstance(d.outcome, Dropped) for d in done)


def test_workers_are_told_how_many_there_can_be() -> None:
    def tell(_: int) -> None:
        info = torch.utils.data.get_worker_info()
        assert info is not None
        raise KeyError(info.num_workers)

    with bench("fork", Hooked(tell), workers=3, first=1) as b:
        failed = b.run(0, [1])
        assert isinstance(failed, Failed)
        assert repr(failed.error) == "KeyError(3)"


# -- tools ---------------------------------------------------------------------------------------------


@contextmanager
def gate() -> Iterator[tuple[Callable[[int], None], Callable[[], None], Callable[[], None]]]:
    """(for a dataset: says that it is in, and stays until it may leave; let it leave; wait until it is in).

    Once opened it stays open.
    """
    told, tell = os.pipe()
    opened, open_it = os.pipe()
    is_open = os.memfd_create("gate")

    def enter(_: int) -> None:
        os.write(tell, b"x")
        if os.fstat(is_open).st_size == 0:
            os.read(opened, 1)

    def leave() -> None:
        os.truncate(is_open, 1)
        os.write(open_it, b"x" * 8)

    def is_in() -> None:
        os.read(told, 1)

    try:
        yield enter, leave, is_in
    finally:
        for fd in (told, tell, opened, open_it, is_open):
            os.close(fd)


def in_a_forked_child(act: Callable[[], None]) -> int:
    """The exit code of a forked child that does `act` and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, where there are threads
        pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
