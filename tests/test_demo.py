"""The demo: its images, its arithmetic, its sentences, its command, and one real small run."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from penstock import __version__
from penstock.cli import main
from penstock.demo.advice import advise, best, duration
from penstock.demo.cases import (
    LOADERS,
    SIDE,
    CachedDataset,
    ImageFolder,
    SimpleDataset,
    Undecodable,
    leave_out_undecodable,
    worker_counts,
)
from penstock.demo.images import HEIGHT, WIDTH, Recipe, make_images
from penstock.demo.measure import Contender, Pass, Spread, Summary, contender, measure, passes
from penstock.demo.run import Scale
from tests.conftest import our_children

RECIPE = Recipe(count=12, png_every=3, truncated=2, empty=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve images, three of them damaged."""
    made: Path = tmp_path_factory.mktemp("images")
    make_images(made, RECIPE)
    return made


class Busy(Dataset[int]):
    """Sixteen samples that each take this much CPU time."""

    SECONDS = 0.01

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> int:
        end = time.process_time() + self.SECONDS
        while time.process_time() < end:
            pass
        return index


def size(path: Path) -> tuple[int, int]:
    """Width and height of an image."""
    with Image.open(path) as image:
        return image.size


def one_pass(
    samples: int = 64, seconds: float = 2.0, first_batch: float = 0.5, cpu_seconds: float = 3.2
) -> Pass:
    """A pass in batches of 32, its last batch half a second before its end."""
    return Pass(samples, samples // 32, 32, seconds, first_batch, seconds - 0.5, cpu_seconds)


def summary(loader: str, workers: int, rate: float, cpu_per_sample: float) -> Summary:
    """A row of this many samples per second."""
    run = one_pass(seconds=64 / rate, cpu_seconds=64 * cpu_per_sample)
    return Summary(loader, workers, (run,))


def rows(torch_rates: Sequence[float], penstock_rates: Sequence[float], overhead: float = 2) -> list[Summary]:
    """Rows for 0, 1, 2... workers of each loader; workers multiply the CPU time by `overhead`."""
    return [
        summary(loader, workers, rate, 10e-3 * (overhead if workers else 1))
        for loader, rates in (("torch", torch_rates), ("penstock", penstock_rates))
        for workers, rate in enumerate(rates)
    ]


class TestImages:
    def test_the_same_recipe_makes_the_same_files(self, folder: Path, tmp_path: Path) -> None:
        again = make_images(tmp_path / "new", RECIPE)
        assert [path.name for path in again] == sorted(path.name for path in folder.iterdir())
        assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in again)

    def test_another_seed_makes_other_images(self, folder: Path, tmp_path: Path) -> None:
        other = make_images(tmp_path, Recipe(count=12, seed=1, png_every=3))
        assert all(path.read_bytes() != (folder / path.name).read_bytes() for path in other)

    def test_sizes_vary(self, folder: Path) -> None:
        assert len({size(path) for path in folder.iterdir() if path.stat().st_size}) > 6

    def test_sizes_are_alike_without_spread(self, tmp_path: Path) -> None:
        paths = make_images(tmp_path, Recipe(3, spread=0, truncated=0, empty=0))
        assert [size(path) for path in paths] == [(WIDTH, HEIGHT)] * 3

    def test_jpeg_files_weigh_what_photographs_weigh(self, tmp_path: Path) -> None:
        paths = make_images(tmp_path, Recipe(4, spread=0, truncated=0, empty=0))
        assert all(80_000 < path.stat().st_size < 140_000 for path in paths)

    def test_damaged_files_do_not_decode(self, folder: Path) -> None:
        dataset = ImageFolder(folder)
        bad = [sample for sample in map(dataset.__getitem__, range(12)) if not torch.is_tensor(sample)]
        assert len(bad) == 3
        empty = [path for path in folder.iterdir() if path.stat().st_size == 0]
        assert len(empty) == 1
        with pytest.raises(UnidentifiedImageError):
            Image.open(empty[0])

    def test_progress_counts_files(self, tmp_path: Path) -> None:
        calls: list[None] = []
        make_images(tmp_path, Recipe(4), lambda: calls.append(None))
        assert len(calls) == 4

    @pytest.mark.parametrize(
        ("count", "spread", "message"), [(3, 0.3, "cannot hold"), (9, 0.7, "between 0 and 0.5")]
    )
    def test_an_impossible_recipe_is_refused(self, count: int, spread: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Recipe(count, spread=spread)


class TestCases:
    def test_prepared_samples_equal_those_made_on_demand(self) -> None:
        simple, cached = SimpleDataset(5), CachedDataset(5)
        assert all(torch.equal(simple[index], cached[index]) for index in range(len(cached)))

    def test_undecodable_files_are_left_out_and_named(self) -> None:
        image = torch.ones(3, SIDE, SIDE)
        batch = leave_out_undecodable([image, Undecodable("a"), image, Undecodable("b")])
        assert batch.images.shape == (2, 3, SIDE, SIDE)
        assert batch.undecodable == ["a", "b"]

    def test_a_batch_of_undecodable_files_is_empty(self) -> None:
        batch = leave_out_undecodable([Undecodable("a")])
        assert batch.images.shape == (0, 3, SIDE, SIDE)
        assert batch.undecodable == ["a"]

    @pytest.mark.parametrize(("cores", "counts"), [(1, [0, 1, 2]), (3, [0, 1, 2]), (8, [0, 1, 2, 4])])
    def test_worker_counts_follow_the_cores(
        self, cores: int, counts: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
        assert worker_counts() == counts


class TestMeasure:
    def test_a_pass_is_worked_out(self) -> None:
        run = one_pass()
        assert run.rate == 32
        assert run.steady_rate == 32
        assert run.cpu_per_sample == pytest.approx(0.05)

    def test_one_batch_has_no_steady_rate(self) -> None:
        assert one_pass(samples=32).steady_rate is None
        assert Summary("torch", 0, (one_pass(samples=32),)).steady_rate is None

    def test_medians_and_spread(self) -> None:
        runs = tuple(one_pass(seconds=64 / rate) for rate in (10.0, 40.0, 20.0))
        assert Summary("torch", 0, runs).rate == Spread(20, 10, 40)
        assert Spread.of([1, 2]) == Spread(1.5, 1, 2)

    def test_contenders_take_turns_and_the_warm_up_does_not_count(self) -> None:
        order: list[str] = []

        def fake(name: str) -> Contender:
            def go() -> Pass:
                order.append(name)
                return one_pass(seconds=float(len(order)))

            return Contender(name, 0, go)

        contenders = [fake("a"), fake("b"), fake("c")]
        rounds = 20
        summaries = measure(contenders, rounds)
        assert len(order) == passes(contenders, rounds)
        each = [order[start : start + 3] for start in range(0, len(order), 3)]
        assert all(sorted(turns) == ["a", "b", "c"] for turns in each)
        assert len({tuple(turns) for turns in each}) > 3, "none always runs after the same one"
        for summary in summaries:
            seconds = [place for place, name in enumerate(order, 1) if name == summary.loader]
            assert [run.seconds for run in summary.passes] == seconds[1:]

    @pytest.mark.parametrize("loader", LOADERS)
    @pytest.mark.parametrize("workers", [0, 2])
    def test_cpu_time_counts_workers_and_none_is_left(self, loader: str, workers: int) -> None:
        options = {"dataset": Busy(), "batch_size": 4}
        (row,) = measure([contender(LOADERS[loader], loader, workers, options)], rounds=1)
        assert len(Busy()) * Busy.SECONDS < row.passes[0].cpu_seconds < row.passes[0].seconds * 4
        workers_left = our_children()
        assert workers_left == []


class TestAdvice:
    def test_the_best_row(self) -> None:
        all_rows = rows([10, 20, 15], [11, 30, 12])
        assert best(all_rows).rate.median == 30
        assert best(all_rows, "torch").workers == 1
        assert best(all_rows, pooled=False).rate.median == 11

    @pytest.mark.parametrize(
        ("torch_rates", "penstock_rates", "parts"),
        [
            (
                [320_000, 40_000, 64_000],
                [320_000, 150_000, 160_000],
                [
                    "Use num_workers=0",
                    "10 ms of CPU time without workers and 20 ms at best",
                    "5 times slower with 2",
                    "2 times slower with 2",
                ],
            ),
            ([100, 90, 100], [100, 102, 90], ["Use num_workers=0", "no faster with 1 worker than"]),
            ([100, 50], [150, 152], ["penstock.DataLoader is no faster", "Penstock is 1.50 times"]),
            ([150, 50], [100, 120], ["is 1.2 times as fast with 1 worker", "torch is 1.50 times"]),
            (
                [100, 90, 150],
                [100, 95, 195],
                ["Use penstock.DataLoader with num_workers=2, 1.30 times", "10 ms", "this is 1.9 "],
            ),
            ([100, 90, 195], [100, 95, 150], ["Keep torch's DataLoader with num_workers=2, 1.30"]),
            ([100, 90, 195], [100, 95, 200], ["Use num_workers=2 with either", "less than 5%"]),
        ],
    )
    def test_the_sentence_follows_the_figures(
        self, torch_rates: list[float], penstock_rates: list[float], parts: list[str]
    ) -> None:
        sentence = advise(rows(torch_rates, penstock_rates))
        assert all(part in sentence for part in parts), sentence
        assert sentence.endswith(".")
        assert ". " not in sentence

    def test_workers_that_get_no_core_are_told_from_workers_that_cost(self) -> None:
        assert "kept no more than 1.0 cores busy" in advise(rows([100, 95], [100, 98], overhead=1))

    @pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (3.1e-6, "3.1 µs")])
    def test_durations(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text


class TestCommand:
    @pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
    def test_help(self, arguments: list[str]) -> None:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0
        assert result.output.startswith("Usage:")

    def test_version(self) -> None:
        assert __version__ in CliRunner().invoke(main, ["--version"]).output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--images", "many"], "'many' is not a valid integer"),
            (["--images", "2"], "2 is not in the range x>=8"),
            (["--json", "/no/such/folder/figures.json"], "No such file or directory"),
            (["--keep", str(Path(__file__).parent)], "is not empty"),
            (["--fast"], "No such option"),
        ],
    )
    def test_a_mistake_gives_one_line(self, arguments: list[str], message: str) -> None:
        result = CliRunner().invoke(main, ["demo", *arguments])
        assert result.exit_code == 2
        errors = [line for line in result.output.splitlines() if line.startswith("Error:")]
        assert len(errors) == 1
        assert message in errors[0]
        assert "Traceback" not in result.output

    def test_absent_extras_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in [name for name in sys.modules if name.startswith("penstock.demo.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, "torchvision", None)
        result = CliRunner().invoke(main, ["demo"])
        assert result.exit_code == 1
        assert result.output == (
            'Error: the demo needs torchvision and Pillow: pip install "penstock[demo]"\n'
        )

    def test_a_place_that_cannot_hold_images_gives_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        result = CliRunner().invoke(main, ["demo", "--keep", str(tmp_path / "file" / "images")])
        assert result.exit_code == 1
        assert "Error: cannot make the images in" in result.output
        assert "Traceback" not in result.output


def test_a_small_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = Scale(images=10, samples=96, rounds=1)
    monkeypatch.setattr("penstock.demo.run.QUICK", scale)
    figures = tmp_path / "figures.json"
    arguments = ["demo", "--quick", "--json", str(figures), "--keep", str(tmp_path / "images")]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(figures.read_text())
    assert [case["name"] for case in found["cases"]] == ["simple", "images", "cached"]
    for case in found["cases"]:
        for row in case["results"]:
            assert row["samples_per_second"]["median"] > 0
            assert row["passes"][0]["samples"] == case["samples"]
            assert 0 < row["seconds_to_first_batch"]["low"] <= row["passes"][0]["last_batch"]
            assert row["cpu_seconds_per_sample"]["low"] > 0
    assert len(found["undecodable"]) == 4
    assert all(name in result.stdout for name in found["undecodable"])
    assert result.stdout.count("Use ") + result.stdout.count("Keep ") == 3
    assert "Making images ..." in result.stderr
    assert len(list((tmp_path / "images").iterdir())) == 10
