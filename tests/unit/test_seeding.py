"""The generators' seed for each sample, and noticing who uses them."""

from __future__ import annotations

import array
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from penstock.mixing import STEP, mix
from penstock.seeding import LEARN, SampleSeeder, find_generators, generators
from penstock.seeding.generators import PythonGenerator
from penstock.seeding.twister import AT_ONCE, States

USES: dict[str, Callable[[], Any]] = {
    "torch.rand": lambda: torch.rand(1),
    "torch.randn": lambda: torch.randn(1),
    "torch.randperm": lambda: torch.randperm(3),
    "torch.manual_seed": lambda: torch.manual_seed(5 << 20),
    "random.random": random.random,
    "random.gauss": lambda: random.gauss(0, 1),
    "random.seed": lambda: random.seed(5),
    "np.random.rand": np.random.rand,
    "np.random.randn": np.random.randn,
    "np.random.shuffle": lambda: np.random.shuffle([1, 2, 3]),
    "np.random.seed": lambda: np.random.seed(5),
}


WATCHED = {name: use for name, use in USES.items() if not name.startswith("torch")}


@pytest.fixture(autouse=True)
def same_generators_afterwards() -> Iterator[None]:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    yield
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])


def draws() -> tuple[Any, ...]:
    return torch.rand(2).tolist(), random.random(), np.random.rand(2).tolist(), np.random.randn(1).tolist()


def spread(seed: int) -> int:
    """Another number for each seed, in all its 64 bits."""
    return seed * 0x9E3779B97F4A7C15 % 2**64


def nothing() -> None:
    """A sample that uses no randomness."""


class Bench:
    """Runs tasks of three samples each, and counts how often."""

    def __init__(self, dataset: Any = None, keep_state: bool = False) -> None:
        self.seeder = SampleSeeder(dataset, keep_state=keep_state)
        self.runs = 0

    def task(self, sample: Callable[[], Any] = nothing, seed: int = 7) -> list[Any]:
        """What `sample` gave for the three of them."""
        while True:
            self.runs += 1
            seeds = self.seeder.begin([spread(seed + k) for k in range(3)], studied=2)
            made = []
            for k in range(3):
                seeds.set(k)
                made.append(sample())
            if not self.seeder.end(completed=True):
                return made

    def quiet(self, tasks: int = LEARN) -> Bench:
        for _ in range(tasks):
            self.task()
        return self

    @property
    def sets_only_torch(self) -> bool:
        before = random.getstate(), np.random.get_state()[1].tolist()
        self.seeder.begin([1 << 60], studied=0).set(0)
        self.seeder.end(completed=False)
        return before == (random.getstate(), np.random.get_state()[1].tolist())


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_the_same_seed_gives_the_same_draws(seed: int) -> None:
    assert Bench().task(draws, seed) == Bench().task(draws, seed)


class Shifted(random.Random):
    """With a seed of its own."""

    def seed(self, a: Any = None, version: int = 2) -> None:
        super().seed(a if a is None else a + 1, version)


def set_by(generator: PythonGenerator, seeds: Sequence[int], k: int) -> None:
    for call, values in generator.setters(seeds):
        call(values[k])


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**64 - 1])
def test_a_class_of_the_users_is_given_the_seed(seed: int) -> None:
    found, expected = Shifted(3), random.Random(seed + 1)
    found.gauss(0, 1)  # of two numbers it keeps the second
    set_by(PythonGenerator(found), [seed], 0)
    assert found.getstate() == expected.getstate()


def state_of(seed: int) -> tuple[Any, ...]:
    """As docs/reproducibility.md has it."""
    pairs = [mix(seed ^ mix((k + STEP) % 2**64)) for k in range(312)]
    return 3, (*[half for pair in pairs for half in (pair % 2**32, pair >> 32)], 0), None


