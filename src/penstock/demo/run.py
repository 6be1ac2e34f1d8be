"""The demo from the first image to the last figure."""

from dataclasses import dataclass
from pathlib import Path

from penstock.demo.cases import cached_case, image_case, simple_case, worker_counts
from penstock.demo.images import Recipe, make_images
from penstock.demo.measure import Summary, measure, passes
from penstock.demo.progress import Phase


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    images: int  # files
    samples: int  # in each case but the images
    rounds: int  # passes that count, of each contender


FULL = Scale(images=600, samples=10_000, rounds=7)
QUICK = Scale(images=128, samples=10_000, rounds=2)


class DemoError(Exception):
    """The demo cannot go on for a reason that the user can mend; the message says which."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What was measured in one case."""

    name: str
    title: str
    samples: int
    rows: tuple[Summary, ...]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What was measured in all, and the paths of the files that did not decode."""

    rounds: int
    cases: tuple[CaseResult, ...]
    undecodable: tuple[str, ...]


def run(scale: Scale, folder: Path, phase: Phase) -> DemoResult:
    """Fill the folder with images and measure the three cases."""
    try:
        make_images(folder, Recipe(scale.images), phase("Making images", scale.images))
    except OSError as error:
        raise DemoError(f"cannot make the images in {folder}: {error.strerror or error}") from error
    undecodable: set[str] = set()
    results = []
    for case in (
        simple_case(scale.samples),
        image_case(folder, undecodable),
        cached_case(scale.samples),
    ):
        contenders = case.contenders(worker_counts())
        rows = measure(contenders, scale.rounds, phase(case.title, passes(contenders, scale.rounds)))
        results.append(CaseResult(case.name, case.title, rows[0].passes[0].samples, rows))
    return DemoResult(scale.rounds, tuple(results), tuple(sorted(undecodable)))
