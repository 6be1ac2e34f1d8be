"""``num_workers="auto"``: workers come and go while a loader is iterated, and the batches stay the same."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

import penstock
from penstock import DataLoader, upgrade
from penstock.tuning import Controller, Limits, Observation
from tests.conftest import our_children
from tests.datasets import Fails, Hooked, Marks, Mixed, Named, Noise, Ragged, Squares, equal

WINDOW = 80
"""More batches than one observation takes, with those that are passed over before it."""


class Script(Controller):
    """Decides what is written, whatever is measured."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(Limits(8, 8))
        self._next = iter(numbers)

    def observe(self, seen: Observation, room: int) -> None:  # noqa: ARG002
        if seen.workers == self.workers and not self.settled:
            following = next(self._next, None)
            self.settled = following is None or following == 0
            self._decide(self.workers if following is None else following, self.settled, "it is written")


def scripted(dataset: Any, *numbers: int, **options: Any) -> DataLoader[Any]:
    """A loader whose number of workers changes as is written."""
    loader = DataLoader(
        dataset, num_workers="auto", **{"batch_size": 2, "shuffle": True, "seed": 3, **options}
    )
    loader._controller = Script(*numbers)
    return loader


def fixed(dataset: Any, workers: int = 0, epochs: int = 1, **options: Any) -> list[Any]:
    """The same batches from a fixed number of workers."""
    torch.manual_seed(1)
    given = {"batch_size": 2, "shuffle": True, "seed": 3, **options}
    loader = DataLoader(dataset, num_workers=workers, **given)
    return [batch for _ in range(epochs) for batch in loader]


def run(loader: DataLoader[Any]) -> list[Any]:
    torch.manual_seed(1)
    return [copy.deepcopy(batch) for batch in loader]


def run_through(loader: DataLoader[Any]) -> tuple[int, list[Any]]:
    """Epochs until all that is written was tried, and their batches: beside other programs, an epoch may be
    over before a worker has started."""
    torch.manual_seed(1)
    batches = []
    for epoch in range(1, 51):
        batches += [copy.deepcopy(batch) for batch in loader]
        if loader._controller is not None and loader._controller.settled:
            return epoch, batches
    pytest.fail(f"{loader.stats().decisions}")


def workers_alive() -> int:
    """Our children but for the template."""
    return sum(1 for process in our_children() if process.ppid() != os.getpid())


def tried(loader: DataLoader[Any]) -> list[int]:
    return [decision.workers for decision in loader.stats().decisions]


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.loader.auto.cpus", lambda: 4)
    monkeypatch.setattr("penstock.loader.dataloader.cpus", lambda: 4)


# -- the batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Noise, Mixed, Named, Ragged])
def test_the_batches_are_those_of_any_fixed_number(kind: type[Squares]) -> None:
    numbers = 3, 1, 0
    dataset = kind(2 * WINDOW * (len(numbers) + 1))
    options: dict[str, Any] = {"collate_fn": list} if kind is Ragged else {}
    loader = scripted(dataset, *numbers, **options)
    epochs, batches = run_through(loader)
    assert tried(loader) == [1, *numbers]
    for workers in (0, 2):
        assert equal(batches, fixed(dataset, workers, epochs, **options))


def test_the_batches_without_a_seed_of_their_own() -> None:
    dataset = Noise(4 * WINDOW)
    options: dict[str, Any] = {"seed": None}
    assert equal(run(scripted(dataset, 3, **options)), fixed(dataset, 2, **options))


def test_batches_that_are_kept_outlive_the_workers_that_made_them() -> None:
    dataset = Squares(6 * WINDOW, width=1000)
    torch.manual_seed(1)
    kept = list(scripted(dataset, 3, 0))
    assert equal(kept, fixed(dataset))


def test_out_of_order_every_batch_comes_once() -> None:
    loader = scripted(Squares(6 * WINDOW), 3, 0, in_order=False)
    assert sorted(torch.cat([indices for _, indices in loader]).tolist()) == list(range(6 * WINDOW))


@pytest.mark.slow
def test_every_epoch_is_that_of_a_fixed_number() -> None:
    for persistent in (False, True):
        dataset, numbers = Noise(2 * WINDOW), (3, 1, 2, 0)
        with scripted(dataset, *numbers, persistent_workers=persistent) as auto:
            epochs, batches = run_through(auto)
        assert tried(auto) == [1, *numbers]
        assert equal(batches, fixed(dataset, 2 * persistent, epochs, persistent_workers=persistent))


