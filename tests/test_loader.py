"""The loader as a user meets it: life cycle, stats, memory, workers' surroundings, randomness."""

from __future__ import annotations

import contextlib
import copy
import gc
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, default_collate, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from penstock import ClosedError, DataLoader
from penstock.plan import MAX_QUEUE
from tests.conftest import our_children
from tests.datasets import Hooked, Marks, Mixed, Named, Noise, Squares, equal


def run_program(text: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **options,
    )


# -- workers that are no processes ---------------------------------------------------------------


class ThreadAsProcess(threading.Thread):
    pid = 0


class QueueOfThreads(queue.Queue[Any]):
    def close(self) -> None: ...

    def cancel_join_thread(self) -> None: ...


class Threads(SpawnContext):
    """The context of MONAI's ThreadDataLoader."""

    _name = "threads"
    Process = ThreadAsProcess  # type: ignore[assignment]
    Queue = QueueOfThreads  # type: ignore[assignment]


def test_a_context_that_is_not_pythons_is_left_to_torch() -> None:
    mine = os.getpid()
    loader = DataLoader(
        Hooked(lambda _: None if os.getpid() == mine else os.abort()),
        batch_size=8,
        num_workers=2,
        multiprocessing_context=Threads(),
    )
    assert torch.cat([indices for _, indices in loader]).tolist() == list(range(100))


class Halves(Squares):
    """Every batch of four begins with integers and ends with floats."""

    def __getitem__(self, index: int) -> Any:
        return index if index % 4 < 2 else index + 0.5


def test_parts_of_a_batch_that_differ_are_collated_together() -> None:
    """The first batch is split between both workers, whose rows look alike in size alone."""
    batches = list(DataLoader(Halves(8), batch_size=4, num_workers=2))
    assert equal(batches, [torch.tensor([0.0, 1.0, 2.5, 3.5]), torch.tensor([4.0, 5.0, 6.5, 7.5])])


class Rows(Squares):
    def __getitem__(self, index: int) -> Any:
        return torch.full((40_000,), float(index))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_no_views_to_autograd(workers: int) -> None:
    with DataLoader(Rows(8), batch_size=4, num_workers=workers) as loader, torch.no_grad():
        batch = next(iter(loader))
    batch.mul_(torch.ones(40_000, requires_grad=True))
    assert batch.requires_grad


def test_a_rule_that_a_collate_function_registers_stays() -> None:
    before = default_collate_fn_map[torch.Tensor]

    def registering(samples: Any) -> Any:
        default_collate_fn_map[torch.Tensor] = lambda *_, **__: "its own"
        return default_collate(samples)

    try:
        loader = DataLoader(Rows(6), batch_size=2, collate_fn=registering)
        assert list(loader) == ["its own"] * 3
    finally:
        default_collate_fn_map[torch.Tensor] = before


def test_a_rule_that_cannot_be_hashed() -> None:
    class Rule:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

        def __call__(self, *_: Any, **__: Any) -> str:
            return "its own"

    default_collate_fn_map[complex] = Rule()
    try:
        assert list(DataLoader([1j, 2j], batch_size=2)) == ["its own"]
    finally:
        del default_collate_fn_map[complex]


class Nests(Squares):
    def __getitem__(self, index: int) -> Any:
        return torch.nested.nested_tensor([torch.zeros(200_000), torch.zeros(100_000)])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused_in_torchs_words() -> None:
    with pytest.raises(RuntimeError, match="nested tensors are not currently supported"):
        list(DataLoader(Nests(2), batch_size=2))


# -- batches stay what they are ------------------------------------------------------------------


@pytest.mark.parametrize("dataset", [Mixed(1000), Named(1000)], ids=["rows", "block"])
def test_kept_batches_stay_intact(dataset: Any) -> None:
    loader = DataLoader(dataset, batch_size=1, num_workers=2)
    kept = list(loader)
    assert len(kept) == 1000
    for index, batch in enumerate(kept):
        expected = torch.utils.data.default_collate([dataset[index]])
        assert equal(batch, expected)


def test_a_slice_keeps_its_batch() -> None:
    slices = []
    for images, _ in DataLoader(Squares(400, width=5000), batch_size=4, num_workers=2):
        slices.append(images[1:2].view(-1)[7:9])
        del images
    expected = [float(4 * batch + 1) ** 2 for batch in range(100)]
    assert [piece.tolist() for piece in slices] == [[value, value] for value in expected]


