"""`penstock.cache` under loaders: the same batches, bit for bit, with less work."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, RandomSampler, Subset
from torchvision import transforms as v1

import penstock
from penstock.ready import MOST_BATCHES
from penstock.stats import observers
from tests.datasets import Kills, Marks, Mixed, Named, Noise, Ragged, Squares
from tests.equality import difference
from tests.unit.test_pipeline import Pictures, TwoViews, WithMask, darker, in_place, noisy, v2

ROOM = "10MB"


def same_batches(one: Any, other: Any, epochs: int = 2) -> None:
    for _ in range(epochs):
        for a, b in itertools.zip_longest(one, other):
            assert difference(a, b) is None


def loaders(dataset: Any, cached: Any, **options: Any) -> list[Any]:
    return [
        penstock.DataLoader(
            each, generator=torch.Generator().manual_seed(1), **{"batch_size": 4, "shuffle": True, **options}
        )
        for each in (dataset, cached)
    ]


DATASETS: dict[str, Callable[[], Any]] = {
    "rows": Squares,
    "mixed": Mixed,
    "packed": Named,
    "ragged": Ragged,
    "random tail": lambda: Pictures(v1.Compose([v1.Resize(9), v1.RandomCrop(5), noisy]), 21),
    "pillow": lambda: Pictures(v1.Compose([v1.ColorJitter(0.5), v1.ToTensor()]), 9, pillow=True),
    "in place": lambda: Pictures(v1.Compose([torch.clone, in_place]), 9),
    "two views": lambda: TwoViews(v1.Compose([darker, noisy]), 9),
    "image and mask": lambda: WithMask(v2.Compose([v2.Resize(9), v2.RandomCrop(5)]), 9),
    "subset": lambda: Subset(Pictures(v1.Compose([darker, noisy])), [4, 4, 1]),
}


def collate(samples: list[Any]) -> list[Any]:
    return samples


@pytest.mark.parametrize("name", DATASETS)
def test_a_cached_dataset_gives_the_same_batches(name: str) -> None:
    dataset = DATASETS[name]()
    cached = penstock.cache(dataset, memory=ROOM)
    options = {"collate_fn": collate} if name == "ragged" else {}
    same_batches(*loaders(dataset, cached, **options))
    stats = cached.stats()
    assert stats.stored == stats.samples == len(dataset)
    assert (stats.misses, stats.hits) == (len(dataset), len(dataset))
    assert stats.stored_bytes > 0
    assert stats.saved_s > 0


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(list(DATASETS)),
    budget=st.sampled_from([1, 700, 3000, 10**7]),
    workers=st.sampled_from([0, 0, 2]),
    batch_size=st.integers(1, 7),
    order=st.lists(st.integers(0, 2), min_size=3, max_size=20),
    seed=st.none() | st.integers(0, 99),
)
def test_whatever_is_cached_the_batches_are_the_same(
    name: str, budget: int, workers: int, batch_size: int, order: list[int], seed: int | None
) -> None:
    dataset = DATASETS[name]()
    cached = penstock.cache(dataset, memory=budget)
    options = {
        "sampler": order,
        "shuffle": None,
        "batch_size": batch_size,
        "seed": seed,
        "num_workers": workers,
    }
    if name == "ragged":
        options["collate_fn"] = collate
    same_batches(*loaders(dataset, cached, **options))
    assert cached.stats().stored_bytes <= budget


@pytest.mark.parametrize("workers", [0, 2])
def test_random_steps_stay_random(workers: int) -> None:
    dataset = Pictures(v1.Compose([darker, noisy]), 16)
    plain, cached = loaders(dataset, penstock.cache(dataset, memory=ROOM), num_workers=workers, shuffle=False)
    epochs = [[torch.cat([batch[0] for batch in loader]) for _ in range(4)] for loader in (plain, cached)]
    assert all(torch.equal(a, b) for a, b in zip(*epochs, strict=True))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(epochs[1], 2))


def test_a_loader_tells_what_the_cache_in_its_dataset_did() -> None:
    dataset = penstock.cache(Squares(20))
    loader = penstock.DataLoader(Subset(dataset, range(10)), batch_size=5)
    for _ in range(2):
        list(loader)
    assert loader.stats().cache == dataset.stats()
    assert (dataset.stats().misses, dataset.stats().hits) == (10, 10)
    assert penstock.DataLoader(Squares(20)).stats().cache is None


def test_generators_that_a_dataset_keeps_are_seeded_alike() -> None:
    class Keeps(Pictures):
        def __init__(self) -> None:
            self.generator = torch.Generator()
            super().__init__(v1.Compose([darker, self.noise]))

        def noise(self, value: torch.Tensor) -> torch.Tensor:
            return value + torch.randint(0, 99, (1,), generator=self.generator)

    dataset = Keeps()
    cached = penstock.cache(dataset, memory=ROOM)
    same_batches(*loaders(dataset, cached))
    same_batches(*loaders(Subset(dataset, [5, 1]), Subset(cached, [5, 1])))


def test_workers_share_one_store(tmp_path: Path) -> None:
    dataset = Marks(tmp_path)
    cached = penstock.cache(dataset, memory=ROOM)
    with penstock.DataLoader(cached, batch_size=2, num_workers=2, collate_fn=collate) as loader:
        list(loader)
        fetched = {path.name for path in tmp_path.iterdir()}
        for path in tmp_path.iterdir():
            path.unlink()
        list(loader)
    assert fetched
    assert not list(tmp_path.iterdir())
    assert cached.stats().hits == 20


@pytest.mark.parametrize("workers", [0, 2])
def test_it_works_under_torchs_loader(workers: int) -> None:
    dataset = Mixed(20)
    cached = penstock.cache(dataset, memory=ROOM)
    options: dict[str, Any] = {"batch_size": 4, "num_workers": workers}
    same_batches(TorchDataLoader(dataset, **options), TorchDataLoader(cached, **options))
    assert cached.stats().hits == 20


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_started_workers_share_the_store_too(method: str) -> None:
    cached = penstock.cache(Squares(20), memory=ROOM)
    options: dict[str, Any] = {"batch_size": 4, "num_workers": 2, "multiprocessing_context": method}
    with penstock.DataLoader(cached, **options) as loader:
        same_batches(loader, penstock.DataLoader(Squares(20), batch_size=4), epochs=1)
    assert cached.stats().stored == 20
    assert list(TorchDataLoader(cached, **options))
    assert cached.stats().hits == 20


def test_a_copy_in_another_process_shares_the_store_and_one_without_it_works() -> None:
    cached = penstock.cache(Squares(20), memory=ROOM)
    copy = pickle.loads(pickle.dumps(cached))
    copy[3]
    assert cached.stats().stored == 1
    data = pickle.dumps(cached)
    del cached, copy
    with pytest.warns(UserWarning, match="can't be reached"):
        alone = pickle.loads(data)
    assert difference(alone[3], Squares()[3]) is None
    assert alone.stats().stored == 0


def test_what_is_handed_out_can_be_changed_in_place() -> None:
    for dataset in (Squares(8), Named(8)):
        cached = penstock.cache(dataset, memory=ROOM)
        for _ in range(3):
            cached[2][0].fill_(77)
            for batch in penstock.DataLoader(cached, batch_size=4):
                batch[0].fill_(77)
        assert difference(cached[2], dataset[2]) is None


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As a launcher of two ranks has it; where the notes are."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "12345")
    return tmp_path / f"penstock-{os.getuid()}"


def test_ranks_of_one_machine_share_one_store(ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = penstock.cache(Squares(20), memory=ROOM)
    pid = os.fork()
    if pid == 0:
        try:
            rank = penstock.cache(Squares(20), memory="1MB")
            os._exit(0 if rank[3] and rank.stats().budget == 10**7 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert cached.stats().stored == 1
    assert penstock.cache(Squares(21), memory=ROOM).stats().stored == 0  # another dataset
    monkeypatch.setenv("MASTER_PORT", "54321")
    assert penstock.cache(Squares(20), memory=ROOM).stats().stored == 0  # another job
    del cached
    assert list(ranks.iterdir()) == []


def test_a_rank_whose_note_is_of_a_dead_one_makes_its_own_store(ranks: Path) -> None:
    pid = os.fork()
    if pid == 0:
        cached = penstock.cache(Squares(20), memory=ROOM)
        os.kill(os.getpid(), signal.SIGKILL if len(cached) else 0)
    os.waitpid(pid, 0)
    assert len(list(ranks.iterdir())) == 1
    cached = penstock.cache(Squares(20), memory=ROOM)
    assert difference(cached[3], Squares()[3]) is None
    assert cached.stats().stored == 1


# -- epochs that are gathered ------------------------------------------------------------------------


def filled(dataset: Any) -> Any:
    cached = penstock.cache(dataset, memory=ROOM)
    for index in range(len(dataset)):
        cached[index]
    return cached


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Squares, Mixed])
def test_a_full_cache_of_rows_is_gathered_without_workers(kind: Any, workers: int) -> None:
    dataset, cached = kind(130), filled(kind(130))
    plain, gathered = loaders(dataset, cached, num_workers=workers)
    same_batches(plain, gathered)
    assert list(gathered.stats().workers) == [0]
    assert gathered.stats().samples == 130
    same_batches(*loaders(Subset(dataset, range(40, 80)), Subset(cached, range(40, 80)), num_workers=workers))


def test_large_batches_are_gathered_in_the_workers() -> None:
    dataset = Squares(24, width=50_000)
    plain, cached = loaders(dataset, filled(dataset), num_workers=2, batch_size=8)
    same_batches(plain, cached)
    assert cached.stats().workers
    assert cached.stats().batch_bytes > 0


def test_an_index_that_is_not_there_fails_as_without_a_cache() -> None:
    cached = filled(Squares(20))
    loader = penstock.DataLoader(cached, batch_size=2, sampler=[1, 2, 3, 20, 4, 5])
    batches = iter(loader)
    assert torch.equal(next(batches)[1], torch.tensor([1, 2]))
    with pytest.raises(IndexError, match="20"):
        next(batches)
    assert torch.equal(next(batches)[1], torch.tensor([4, 5]))


def as_list(count: int) -> list[int]:
    return list(range(count))


def as_tensor(count: int) -> torch.Tensor:
    return torch.arange(count)


@pytest.mark.parametrize("kind", [as_list, as_tensor, range, np.arange])
def test_an_index_that_a_subset_has_not_fails_when_its_turn_comes(kind: Any) -> None:
    part = Subset(filled(Squares(20)), kind(10))
    batches = iter(penstock.DataLoader(part, sampler=RandomSampler(range(11), generator=seeded())))
    plain = iter(TorchDataLoader(part, sampler=RandomSampler(range(11), generator=seeded())))
    for _ in range(11):
        try:
            expected = next(plain)
        except IndexError:
            with pytest.raises(IndexError):
                next(batches)
        else:
            assert difference(next(batches), expected) is None
    assert list(batches) == []


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("bad", [[], [0, 10**6]], ids=str)
def test_what_a_sampler_raises_comes_after_batches_that_cannot_be_gathered(bad: Any, workers: int) -> None:
    class Breaks:
        batch_size = 2

        def __iter__(self) -> Any:
            yield from ([0, 1], bad, [4, 5])
            raise KeyError("sampler")

    cached = filled(Squares(20))
    batches = iter(penstock.DataLoader(cached, batch_sampler=Breaks(), num_workers=workers))
    assert next(batches)[1].tolist() == [0, 1]
    with pytest.raises(IndexError):
        next(batches)
    assert next(batches)[1].tolist() == [4, 5]
    with pytest.raises(KeyError, match="sampler"):
        next(batches)


def test_hits_count_as_they_are_gathered() -> None:
    cached = filled(Squares(3000))
    before = cached.stats()
    batches = iter(penstock.DataLoader(cached, batch_size=2))
    next(batches)
    assert cached.stats().hits - before.hits == 2 * MOST_BATCHES
    assert len(list(batches)) == 1499
    assert cached.stats().hits - before.hits == 3000
    assert cached.stats().saved_s > before.saved_s


def test_who_comes_late_is_told_from_the_next_gather_on() -> None:
    told: list[float] = []
    batches = iter(penstock.DataLoader(filled(Squares(3000))))
    next(batches)
    observers.append(told.append)
    try:
        assert len(list(batches)) == 2999
    finally:
        observers.remove(told.append)
    assert len(told) == 3000 - MOST_BATCHES


def test_what_a_sampler_raises_comes_in_its_turn() -> None:
    def breaks() -> Any:
        yield from range(5)
        raise KeyError("sampler")

    class Breaks:
        def __iter__(self) -> Any:
            return breaks()

    batches = iter(penstock.DataLoader(filled(Squares(20)), batch_size=2, sampler=Breaks()))  # type: ignore[arg-type]
    assert [next(batches)[1].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(KeyError, match="sampler"):
        next(batches)


def test_a_gathered_epoch_can_be_resumed() -> None:
    loader = penstock.DataLoader(filled(Squares(40)), batch_size=4, shuffle=True, seed=3)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    rest = list(batches)
    other = penstock.DataLoader(Squares(40), batch_size=4, shuffle=True, seed=3)
    other.load_state_dict(state)
    same_batches(rest, other, epochs=1)


def test_every_gathered_batch_is_told_of() -> None:
    told: list[float] = []
    observers.append(told.append)
    try:
        loader = penstock.DataLoader(filled(Squares(40)), batch_size=4)
        assert len(list(loader)) == len(told) == 10
    finally:
        observers.remove(told.append)
    assert told[0] > 0
    assert sum(told) == pytest.approx(loader.stats().wait_s)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_gathered_batches_are_counted_as_they_are_handed_over(size: int) -> None:
    loader = penstock.DataLoader(filled(Squares(40)), batch_size=size, shuffle=True, seed=3)
    whole = list(loader)
    loader.set_epoch(0)
    again = iter(loader)
    for count in range(1, len(whole)):
        next(again)
        stats, state = loader.stats(), loader.state_dict()
        assert (stats.batches, stats.samples) == (count, count * size)
        assert (again._num_yielded, state["_num_yielded"]) == (count, count)
    again.close()
    assert (loader.stats().batches, loader.state_dict()) == (count, state)
    with pytest.raises(penstock.ClosedError):
        next(again)


@pytest.mark.parametrize("size", [1, 7, 20, 64])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"num_workers": 2}], ids=str)
def test_gathers_and_what_is_looked_up_at_once_end_anywhere(
    monkeypatch: pytest.MonkeyPatch, size: int, options: Any
) -> None:
    monkeypatch.setattr("penstock.ready.GATHER_BYTES", 160)
    monkeypatch.setattr("penstock.ready.MOST_SAMPLES", 17)
    dataset = Mixed(131)
    options = {"batch_size": size, "shuffle": True, **options}
    plain, gathered = TorchDataLoader(dataset, **options), penstock.DataLoader(filled(dataset), **options)
    for epoch in range(2):
        torch.manual_seed(epoch)
        expected = list(plain)
        torch.manual_seed(epoch)
        same_batches(expected, gathered, epochs=1)
    assert gathered.stats().batches == len(expected)


def test_a_loader_goes_on_from_the_midst_of_a_gather() -> None:
    one, other = loaders(filled(Squares(40)), filled(Squares(40)))
    whole = list(one)
    iterator = iter(other)
    begun = [next(iterator) for _ in range(3)]
    state = other.state_dict()
    begun += [next(iterator) for _ in range(2)]
    other.load_state_dict(state)
    same_batches(begun[:3] + list(iterator), whole, epochs=1)


def test_each_gathered_batch_goes_to_one_of_many_threads() -> None:
    loader = penstock.DataLoader(filled(Mixed(4000)), batch_size=2)
    iterator, got, start = iter(loader), list[list[Any]](), threading.Barrier(4)

    def draw() -> None:
        start.wait()
        got.append(list(iterator))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = list(loader)
    drawn = sorted(itertools.chain.from_iterable(got), key=lambda batch: int(batch["zero_d"][0]))
    assert difference(drawn, expected) is None
    assert loader.stats().batches == 2000


class Floats(Squares):
    """Of one number each, or of such a dtype as numpy doesn't have."""

    dtype = torch.float32

    def __getitem__(self, index: Any) -> Any:
        return torch.full((3,), float(index if isinstance(index, int) else index[0]), dtype=self.dtype)