def test_a_bad_sample_is_raised_and_the_next_batch_can_be_had() -> None:
    for last in (2, 0):
        dataset = Fails(KeyError("bad"), bad=5, size=4 * WINDOW)
        loader = scripted(dataset, last, shuffle=False)
        batches = iter(loader)
        indices: list[int] = []
        raised = 0
        while True:
            try:
                indices += next(batches)[1].tolist()
            except KeyError:
                raised += 1
            except StopIteration:
                break
        assert (indices, raised) == ([i for i in range(4 * WINDOW) if i not in (4, 5)], 1)
        assert tried(loader)[1] == last


# -- the workers ---------------------------------------------------------------------------------------


def test_workers_are_really_added_and_removed() -> None:
    loader = scripted(Squares(10 * WINDOW), 3, 1)
    counts = []
    for _ in range(50):
        settled = loader._controller is not None and loader._controller.settled
        counts += [workers_alive() for number, _ in enumerate(loader) if number % 8 == 0]
        if settled:
            break
    assert (counts[0], max(counts), counts[-1]) == (1, 3, 1)


def test_all_that_are_added_work() -> None:
    loader = scripted(Squares(400 * WINDOW), 4)
    for _ in loader:
        if set(loader.stats().workers) == {0, 1, 2, 3}:
            return
    pytest.fail(f"only these: {loader.stats().workers}")


def test_without_workers_no_process_is_left_and_samples_are_made_here(tmp_path: Path) -> None:
    loader = scripted(Marks(tmp_path, 6 * WINDOW), 0)
    left = None
    for number, _ in enumerate(loader):
        if number % 20 == 0:
            left = our_children()
    assert left == []
    assert str(os.getpid()) in {path.name for path in tmp_path.iterdir()}


def test_in_the_next_epoch_there_are_as_many_as_were_settled_on() -> None:
    for settled in (2, 0):
        loader = scripted(Squares(6 * WINDOW), settled)
        for _ in loader:
            pass
        with loader:
            batches = iter(loader)
            next(batches)
            assert any(workers_alive() == settled for _ in batches)
            assert tried(loader)[-1] == settled


def test_what_was_not_settled_goes_on_in_the_next_epoch() -> None:
    loader = scripted(Squares(40), 2, 3, persistent_workers=True)
    with loader:
        for _ in range(40):
            for _ in loader:
                pass
        assert tried(loader)[:3] == [1, 2, 3] or not loader._controller.settled
        assert loader.stats().decisions[0].batch == 0


@pytest.mark.slow
def test_short_epochs_are_measured_together() -> None:
    loader = DataLoader(Hooked(sleep, 8), batch_size=2, num_workers="auto")
    for _ in range(40):
        for _ in loader:
            pass
        if loader.stats().decisions[-1].workers > 1:
            return
    pytest.fail(f"{loader.stats().decisions}")


def test_leaving_while_workers_come_and_go_leaves_nothing() -> None:
    for numbers in ((4,), (3, 1), (0,)):
        for at in range(12, 24, 4):
            iterator = iter(scripted(Squares(6 * WINDOW), *numbers))
            for _ in range(at):
                next(iterator)
            iterator.close()
            assert our_children() == []


@pytest.mark.slow
def test_two_iterators_at_once_agree() -> None:
    dataset = Noise(6 * WINDOW)
    loader = scripted(dataset, 3, 1, 0, seed=None)
    torch.manual_seed(1)
    pairs = list(zip(loader, loader, strict=True))
    other = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=2)
    torch.manual_seed(1)
    assert equal(pairs, list(zip(other, other, strict=True)))


class Dies(Squares):
    """The worker that gets one of these samples first is killed; the main process must not get it then."""

    def __init__(self, folder: Path, size: int, at: list[int]) -> None:
        super().__init__(size)
        self.folder, self.at, self.main = folder, at, os.getpid()

    def __getitem__(self, index: int) -> Any:
        mark = self.folder / str(index)
        if index in self.at and os.getpid() == self.main:
            assert not mark.exists()
        elif index in self.at and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.rand(3), index