def test_slots_are_used_again() -> None:
    loader = DataLoader(Squares(2000, width=5000), batch_size=4, num_workers=2)
    for _ in loader:
        pass
    assert loader.stats().batches == 500
    assert loader.stats().slots <= 2 * MAX_QUEUE + 2


def test_batches_outlive_loader_and_may_be_written_to() -> None:
    loader = DataLoader(Squares(16), batch_size=8, num_workers=2)
    images, labels = next(iter(loader))
    del loader
    images += 1
    assert images[3].tolist() == [10.0] * 4
    assert labels.tolist() == list(range(8))


def test_a_thousand_batches_in_a_tight_place() -> None:
    """256 descriptors, and a /dev/shm of 1 MB, where this process may mount one."""
    done = run_program(
        """
        import ctypes, os, resource
        CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
        libc = ctypes.CDLL(None, use_errno=True)
        small = False
        if libc.unshare(CLONE_NEWNS) == 0:
            libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            small = libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=1m") == 0
        assert not small or os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 1 << 20
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        import torch
        from penstock import DataLoader
        from tests.datasets import Named, Squares
        for dataset in (Squares(8000, width=1000), Named(8000, width=1000)):
            loader = DataLoader(dataset, batch_size=8, num_workers=2)
            kept = list(loader)
            assert len(kept) == 1000, len(kept)
            for number, (images, _) in enumerate(kept):
                want = torch.arange(8 * number, 8 * number + 8.0)
                want = want**2 if type(dataset) is Squares else want
                assert torch.equal(images, want[:, None].expand(8, 1000)), number
        print("intact", len(os.listdir("/proc/self/fd")) < 30)
        """,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == "intact True", done.stderr


class Pairs(Dataset[Any]):
    """Two columns, of which the second one's place depends on the number of rows."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        return torch.full((100,), float(index)), index


def test_a_slot_is_used_again_for_another_number_of_rows() -> None:
    loader = DataLoader(Pairs(), batch_size=4, num_workers=1, prefetch_factor=1, persistent_workers=True)
    with loader:
        for _ in range(2):
            first = 0
            for columns, numbers in loader:  # each is gone when the next one comes
                expected = list(range(first, min(30, first + 4)))
                assert numbers.tolist() == expected
                assert columns[:, 99].tolist() == expected
                first += 4


class Zeros(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return torch._efficientzerotensor((7,))  # type: ignore[attr-defined]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_zeros_that_are_nowhere(batch_size: int) -> None:
    with DataLoader(Zeros(), batch_size=batch_size, num_workers=1) as loader:
        assert all(torch.equal(batch, torch.zeros(batch_size, 7)) for batch in loader)


def test_past_the_budget_batches_are_copied_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.arena.slots.available_memory", lambda: 4 << 20)  # a budget of 1 MB
    loader = DataLoader(Squares(200, width=5000), batch_size=4, num_workers=2)
    kept = list(loader)
    stats = loader.stats()
    assert stats.copied_batches > 0
    assert stats.slots * 80_000 <= 1 << 20
    assert [int(labels[0]) for _, labels in kept] == list(range(0, 200, 4))
    assert all(bool((images[1] == float(labels[1]) ** 2).all()) for images, labels in kept)


def test_torchs_warning_of_too_many_workers_knows_of_quotas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000")
    words = "This DataLoader will create"
    with pytest.warns(UserWarning, match=words) as torchs:
        torch.utils.data.DataLoader(Squares(4), num_workers=1000)
    monkeypatch.setattr("penstock.machine.CGROUP", tmp_path)
    with pytest.warns(UserWarning, match=words) as ours:
        loader = DataLoader(Squares(4), num_workers=2)
    with pytest.warns(UserWarning, match=words) as again:
        list(loader)
    allowed = f"system is {len(os.sched_getaffinity(0))},"
    text = str(torchs[0].message).replace("create 1000", "create 2").replace(allowed, "system is 1,")
    assert [str(warning.message) for warning in (*ours, *again)] == [text, text]


# -- life cycle ----------------------------------------------------------------------------------


def test_breaking_off_ends_the_workers() -> None:
    for _ in DataLoader(Squares(1000), batch_size=2, num_workers=2):
        break
    assert our_children() == []


def test_an_exception_in_the_loop_ends_the_workers() -> None:
    def train() -> None:
        for _ in DataLoader(Squares(1000), batch_size=2, num_workers=2):
            raise ValueError("the user's")

    with pytest.raises(ValueError, match="the user's"):
        train()
    assert our_children() == []


def test_closing() -> None:
    with DataLoader(Squares(100), batch_size=2, num_workers=2, persistent_workers=True) as loader:
        iterator = iter(loader)
        batch = next(iterator)
        assert our_children()
    assert our_children() == []
    assert batch[1].tolist() == [0, 1]
    loader.close()
    with pytest.raises(ClosedError, match="closed"):
        next(iterator)
    with pytest.raises(ClosedError, match="closed"):
        iter(loader)


def test_an_exhausted_iterator_stays_exhausted() -> None:
    for workers in (0, 2):
        iterator = iter(DataLoader(Squares(4), batch_size=2, num_workers=workers))
        assert len(list(iterator)) == 2
        assert list(iterator) == []


def test_persistent_workers_are_the_same_in_every_epoch(tmp_path: Path) -> None:
    loader = DataLoader(Marks(tmp_path), batch_size=2, num_workers=2, persistent_workers=True)
    first = list(loader)
    pids = set(os.listdir(tmp_path))
    for _ in loader:
        break  # left early: what is in the making is dropped
    assert equal(list(loader), first)
    assert set(os.listdir(tmp_path)) <= pids | {str(p.pid) for p in our_children()}
    assert len(os.listdir(tmp_path)) <= 2
    loader.close()


def test_several_iterators_at_once() -> None:
    loader = DataLoader(Squares(20), batch_size=2, num_workers=2)
    pairs = list(zip(loader, loader, strict=True))
    assert len(pairs) == 10
    assert all(equal(a, b) for a, b in pairs)


def test_a_changed_dataset_is_seen_changed() -> None:
    dataset = Squares(4)
    loader = DataLoader(dataset, batch_size=4, num_workers=2)
    assert next(iter(loader))[0].shape == (4, 4)
    dataset.width = 7
    assert next(iter(loader))[0].shape == (4, 7)


def test_copies_have_workers_of_their_own() -> None:
    loader = DataLoader(Squares(8), batch_size=4, num_workers=2)
    first = list(loader)
    for other in (copy.copy(loader), pickle.loads(pickle.dumps(loader))):
        assert equal(list(other), first)


def test_use_in_a_forked_child_is_refused_and_harmless() -> None:
    loader = DataLoader(Squares(400), batch_size=2, num_workers=2)
    iterator = iter(loader)
    kept = [next(iterator) for _ in range(20)]  # some of those that follow are ready
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for _ in range(2):
                with pytest.raises(ClosedError):
                    next(iterator)
            kept.clear()
            loader.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    kept += list(iterator)
    assert [labels.tolist() for _, labels in kept] == [[i, i + 1] for i in range(0, 400, 2)]


def test_without_workers_a_forked_child_goes_on_by_itself() -> None:
    iterator = iter(DataLoader(Squares(12), batch_size=2))
    next(iterator)

    def go_on() -> None:
        assert [labels.tolist() for _, labels in iterator] == [[i, i + 1] for i in range(2, 12, 2)]

    assert in_child(go_on) == 0
    go_on()


def test_a_fork_while_another_thread_has_its_turn() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hook(_: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            leave.wait()

    iterator = iter(DataLoader(Hooked(hook), batch_size=4))
    thread = threading.Thread(target=next, args=(iterator,))
    thread.start()
    entered.wait()

    def go_on() -> None:
        assert sum(len(indices) for _, indices in iterator) == 100

    try:
        assert in_child(go_on) == 0
    finally:
        leave.set()
        thread.join()


class Draws(Squares):
    """Takes its samples from a loader of its own, which the main process began to iterate."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.source = iter(DataLoader(Squares(100), batch_size=1))
        next(self.source)

    def __getitem__(self, index: int) -> Any:
        return index, int(next(self.source)[1])


def test_a_loader_inside_a_dataset_goes_on_in_the_workers() -> None:
    (batch,) = DataLoader(Draws(4), batch_size=4, num_workers=1)
    assert batch[1].tolist() == [1, 2, 3, 4]


def test_an_iterator_that_raised_is_gone_at_once() -> None:
    iterator = iter(DataLoader(Hooked(lambda index: 1 // (4 - index)), batch_size=2))
    gone = weakref.ref(iterator)
    gc.disable()
    try:
        with contextlib.suppress(ZeroDivisionError):
            for _ in iterator:
                pass
        del iterator
        assert gone() is None
    finally:
        gc.enable()


# -- workers' surroundings -----------------------------------------------------------------------


def test_the_dataset_never_runs_in_the_main_process(tmp_path: Path) -> None:
    list(DataLoader(Marks(tmp_path), batch_size=4, num_workers=2))
    assert os.listdir(tmp_path)
    assert str(os.getpid()) not in os.listdir(tmp_path)


class Records(Squares):
    """Reads record i of a file, which each process opens for itself, as is done for HDF5 and LMDB."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(size)
        self.path, self.file = path, None
        path.write_bytes(b"".join(index.to_bytes(8, "little") for index in range(size)))

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            self.file = self.path.open("rb", buffering=0)
        self.file.seek(8 * index)
        os.sched_yield()  # had two processes the file in common, one would now read what the other wants
        value = int.from_bytes(self.file.read(8), "little")
        if index == 150 and not self.path.with_suffix(".died").exists():
            self.path.with_suffix(".died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return value


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_file_opened_at_the_first_sample_is_open_in_the_workers_alone(method: str, tmp_path: Path) -> None:
    dataset = Records(tmp_path / "records", 400)
    loader = DataLoader(dataset, batch_size=5, num_workers=3, multiprocessing_context=method)
    for _ in range(2):
        assert torch.cat(list(loader)).tolist() == list(range(400))
        assert dataset.file is None
    assert (tmp_path / "records.died").exists(), "a replacement opened it anew"


class KeepsGenerator(Squares):
    """Draws from a generator of its own, whose state every forked worker inherits."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.rng = np.random.default_rng()

    def __getitem__(self, index: int) -> Any:
        return self.rng.random()


@pytest.mark.parametrize("persistent", [False, True])
def test_a_generator_kept_in_the_dataset_never_draws_the_same_twice(persistent: bool) -> None:
    loader = DataLoader(KeepsGenerator(60), batch_size=5, num_workers=2, persistent_workers=persistent)
    with loader:
        drawn = torch.cat([batch for _ in range(2) for batch in loader])
    assert len(drawn.unique()) == 120


def look_around(_: int) -> None:
    info = get_worker_info()
    assert info is not None
    assert info.num_workers == 2
    assert info.id in (0, 1)
    assert type(info.dataset) is Hooked
    assert torch.initial_seed() is not None
    assert torch.get_num_threads() == 1


def test_workers_look_like_torchs() -> None:
    list(DataLoader(Hooked(look_around), batch_size=4, num_workers=2))
    assert get_worker_info() is None


def test_worker_init_fn_runs_in_every_worker() -> None:
    seen = {}

    def remember(worker: int) -> None:
        seen["worker"] = worker

    def check(_: int) -> None:
        info = get_worker_info()
        assert info is not None
        assert seen == {"worker": info.id}

    list(DataLoader(Hooked(check), batch_size=4, num_workers=2, worker_init_fn=remember))
    assert seen == {}


def test_worker_init_fn_that_raises() -> None:
    def broken(_: int) -> None:
        raise LookupError("no such device")

    with pytest.raises(LookupError, match="no such device"):
        list(DataLoader(Squares(8), batch_size=4, num_workers=2, worker_init_fn=broken))


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_other_start_methods(method: str) -> None:
    scale = 3

    class Local(Squares):
        def __getitem__(self, index: int) -> Any:
            return torch.tensor([index * scale])

    loader = DataLoader(
        Local(20), batch_size=5, num_workers=2, multiprocessing_context=method, collate_fn=lambda s: sum(s)
    )
    assert [batch.item() for batch in loader] == [30, 105, 180, 255]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.slow
def test_a_class_of_the_program_that_only_its_name_can_send(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import functools, threading, torch, penstock

        lock = threading.Lock()

        class Tens(torch.utils.data.Dataset):
            @functools.cached_property
            def factor(self):
                return 10

            def __len__(self):
                return 4

            def __getitem__(self, index):
                with lock:
                    return index * self.factor

        if __name__ == "__main__":
            loader = penstock.DataLoader(
                Tens(), batch_size=4, num_workers=1, multiprocessing_context={method!r}
            )
            print([batch.tolist() for batch in loader])
        """)
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("[[0, 10, 20, 30]]\n", "")


@pytest.mark.slow
def test_a_spawned_interpreter_takes_down_what_the_program_made(tmp_path: Path) -> None:
    """As Python does at the end of a process; C++ libraries tell on standard error of what is left."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import os, penstock

        class Ends:
            def __init__(self):
                self.itself = self

            def __del__(self, write=os.write):
                write(1, b"ended\\n")

        kept = Ends()
        if __name__ == "__main__":
            loader = penstock.DataLoader([1, 2], num_workers=1, multiprocessing_context="spawn")
            assert [int(batch) for batch in loader] == [1, 2]
        """)
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("ended\n" * 2, "")


# -- randomness ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_random_samples_do_not_depend_on_the_workers() -> None:
    def run(**arguments: Any) -> list[Any]:
        torch.manual_seed(5)
        return list(DataLoader(Noise(60), batch_size=8, shuffle=True, **arguments))

    one = run(num_workers=1)
    assert equal(run(num_workers=2), one)
    assert equal(run(num_workers=3, prefetch_factor=4), one)
    flat = np.concatenate([batch[0].numpy().ravel() for batch in one])
    assert len(np.unique(flat)) == flat.size


class SometimesNoise(Squares):
    """Uses no randomness at first, then here and there."""

    def __getitem__(self, index: int) -> Any:
        noise = torch.rand(1).item() if index > 60 and index % 7 == 0 else 0.0
        return torch.tensor([float(index), noise])


def test_randomness_that_comes_late_is_seeded_all_the_same() -> None:
    def run(workers: int, batch_size: int = 4) -> list[Any]:
        torch.manual_seed(5)
        return list(DataLoader(SometimesNoise(200), batch_size=batch_size, num_workers=workers))

    assert equal(run(1), run(2))


def test_epochs_differ_and_persistent_ones_too() -> None:
    for persistent in (False, True):
        loader = DataLoader(Noise(8), batch_size=8, num_workers=1, persistent_workers=persistent)
        (first,), (second,) = list(loader), list(loader)
        assert not equal(first, second)
        loader.close()


class Shared(Squares):
    """Keeps what processes share."""

    def __init__(self, context: Any) -> None:
        super().__init__(4)
        self.factor, self.lock = context.Value("i", 1), context.Lock()
        self.shared = torch.zeros(4).share_memory_()
        self.view = self.shared[2:]
        self.own = torch.ones(2)

    def __getitem__(self, index: int) -> Any:
        with self.lock:
            return self.factor.value, self.shared.clone(), self.view.clone(), self.own.clone()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_what_processes_share_stays_shared(method: str) -> None:
    """A curriculum's progress, say, or the epoch of a Hugging Face IterableDataset."""
    dataset = Shared(multiprocessing.get_context(method))
    loader = DataLoader(dataset, 4, num_workers=2, persistent_workers=True, multiprocessing_context=method)
    with loader:
        (first,) = list(loader)
        dataset.factor.value = 7
        dataset.shared += 5
        dataset.own += 5
        (second,) = list(loader)
    assert [leaf[0].tolist() for leaf in first] == [1, [0] * 4, [0] * 2, [1] * 2]
    assert [leaf[0].tolist() for leaf in second] == [7, [5] * 4, [5] * 2, [1] * 2]
    assert not dataset.own.is_shared()


# -- stats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_stats(workers: int) -> None:
    loader = DataLoader(Squares(20), batch_size=4, num_workers=workers)
    assert loader.stats().batches == 0
    kept = [batch for batch in loader]  # noqa: C416
    stats = loader.stats()
    assert stats.batches == len(kept) == 5
    assert stats.samples == 20
    assert stats.first_batch_s is not None
    assert 0 < stats.first_batch_s <= stats.wait_s + stats.first_batch_s
    assert sum(w.samples for w in stats.workers.values()) == 20
    assert all(w.busy_s > 0 for w in stats.workers.values() if w.samples)
    if workers:
        assert stats.slots_in_use == 5
        assert stats.batch_bytes > 0
        del kept
        assert loader.stats().slots_in_use == 0


def test_in_order_false_gives_the_same_batches() -> None:
    try:
        loader = DataLoader(Squares(40), batch_size=2, num_workers=2, in_order=False)
    except TypeError:
        pytest.skip("torch before 2.6 has no in_order")
    assert sorted(labels.tolist() for _, labels in loader) == [[i, i + 1] for i in range(0, 40, 2)]


# -- forks by the user ---------------------------------------------------------------------------


def in_child(check: Any) -> int:
    """Run `check` in a forked child; its exit status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        signal.alarm(60)
        torch.set_num_threads(1)  # a forked child can't use the threads of OpenMP
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read_all(loader: Any, size: int) -> None:
    for batch, (images, labels) in enumerate(loader):
        assert labels.tolist() == list(range(4 * batch, 4 * batch + 4))
        assert images[:, -1].tolist() == [float(i) ** 2 for i in labels.tolist()]
    assert 4 * batch + 4 == size


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("persistent", [False, True])
def test_parent_and_child_of_a_fork_load_apart(workers: int, persistent: bool) -> None:
    if persistent and not workers:
        pytest.skip("torch refuses that")
    loader = DataLoader(
        Squares(200, width=50_000), batch_size=4, num_workers=workers, persistent_workers=persistent
    )
    iterator = iter(loader)
    kept = [next(iterator) for _ in range(3)]
    before = [images.clone() for images, _ in kept]

    def load_in_child(inherited: Any = iterator) -> None:
        if workers:
            with pytest.raises(ClosedError):
                list(inherited)
        else:
            assert len(list(inherited)) == 47
        read_all(loader, 200)
        loader.close()

    assert in_child(load_in_child) == 0
    assert all(torch.equal(images, copy) for (images, _), copy in zip(kept, before, strict=True))
    del iterator, load_in_child
    read_all(loader, 200)
    loader.close()


def test_without_workers_a_forked_child_keeps_its_batch() -> None:
    iterator = iter(DataLoader(Squares(80, width=100_000), batch_size=4))
    batch = next(iterator)
    gate = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(gate[0], 1)
        os._exit(0 if batch[0][:, 0].tolist() == [0.0, 1.0, 4.0, 9.0] else 1)
    del batch
    for _ in iterator:
        pass
    os.write(gate[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in gate:
        os.close(fd)


# -- what user code may keep ---------------------------------------------------------------------


class Remembers:
    """A collate function that keeps its first batch, as mixup or a memory bank does."""

    first: Any = None

    def __call__(self, samples: list[Any]) -> Any:
        batch = torch.utils.data.default_collate(samples)[0]
        if self.first is None:
            self.first = batch
        return batch[:, 0].clone(), self.first[:, 0].clone()


@pytest.mark.parametrize("workers", [0, 1])
def test_collate_fn_may_keep_what_it_collated(workers: int) -> None:
    loader = DataLoader(Squares(80, width=50_000), batch_size=4, num_workers=workers, collate_fn=Remembers())
    assert {tuple(first.tolist()) for _, first in loader} == {(0.0, 1.0, 4.0, 9.0)}


def test_without_workers_each_sample_is_fetched_once() -> None:
    fetched: list[int] = []
    list(DataLoader(Hooked(fetched.append, size=8), batch_size=4))
    list(DataLoader(Hooked(fetched.append, size=8), batch_size=4, collate_fn=lambda samples: samples))
    assert fetched == [*range(8), *range(8)]


def test_more_batches_are_kept_than_there_are_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.arena.memory.MAX_SLOTS", 16)
    monkeypatch.setattr("penstock.arena.memory.FEWEST_SLOTS", 16)
    for workers in (0, 2):
        loader = DataLoader(Squares(400, width=20_000), batch_size=4, num_workers=workers)
        kept = list(loader)
        assert [labels[0].item() for _, labels in kept] == list(range(0, 400, 4))
        assert len(list(loader)) == 100, "also while the first epoch's are held"


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_closed_loader_held_is_gone_with_it(workers: int) -> None:
    gc.collect()
    gc.disable()
    try:
        loader = DataLoader(Squares(8), batch_size=4, num_workers=workers)
        list(loader)
        loader.close()
        arena = weakref.ref(loader.__dict__["_latest"][1])
        del loader
        assert arena() is None, "not only when the garbage collector comes"
    finally:
        gc.enable()


# -- randomness that leaves no trace -------------------------------------------------------------


class Traceless(Squares):
    """Reads torch's seed, and draws in a scope that restores the generator."""

    def __getitem__(self, index: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            drawn = torch.rand(2)
        return drawn, np.random.default_rng(torch.initial_seed() + index).random(2)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_torchs_seed_may_be_read_without_being_drawn_from() -> None:
    def run(workers: int) -> list[Any]:
        torch.manual_seed(5)
        return list(DataLoader(Traceless(120), batch_size=8, num_workers=workers))

    one = run(1)
    assert equal(run(2), one)
    assert equal(run(3), one)
    assert len(torch.cat([drawn for drawn, _ in one]).unique()) == 240


class InitialSeeds(Squares):
    def __getitem__(self, index: int) -> Any:
        return torch.initial_seed()


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_seed_fits_into_a_tensor_as_in_torch(workers: int) -> None:
    seeds = torch.cat(list(DataLoader(InitialSeeds(64), batch_size=8, num_workers=workers, seed=1)))
    assert len(seeds.unique()) == 64


# -- surroundings --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [pytest.param("SIG_IGN", marks=pytest.mark.slow), "lambda *_: reap()"])
def test_a_program_that_reaps_children_itself(how: str) -> None:
    done = run_program(
        f"""
        import os, signal
        from penstock import DataLoader
        from tests.datasets import Squares
        def reap():
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
        signal.signal(signal.SIGCHLD, {"signal." + how if how == "SIG_IGN" else how})
        loader = DataLoader(Squares(40), batch_size=4, num_workers=2)
        print(len(list(loader)), len(list(loader)))
        """,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == "10 10", done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    "limit", ["RLIMIT_AS, 12 << 30", pytest.param("RLIMIT_FSIZE, 1 << 30", marks=pytest.mark.slow)]
)
def test_limits_of_address_space_and_file_size(limit: str) -> None:
    done = run_program(
        f"""
        import resource
        name, value = resource.{limit}
        resource.setrlimit(name, (value, value))
        from penstock import DataLoader
        from tests.datasets import Squares
        print(len(list(DataLoader(Squares(40, width=300_000), batch_size=8, num_workers=2))))
        """,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == "5", done.stderr


def test_a_warm_slot_is_not_counted_as_missing_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [16 << 30]
    for module in ("penstock.arena.memory", "penstock.arena.slots"):
        monkeypatch.setattr(f"{module}.available_memory", lambda: free[0])
    loader = DataLoader(Squares(8, width=25_000_000), batch_size=1, num_workers=1, prefetch_factor=1)
    assert len(list(loader)) == 8
    free[0] = 50 << 20
    assert len(list(loader)) == 8


# -- epochs and seeds ----------------------------------------------------------------------------


class Epochs(Squares):
    """Knows which epoch it is in."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Any:
        return self.epoch, torch.rand(1)


class EpochSampler(torch.utils.data.SequentialSampler):
    epochs: list[int]

    def set_epoch(self, epoch: int) -> None:
        self.epochs = [*getattr(self, "epochs", []), epoch]


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_set_epoch_reaches_the_sampler_and_the_dataset_everywhere(options: dict[str, Any]) -> None:
    dataset = Epochs(12)
    sampler = EpochSampler(dataset)
    with DataLoader(dataset, batch_size=4, sampler=sampler, **options) as loader:
        for epoch in (0, 3, 4):
            loader.set_epoch(epoch)
            assert [epochs.tolist() for epochs, _ in loader] == [[epoch] * 4] * 3
    assert sampler.epochs == [0, 3, 4]


def test_a_dataset_changed_between_epochs_is_seen_changed() -> None:
    dataset = Epochs(8)
    loader = DataLoader(dataset, batch_size=4, num_workers=2)
    for dataset.epoch in (5, 6):
        assert [epochs.tolist() for epochs, _ in loader] == [[dataset.epoch] * 4] * 2


SETTINGS = [{}, {"num_workers": 1}, {"num_workers": 3}, {"num_workers": 2, "prefetch_factor": 5}]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("options", SETTINGS)
def test_random_samples_are_the_same_with_and_without_workers(options: dict[str, Any]) -> None:
    def run(**options: Any) -> list[Any]:
        torch.manual_seed(7)
        loader = DataLoader(Noise(60), batch_size=4, shuffle=True, **options)
        return [*loader, *loader]

    assert equal(run(**options), run(num_workers=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_seed_alone_decides_what_samples_draw(workers: int) -> None:
    def run(seed: int, epoch: int | None = None) -> list[Any]:
        loader = DataLoader(Noise(20), batch_size=4, num_workers=workers, seed=seed)
        if epoch is not None:
            loader.set_epoch(epoch)
        return [*loader, *loader] if epoch is None else list(loader)

    both = run(1)
    assert equal(run(1), both)
    assert not equal(both[:5], both[5:]), "the second epoch draws anew"
    assert equal(run(1, epoch=1), both[5:])
    assert not equal(run(2), both)


def test_the_callers_generators_are_left_alone() -> None:
    before = torch.get_rng_state().tolist()
    loader = DataLoader(Noise(20), batch_size=4, seed=1)
    iterator = iter(loader)
    after_iter = torch.get_rng_state().tolist()
    assert after_iter != before, "torch draws a base seed too"
    list(iterator)
    assert torch.get_rng_state().tolist() == after_iter


@pytest.mark.parametrize("workers", [0, 2])
def test_seeding_by_worker_is_torchs_scheme(workers: int) -> None:
    def run(kind: Any, **options: Any) -> list[Any]:
        torch.manual_seed(7)
        np.random.seed(7)
        return list(kind(Drawing(8), batch_size=4, num_workers=workers, prefetch_factor=None, **options))

    assert equal(run(DataLoader, seeding="worker"), run(torch.utils.data.DataLoader))


class Drawing(Squares):
    def __getitem__(self, index: int) -> Any:
        return torch.rand(2)


def test_an_unknown_seeding_is_refused() -> None:
    with pytest.raises(ValueError, match="'sample' or 'worker'"):
        DataLoader(Squares(3), seeding="none")


def test_every_argument_is_an_attribute_of_its_name() -> None:
    import inspect

    loader = DataLoader(Squares(8), batch_size=2, num_workers=2, prefetch_factor=3, seed=5)
    names = set(inspect.signature(DataLoader.__init__).parameters) - {"self", "shuffle"}
    assert {name for name in names if not hasattr(loader, name)} == set()
    again = DataLoader(
        **{name: getattr(loader, name) for name in names - {"batch_sampler"} if name in vars(loader)}
    )
    assert equal(list(again), list(loader))


def test_the_kept_iterator_may_be_reset_to_none() -> None:
    loader = DataLoader(Squares(8), batch_size=2, num_workers=1, persistent_workers=True)
    first = iter(loader)
    assert loader._iterator is first
    loader._iterator = None
    del first
    assert our_children() == []
    assert len(list(loader)) == 4
    assert isinstance(DataLoader[Any], object)
    loader.close()


def test_a_subclass_may_have_attributes_of_the_names_that_are_ours() -> None:
    class Theirs(DataLoader[Any]):
        on_error = property(lambda _: "theirs")

        def __init__(self, data: Any, seed: str, **options: Any) -> None:
            self.seed = seed  # type: ignore[assignment]
            super().__init__(data, **options)
            self.errors = []  # type: ignore[assignment]
            self.policy = self.seeding = "theirs"

    loader = Theirs(Squares(8), seed="theirs", batch_size=2, num_workers=1)
    assert len(list(loader)) == 4
    assert (loader.seed, loader.errors, loader.on_error) == ("theirs", [], "theirs")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("end", ["its end", "close"])
def test_several_threads_draw_from_one_iterator(workers: int, end: str) -> None:
    """Each batch goes to one of them, and all learn of the end."""
    loader = DataLoader(Squares(200), batch_size=2, num_workers=workers)
    iterator, taken, ended = iter(loader), queue.Queue[Any](), queue.Queue[str]()

    def draw() -> None:
        try:
            while True:
                taken.put(next(iterator)[1].tolist())
        except (StopIteration, ClosedError) as error:
            ended.put(type(error).__name__)

    threads = [threading.Thread(target=draw) for _ in range(5)]
    for thread in threads:
        thread.start()
    if end == "close":
        taken.get(timeout=30)
        loader.close()
    assert {ended.get(timeout=30) for _ in threads} <= {"StopIteration", "ClosedError"}
    for thread in threads:
        thread.join()
    loader.close()
    if end == "its end":
        assert sorted(i for _ in range(100) for i in taken.get_nowait()) == list(range(200))


def test_a_prefetch_factor_that_is_no_whole_number_is_refused_as_in_torch() -> None:
    for kind in (torch.utils.data.DataLoader, DataLoader):
        with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
            iter(kind(Squares(4), num_workers=1, prefetch_factor=1.5))  # type: ignore[arg-type]