class Halves(Floats):
    dtype = torch.bfloat16


@pytest.mark.parametrize("kind", [Floats, Halves])
def test_gathered_batches_know_nothing_of_each_other(kind: Any) -> None:
    batches = iter(penstock.DataLoader(filled(kind(40)), batch_size=4))
    weight = torch.ones(3, requires_grad=True, dtype=kind.dtype)
    next(batches)
    with torch.inference_mode():
        next(batches)
    with torch.no_grad():
        first = next(batches)
    first[0] = weight  # no view that was made without gradients
    second, third = next(batches), next(batches)
    loss = (second * weight).sum()
    third.mul_(2)
    (loss + (third * weight).sum()).backward()
    assert second.untyped_storage().nbytes() == 4 * 3 * kind.dtype.itemsize
    second.untyped_storage().fill_(0)
    assert next(batches)[:, 0].tolist() == [20.0, 21.0, 22.0, 23.0]


def test_gathered_batches_of_all_loaders_stand_in_the_same_memory_by_turns() -> None:
    cached = filled(Floats(40))
    kept = next(iter(penstock.DataLoader(cached, batch_size=40)))
    places = set()
    for _ in range(5):
        (batch,) = penstock.DataLoader(cached, batch_size=40)
        places.add(batch.data_ptr())
        batch.fill_(-1)
        del batch
    assert len(places) <= 2
    assert kept.data_ptr() not in places
    assert kept[:, 0].tolist() == list(range(40))