@pytest.mark.slow
def test_workers_that_die_while_others_come_and_go_change_nothing(tmp_path: Path) -> None:
    size = 10 * WINDOW
    at = list(range(0, size // 3, 7))
    dying = run(scripted(Dies(tmp_path, size, at), 3, 1, 4, 2, shuffle=False, max_retries=1000))
    assert len(list(tmp_path.iterdir())) == len(at)
    assert equal(dying, fixed(Dies(tmp_path, size, []), shuffle=False))


def test_a_worker_that_dies_in_the_last_batches_before_there_are_none(tmp_path: Path) -> None:
    """Its samples go to another worker, never to this process."""
    size = 6 * WINDOW
    loader = scripted(Dies(tmp_path, size, list(range(0, 120, 5))), 0, shuffle=False, max_retries=1000)
    assert equal(run(loader), fixed(Dies(tmp_path, size, []), shuffle=False))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_under_every_start_method(method: str) -> None:
    dataset = Squares(10 * WINDOW)
    loader = scripted(dataset, 2, 0, multiprocessing_context=method)
    epochs, batches = run_through(loader)
    assert equal(batches, fixed(dataset, epochs=epochs))
    assert tried(loader) == [1, 2, 0]


# -- saving and going on -------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [5, WINDOW // 2, 3 * WINDOW])
def test_a_state_is_taken_under_any_number_and_goes_on_under_any(given: int) -> None:
    dataset = Noise(8 * WINDOW)
    whole = fixed(dataset)
    torch.manual_seed(1)
    loader = scripted(dataset, 3, 0)
    iterator = iter(loader)
    before = [copy.deepcopy(next(iterator)) for _ in range(given)]
    state = loader.state_dict()
    iterator.close()
    for other in (scripted(dataset, 2, 1), DataLoader(dataset, batch_size=2, shuffle=True, seed=3)):
        other.load_state_dict(state)
        assert equal(before + [copy.deepcopy(batch) for batch in other], whole)


def test_a_loader_without_workers_by_now_goes_on_from_the_state_of_a_fixed_number() -> None:
    dataset = Noise(6 * WINDOW)
    other = DataLoader(dataset, batch_size=2, shuffle=True, seed=3, num_workers=2)
    torch.manual_seed(1)
    iterator = iter(other)
    before = [copy.deepcopy(next(iterator)) for _ in range(9)]
    state = other.state_dict()
    iterator.close()
    loader = scripted(dataset, 0)
    loader.load_state_dict(state)
    assert equal(before + [copy.deepcopy(batch) for batch in loader], fixed(dataset))
    assert tried(loader) == [1, 0]


# -- what is chosen ------------------------------------------------------------------------------------


def sleep(_: int) -> None:
    time.sleep(0.02)


def test_as_many_workers_as_shorten_the_waiting(caplog: pytest.LogCaptureFixture) -> None:
    loader = DataLoader(Hooked(sleep, 200), batch_size=2, num_workers="auto")
    with caplog.at_level(logging.INFO, "penstock"):
        for _ in loader:
            pass
    last = loader.stats().decisions[-1]
    assert (last.workers, last.settled) == (4, True)
    assert last.batch <= 100
    assert [record.getMessage() for record in caplog.records] == [f"num_workers='auto': {last.why}."]


def test_one_worker_where_that_ends_the_waiting() -> None:
    loader = DataLoader(Hooked(sleep, 40), batch_size=1, num_workers="auto")
    for _ in loader:
        time.sleep(0.05)
    assert loader.stats().decisions[-1].workers == 1
    assert loader.stats().decisions[-1].settled


def settled_on(make: Callable[[], DataLoader[Any]], workers: int) -> bool:
    """Whether that is what a loader came to within a hundred batches. Other programs may disturb a
    measurement, so it is given a few chances."""
    for _ in range(4):
        loader = make()
        for _ in loader:
            pass
        last = loader.stats().decisions[-1]
        loader.close()
        if (last.workers, last.settled) == (workers, True) and last.batch <= 100:
            return True
    return False


def test_none_for_the_first_example_of_the_article() -> None:
    scope: dict[str, Any] = {}
    text = (Path(__file__).parent / "programs" / "example1.py").read_text()
    exec(text.partition("# No parallelization")[0], scope)
    dataset = scope["dataset"]
    assert settled_on(lambda: DataLoader(dataset, batch_size=32, shuffle=True, num_workers="auto"), 0)


@pytest.mark.parametrize("persistent", [False, True])
def test_none_for_samples_that_cost_nothing_in_epochs_of_a_few_batches(persistent: bool) -> None:
    for _ in range(4):  # as in `settled_on`
        loader = DataLoader(Squares(24), batch_size=8, num_workers="auto", persistent_workers=persistent)
        for _ in range(60):
            for _ in loader:
                pass
        last = loader.stats().decisions[-1]
        loader.close()
        if (last.workers, last.settled) == (0, True):
            return
    pytest.fail(last.why)


def test_once_all_samples_are_cached_there_are_none() -> None:
    options: dict[str, Any] = {"batch_size": 4, "num_workers": "auto"}
    with DataLoader(penstock.cache(Squares(40)), **options) as loader:
        first = [batch[1].tolist() for batch in loader]
        assert [batch[1].tolist() for batch in loader] == first
        last = loader.stats().decisions[-1]
    assert (last.workers, last.settled, "in the cache" in last.why) == (0, True, True)


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        assert info is not None
        assert info.num_workers == 1
        return iter(range(100))


def test_an_iterable_dataset_has_one_worker() -> None:
    loader = DataLoader(Endless(), batch_size=10, num_workers="auto")
    assert torch.cat(list(loader)).tolist() == list(range(100))
    (decision,) = loader.stats().decisions
    assert (decision.workers, decision.settled) == (1, True)
    assert "iterable" in decision.why


def test_where_it_matters_which_worker_makes_a_batch_there_is_one() -> None:
    loader = DataLoader(Noise(40), batch_size=2, num_workers="auto", seeding="worker")
    torch.manual_seed(1)
    batches = list(loader)
    torch.manual_seed(1)
    assert equal(batches, list(DataLoader(Noise(40), batch_size=2, num_workers=1, seeding="worker")))
    (decision,) = loader.stats().decisions
    assert "seeding='worker'" in decision.why


def until_settled(loader: Any) -> Any:
    """Its decisions; an epoch may be over before a second worker has started."""
    for _ in range(50):
        for _ in loader:
            pass
        decisions = loader.stats().decisions
        if any(decision.settled for decision in decisions):
            return decisions
    raise AssertionError(decisions)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 60}, {"sample_timeout": 60}, {"worker_init_fn": lambda _: None}],
    ids=lambda options: next(iter(options)),
)
def test_what_only_workers_can_do_keeps_one(options: dict[str, Any]) -> None:
    loader = DataLoader(Squares(1000), batch_size=2, num_workers="auto", **options)
    decisions = until_settled(loader)
    assert min(decision.workers for decision in decisions) >= 1