def without_words(generator: PythonGenerator) -> PythonGenerator:
    """As where the interpreter isn't CPython, or keeps them elsewhere."""
    generator._words = None
    return generator


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("make", [PythonGenerator, lambda r: without_words(PythonGenerator(r))])
def test_pythons_state_is_made_of_the_seed(make: Callable[[random.Random], Any], seed: int) -> None:
    found = random.Random(3)
    found.gauss(0, 1)
    generator = make(found)
    set_by(generator, [seed], 0)
    assert found.getstate() == state_of(seed)
    before = generator.state()
    drawn = [found.random() for _ in range(700)], found.gauss(0, 1)  # past the words that were made
    assert generator.state() != before
    generator.restore(before)
    assert ([found.random() for _ in range(700)], found.gauss(0, 1)) == drawn
    generator.seed(seed)
    assert found.getstate() == state_of(seed)


def test_pythons_state_is_written_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PythonGenerator(random.Random(1))._words is not None
    in_another_order = SimpleNamespace(array=lambda kind, words: array.array(kind, reversed(words)))
    monkeypatch.setattr(generators, "array", in_another_order)
    assert PythonGenerator(random.Random(1))._words is None


def test_states_are_the_same_one_by_one_and_all_at_once() -> None:
    seeds = [spread(k) for k in range(2 * AT_ONCE + 5)]
    states, expected = States(seeds), [bytes(state) for state in States(seeds)]
    assert len(expected) == len(set(expected)) == len(states) == len(seeds)
    for k in [*range(len(seeds)), *reversed(range(len(seeds))), 3, AT_ONCE, 2 * AT_ONCE]:
        assert states[k] == expected[k]
    assert list(States([])) == []
    assert bytes(*States([0])) != bytes(2500)  # a twister of zeros stays at zero


@pytest.mark.parametrize("place", [0, 1, 30, 623, 624, 1300])
def test_draws_of_neighbouring_seeds_are_spread_evenly(place: int) -> None:
    """By the chi-square test; what is drawn by itself, and beside the next seed's and the next draw."""
    generator, drawn = random.Random(), np.empty((4000, 2))
    steps = PythonGenerator(generator).setters(range(4000))
    for k in range(4000):
        for call, values in steps:
            call(values[k])
        generator.getrandbits(32 * place)
        drawn[k] = generator.random(), generator.random()
    first, second = drawn.T
    for pair in ((first, second), (first[1:], first[:-1]), (first[1:], second[:-1])):
        cells, _, _ = np.histogram2d(*pair, bins=8, range=[(0, 1), (0, 1)])
        expected = cells.sum() / cells.size
        assert ((cells - expected) ** 2).sum() / expected < 117  # 1 in 30,000, of 63 degrees of freedom


@pytest.mark.parametrize(
    ("seed", "other", "draw"),
    [
        (1, 9, lambda: torch.rand(2).tolist()),
        (1, 9, random.random),
        (1, 9, np.random.rand),
    ],
    ids=["torch", "random", "numpy"],
)
def test_another_seed_gives_other_draws(seed: int, other: int, draw: Callable[[], Any]) -> None:
    assert Bench().task(draw, seed) != Bench().task(draw, other)


@pytest.mark.parametrize("use", WATCHED.values(), ids=WATCHED)
def test_a_generator_that_was_used_while_learning_is_always_seeded(use: Callable[[], Any]) -> None:
    bench = Bench().quiet(LEARN - 1)
    bench.task(use)
    bench.quiet(2 * LEARN)
    assert not bench.sets_only_torch


def test_torch_alone_is_seeded_after_enough_quiet_tasks_and_not_before() -> None:
    bench = Bench().quiet(LEARN - 1)
    assert not bench.sets_only_torch
    bench.quiet(1)
    assert bench.sets_only_torch
    bench.quiet(3)
    assert bench.runs == LEARN + 3