def test_indices_that_are_tuples_are_left_to_the_dataset() -> None:
    cached = filled(Floats(40))
    for sampler in ([(3, 5), (2, 5)], [(3, 5), (2,)]):
        (batch,) = penstock.DataLoader(cached, batch_size=2, sampler=sampler)
        assert batch[:, 0].tolist() == [3.0, 2.0]


class Grouped(list[Any]):
    """A batch sampler whose size is told in its own way."""

    def __init__(self, size: Any) -> None:
        super().__init__([[0, 1], [2, 3, 4], [5]])
        self.batch_size = size


@pytest.mark.parametrize("size", [2, [2, 3], "auto", None, -1, 0], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_any_size_of_a_batch_sampler(size: Any, workers: int) -> None:
    loader = penstock.DataLoader(filled(Floats(6)), batch_sampler=Grouped(size), num_workers=workers)
    assert [batch[:, 0].tolist() for batch in loader] == [[0.0, 1.0], [2.0, 3.0, 4.0], [5.0]]


@pytest.mark.parametrize("options", [{}, {"replacement": True}, {"num_samples": 100}])
@pytest.mark.parametrize("size", [5, 8])
def test_others_that_draw_from_the_samplers_generator_see_no_difference(options: Any, size: int) -> None:
    cached, seen = filled(Squares(40)), []
    for kind in (TorchDataLoader, penstock.DataLoader):
        generator = torch.Generator().manual_seed(1)
        loader = kind(cached, size, sampler=RandomSampler(cached, generator=generator, **options))
        seen.append([(batch, torch.rand(1, generator=generator)) for batch in loader])
        seen[-1].append(torch.rand(1, generator=generator))
    assert difference(*seen) is None


def test_a_batch_keeps_its_values_while_others_are_made() -> None:
    dataset = Squares(60)
    kept = list(penstock.DataLoader(filled(dataset), batch_size=3))
    same_batches(kept, penstock.DataLoader(dataset, batch_size=3), epochs=1)


# -- faults ------------------------------------------------------------------------------------------


class KillsOnce(Squares):
    """The worker that makes sample 5 first is killed on its way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(20, 1000)
        self.folder = folder

    def __getitem__(self, index: int) -> Any:
        if index == 5 and self.armed():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)

    def armed(self) -> bool:
        try:
            (self.folder / "armed").unlink()
        except OSError:
            return False
        return True


def test_a_worker_that_is_killed_leaves_the_cache_whole(tmp_path: Path) -> None:
    dataset = KillsOnce(tmp_path)
    cached = penstock.cache(dataset, memory=ROOM)
    (tmp_path / "armed").touch()
    with penstock.DataLoader(cached, batch_size=4, num_workers=2) as loader:
        same_batches(loader, penstock.DataLoader(dataset, batch_size=4))
        assert not dataset.armed()
    assert cached.stats().stored == 20


class Unlucky(Dataset[Any]):
    """Kills its process while the bytes of a sample are being stored: in the midst of its pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return index, Trap(self.folder if index == 7 else None)


class Trap:
    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def __getstate__(self) -> Any:
        if self.folder is not None and (self.folder / "armed").exists():
            (self.folder / "armed").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return vars(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trap) and other.folder == self.folder

    __hash__ = None  # type: ignore[assignment]


def test_a_worker_that_is_killed_while_it_stores_leaves_nothing_locked(tmp_path: Path) -> None:
    cached = penstock.cache(Unlucky(tmp_path), memory=ROOM)
    (tmp_path / "armed").touch()
    with penstock.DataLoader(cached, batch_size=3, num_workers=2, collate_fn=collate) as loader:
        for _ in range(2):
            assert [sample[0] for batch in loader for sample in batch] == list(range(12))
    assert not (tmp_path / "armed").exists()
    assert cached.stats().stored == 12


def test_bad_samples_fail_as_without_a_cache() -> None:
    cached = penstock.cache(Kills(0, bad=99), memory=ROOM)
    assert len(cached) == 20
    with pytest.raises(IndexError):
        cached[20]


# -- the call ----------------------------------------------------------------------------------------


def test_it_is_refused_where_nothing_is_the_same_every_time() -> None:
    with pytest.raises(penstock.NotRepeatableError, match="nothing of Noise can be kept"):
        penstock.cache(Noise())


def test_it_tells_what_it_keeps() -> None:
    cached = penstock.cache(Pictures(v1.Compose([darker, noisy])), memory="1MB", until="noisy")
    cached[0]
    text = cached.explain()
    assert "kept  darker" in text
    assert "1.0 MB at most: 1 of 12 samples" in text
    assert cached.dataset.transform.transforms == [darker, noisy]