def test_there_are_no_more_workers_than_there_is_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.loader.session.available_memory", lambda: 0)
    for batches, epochs in ((40, 1), (1, 12)):
        loader = DataLoader(Hooked(sleep, batches), batch_size=1, num_workers="auto")
        for _ in range(epochs):
            for _ in loader:
                pass
        assert tried(loader) == [1, 1]
        assert loader.stats().decisions[-1].why.endswith("there is no memory for more")


def test_the_ranks_on_a_machine_share_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert DataLoader(Squares(), num_workers="auto").num_workers == 2


# -- the attribute -------------------------------------------------------------------------------------


def test_as_a_number_it_is_the_most_that_there_may_be() -> None:
    loader = DataLoader(Squares(), num_workers="auto", persistent_workers=True, prefetch_factor=4)
    assert loader.num_workers == 4
    assert (str(loader.num_workers), f"{loader.num_workers}", repr(loader.num_workers)) == ("auto",) * 3


def again(loader: DataLoader[Any]) -> DataLoader[Any]:
    """As frameworks make a loader from another's attributes."""
    names = "num_workers", "prefetch_factor", "persistent_workers", "worker_init_fn", "timeout"
    return DataLoader(loader.dataset, **{name: getattr(loader, name) for name in names})


@pytest.mark.parametrize(
    "copied",
    [again, copy.copy, upgrade, lambda loader: pickle.loads(pickle.dumps(loader))],
    ids=["attributes", "copy", "upgrade", "pickle"],
)
def test_a_loader_made_from_its_attributes_chooses_too(copied: Any) -> None:
    loader = DataLoader(Squares(2000), batch_size=1, num_workers="auto")
    other = copied(loader)
    until_settled(other)
    assert str(other.num_workers) == "auto"


def test_a_fixed_number_decides_nothing() -> None:
    loader = DataLoader(Squares(), num_workers=1)
    list(loader)
    assert loader.stats().decisions == ()


def test_any_other_word_is_refused() -> None:
    with pytest.raises(ValueError, match="a number or 'auto', but got 'many'"):
        DataLoader(Squares(), num_workers="many")  # type: ignore[arg-type]