def test_tasks_that_did_not_complete_teach_nothing() -> None:
    seeder = SampleSeeder(None)
    for _ in range(2 * LEARN):
        seeder.begin([1, 2], studied=1).set(0)
        assert not seeder.end(completed=False)
    seeder.begin([1], studied=0).set(0)
    found = random.getstate()
    assert found == state_of(1)


@pytest.mark.parametrize("use", WATCHED.values(), ids=WATCHED)
def test_a_first_use_after_that_runs_the_task_again_seeded(use: Callable[[], Any]) -> None:
    bench = Bench().quiet()
    before = bench.runs
    bench.task(use)
    assert bench.runs == before + 2
    assert not bench.sets_only_torch


def test_what_is_drawn_does_not_depend_on_what_came_before() -> None:
    assert Bench().quiet().task(draws) == Bench().task(draws)


def test_only_what_is_used_is_seeded() -> None:
    bench = Bench()
    for _ in range(LEARN):
        bench.task(torch.rand(1).item)
        bench.task(lambda: torch.rand(1))
    states = random.getstate(), np.random.get_state()[1].tolist()
    bench.task(lambda: torch.rand(1))
    assert states == (random.getstate(), np.random.get_state()[1].tolist())


class Slotted:
    __slots__ = ("generator", "unset")

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def draw(self) -> Any:
        return self.generator.random()


class ClassWide:
    R = np.random.RandomState(5)


def closure(generator: Any) -> Callable[[], Any]:
    return lambda: generator


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "PCG64": (lambda: np.random.default_rng(1), lambda g: g.random()),
    "PCG64DXSM": (lambda: np.random.Generator(np.random.PCG64DXSM(1)), lambda g: g.random()),
    "Philox": (lambda: np.random.Generator(np.random.Philox(1)), lambda g: g.random()),
    "SFC64": (lambda: np.random.Generator(np.random.SFC64(1)), lambda g: g.random()),
    "MT19937": (lambda: np.random.Generator(np.random.MT19937(1)), lambda g: g.random()),
    "32 bits of 64": (lambda: np.random.default_rng(1), lambda g: g.integers(99, dtype=np.uint32)),
    "RandomState": (lambda: np.random.RandomState(1), lambda g: g.randn()),
    "RandomState over PCG64": (lambda: np.random.RandomState(np.random.PCG64(1)), lambda g: g.randn()),
    "random.Random": (lambda: random.Random(1), lambda g: g.gauss(0, 1)),
    "torch.Generator": (torch.Generator, lambda g: torch.rand(1, generator=g).item()),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "attribute": Slotted,
    "list": lambda g: [1, "a", [g]],
    "dict": lambda g: {"a": {"b": g}},
    "partial": lambda g: partial(print, g),
    "closure": closure,
    "subset": lambda g: torch.utils.data.Subset(Slotted(g), [0]),  # type: ignore[arg-type]
    "bound method": lambda g: Slotted(g).draw,
    "built-in bound method": lambda g: g.random,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_generators_that_a_dataset_keeps_are_seeded(kind: str) -> None:
    make, draw = KINDS[kind]
    results = []
    for used_before in (0, 5):
        generator = make()
        for _ in range(used_before):
            draw(generator)
        results.append(Bench([generator]).task(lambda g=generator: draw(g)))
    assert results[0] == results[1]
    assert len(set(results[0])) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_generator_is_as_it_was_where_that_is_asked_for(kind: str) -> None:
    make, draw = KINDS[kind]
    generator, twin = make(), make()
    for each in (generator, twin):
        draw(each)
    bench = Bench([generator], keep_state=True)
    bench.task(lambda: draw(generator))
    bench.quiet(2)
    assert [draw(generator) for _ in range(3)] == [draw(twin) for _ in range(3)]


@pytest.mark.parametrize("place", PLACES)
def test_generators_are_found_wherever_they_are_kept(place: str) -> None:
    generator = random.Random(0)
    found = find_generators(PLACES[place](generator))
    assert [each.identity for each in found.values()] == [generator]


