"""The cases of speed: what each loads, with how many workers, and against which targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.bare import bare
from benchmarks.cached import cut_targets, image_contenders, memory_contenders, memory_targets
from benchmarks.datasets import ByteImages, FloatImages, Rows, TinyTensors
from benchmarks.prepared import prepare_contenders, prepare_targets, raw_contenders, raw_targets
from benchmarks.targets import Target, first_batch_targets, image_targets, pair_targets
from penstock.demo.cases import LOADERS, CachedDataset, SimpleDataset
from penstock.demo.images import Recipe, make_images
from penstock.demo.measure import Contender, Summary, contender

IMAGES = Recipe(count=256, spread=0, png_every=0, truncated=0, empty=0)  # 500x375 JPEG
LARGE = 128 << 20  # bytes
CACHED_SAMPLES = 10_000  # as in the article
CACHED_IMAGES = 1024  # 580 MB, decoded


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    rounds: int  # passes that count, of each contender
    images: int  # samples in a pass
    tiny: int
    cheap: int
    paths: int  # in the list whose memory is measured
    shuffled: int  # samples in the shuffle


FULL = Scale(rounds=5, images=3072, tiny=1280, cheap=200_000, paths=1_000_000, shuffled=10**8)
QUICK = Scale(rounds=2, images=512, tiny=320, cheap=10_000, paths=200_000, shuffled=10**7)


@dataclass(frozen=True, slots=True)
class Case:
    """One dataset with all that is run over it."""

    name: str
    title: str
    contenders: list[Contender]
    targets: Callable[[Sequence[Summary]], list[Target]]
    rival: str = "torch"  # the loader whose best the table compares with
    more_rounds: int = 1  # times as many as other cases, of shorter passes: for small differences


Work = tuple[str, dict[str, Any]]
"""What is loaded, in words, and the arguments of a loader for it."""


def _pil(scale: Scale, folder: Path) -> Work:
    """ImageNet's usual pipeline."""
    dataset = FloatImages(_images(folder, scale.images))
    return "JPEG by Pillow to float32, batch 64", {"dataset": dataset, "batch_size": 64, "shuffle": True}


def _uint8(scale: Scale, folder: Path) -> Work:
    """The same in uint8."""
    dataset = ByteImages(_images(folder, scale.images))
    return "JPEG by torchvision to uint8, batch 64", {"dataset": dataset, "batch_size": 64, "shuffle": True}


def _tiny(scale: Scale, folder: Path) -> Work:  # noqa: ARG001
    """Many small tensors in a sample."""
    options = {"dataset": TinyTensors(scale.tiny), "batch_size": 16, "shuffle": True}
    return "200 tensors of 4 a sample, batch 16", options


def _cheap(scale: Scale, folder: Path) -> Work:  # noqa: ARG001
    """Samples that cost next to nothing."""
    options = {"dataset": SimpleDataset(scale.cheap), "batch_size": 32, "shuffle": True}
    return "100 floats a sample, batch 32", options


WORKS: dict[str, Callable[[Scale, Path], Work]] = {
    "pil": _pil,
    "uint8": _uint8,
    "tiny": _tiny,
    "cheap": _cheap,
}


def _image_case(name: str, goal: float, scale: Scale, folder: Path) -> Case:
    """Several numbers of workers, and processes without a loader."""
    title, options = WORKS[name](scale, folder)
    contenders = [
        *(_contender("torch", workers, options) for workers in (1, 2, 3)),
        *(_contender("penstock", workers, options) for workers in (2, 3)),
        *(bare(options["dataset"], 64, processes) for processes in (1, 2)),
    ]
    return Case(name, title, contenders, lambda rows: image_targets(rows, goal))


def _pair_case(name: str, goal: float, scale: Scale, folder: Path) -> Case:
    """Both loaders without workers and with two."""
    title, options = WORKS[name](scale, folder)
    contenders = [_contender(loader, workers, options) for workers in (0, 2) for loader in LOADERS]
    return Case(name, title, contenders, lambda rows: pair_targets(rows, goal))


def start_case(scale: Scale, folder: Path) -> Case:  # noqa: ARG001
    """Eight workers that are started afresh, over a large array: the first batch is what counts."""
    options = {"dataset": Rows(LARGE), "batch_size": 32, "multiprocessing_context": "spawn"}
    contenders = [_contender(loader, 8, options) for loader in LOADERS]
    return Case("start", "128 MB, spawn", contenders, lambda rows: first_batch_targets(rows, at_most=1 / 3))


def prepare_case(scale: Scale, folder: Path) -> Case:
    """The work done once: decode, resize and encode, to disk."""
    _images(folder, 1)
    contenders = prepare_contenders(folder, scale.images)
    return Case("prepare", "JPEG to JPEG of 256 pixels, prepared", contenders, prepare_targets)


def raw_case(scale: Scale, folder: Path) -> Case:
    """Images that were prepared raw."""
    _images(folder, 1)
    contenders = raw_contenders(folder, 8 * scale.images)
    title = "Raw images of 256 pixels, crop and flip by OpenCV, batch 64, in the midst of an epoch"
    return Case("raw", title, contenders, raw_targets, more_rounds=12)


def cached_case(scale: Scale, folder: Path) -> Case:  # noqa: ARG001
    """Samples prepared beforehand: the article's third example."""
    contenders = memory_contenders(CachedDataset(CACHED_SAMPLES))
    return Case("cached", "100 floats a sample, prepared, batch 32", contenders, memory_targets)


def cached_simple_case(scale: Scale, folder: Path) -> Case:  # noqa: ARG001
    """Small samples: the article's first example, from the second epoch on."""
    contenders = memory_contenders(SimpleDataset(CACHED_SAMPLES))
    return Case("cached-simple", "100 floats a sample, cached, batch 32", contenders, memory_targets)


def cached_images_case(scale: Scale, folder: Path) -> Case:
    """ImageNet's usual pipeline, cached up to its random crop."""
    contenders = image_contenders(_images(folder, min(scale.images, CACHED_IMAGES)))
    return Case(
        "cached-images", "JPEG by Pillow to float32, cut and cached, batch 64", contenders, cut_targets
    )


CASES: dict[str, Callable[[Scale, Path], Case]] = {
    "pil": partial(_image_case, "pil", 1.35),
    "uint8": partial(_image_case, "uint8", 1.2),
    "tiny": partial(_pair_case, "tiny", 8.0),
    "cheap": partial(_pair_case, "cheap", 3.0),
    "start": start_case,
    "cached": cached_case,
    "cached-simple": cached_simple_case,
    "cached-images": cached_images_case,
    "prepare": prepare_case,
    **({"raw": raw_case} if find_spec("cv2") else {}),
}


def _images(folder: Path, samples: int) -> list[Path]:
    """So many paths: the same files over and over."""
    paths = sorted(folder.iterdir()) if folder.exists() else make_images(folder, IMAGES)
    return [paths[place % len(paths)] for place in range(samples)]


def _contender(loader: str, workers: int, options: dict[str, Any]) -> Contender:
    """One of the two loaders."""
    return contender(LOADERS[loader], loader, workers, options)