def test_a_generator_of_the_class_is_found() -> None:
    (found,) = find_generators([ClassWide()]).values()
    assert found.identity is ClassWide.R


def test_containers_and_transforms_of_the_class_are_looked_into() -> None:
    class Jitter:
        def __init__(self) -> None:
            self.rng = random.Random()

        def __call__(self, value: float) -> float:
            return value + self.rng.random()

    class Dataset:
        rngs: ClassVar[dict[str, Any]] = {"a": np.random.default_rng()}
        transform = Jitter()
        kind = Jitter

        def __getitem__(self, index: int) -> float:
            return self.transform(index)

    found = find_generators(Dataset())
    assert {path: each.identity for path, each in found.items()} == {
        ".rngs['a']": Dataset.rngs["a"],
        ".transform.rng": Dataset.transform.rng,
    }


def test_looking_for_generators_runs_no_code_of_the_users() -> None:
    class Kind(type):
        def __getattr__(cls, name: str) -> Any:
            raise OSError(name)

    class Thing(metaclass=Kind):
        def __call__(self) -> None: ...

    class Lazy(dict[str, Any]):
        def items(self) -> Any:
            raise OSError

    class Shy(list[Any]):
        def __iter__(self) -> Any:
            raise OSError

    class Dataset:
        thing, kept = Thing(), Shy([random.Random()])

        def __init__(self) -> None:
            self.lazy = Lazy(a=random.Random())

    dataset = Dataset()
    assert {each.identity for each in find_generators(dataset).values()} == {
        Dataset.kept[0],
        dataset.lazy["a"],
    }


def test_two_generators_of_a_dataset_draw_differently() -> None:
    pair = [np.random.default_rng(0), np.random.default_rng(0)]
    assert all(a != b for a, b in Bench(pair).task(lambda: tuple(g.random() for g in pair)))


def test_a_generator_that_is_made_with_the_first_sample_is_found_too() -> None:
    results = []
    for _ in range(2):
        dataset: dict[str, Any] = {}

        def draw(dataset: dict[str, Any] = dataset) -> float:
            value: float = dataset.setdefault("rng", np.random.default_rng()).random()
            return value

        results.append(Bench(dataset).task(draw))
    assert results[0] == results[1]


def test_the_callers_state_is_as_it_was_where_that_is_asked_for() -> None:
    bench = Bench(keep_state=True)
    for sample in (draws, nothing, draws):
        np.random.randn()  # leaves a second number for later
        states = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
        bench.task(sample)
        assert states == (torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state()))


def test_the_callers_state_is_put_back_after_a_first_late_use() -> None:
    bench = Bench(keep_state=True).quiet()
    np.random.seed(3)  # the second of a pair of normal numbers would be lost
    states = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
    bench.task(draws)
    assert states == (torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state()))


def test_a_long_list_is_not_walked_through() -> None:
    class Counting(list[Any]):
        seen = 0

        def __iter__(self) -> Iterator[Any]:
            for item in super().__iter__():
                Counting.seen += 1
                yield item

    find_generators([Counting(["path"] * 100_000)])
    assert Counting.seen <= 2000


def test_the_global_generators_are_no_generators_of_the_dataset() -> None:
    kept = [random.random, np.random.rand, torch.default_generator]
    assert Bench(kept).task(draws) == Bench().task(draws)


def test_what_is_far_behind_a_collate_fn_costs_little() -> None:
    class Program:
        def __init__(self, depth: int) -> None:
            self.rng = np.random.default_rng(depth)
            self.parts = [] if depth == 0 else [Program(depth - 1) for _ in range(5)]

        def collate(self, samples: Any) -> Any:
            return samples

    found = find_generators(Program(6).collate, "collate_fn", 2000)
    assert "collate_fn().rng" in found
    assert len(found) < 2000
