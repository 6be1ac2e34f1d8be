"""Preparing images, and reading what was prepared raw: the two cases, beside what one process alone does."""

import io
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import penstock
from benchmarks.bare import bare
from benchmarks.going import AHEAD, TURN, going
from benchmarks.targets import Target, going_ratio, row
from penstock.demo.advice import ratio
from penstock.demo.cases import SIDE
from penstock.demo.measure import Contender, Pass, Summary, contender, cpu_seconds

SHORT = 256  # pixels of the shorter side
QUALITY = 90
BATCH = 64
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of RandomResizedCrop


class SmallJpegs(Dataset[bytes]):
    """What `penstock prepare --resize-short 256` does to an image, by hand."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Take JPEG files."""
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        """The number of paths."""
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:
        """One image: decoded, resized and encoded."""
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        width, height = image.size
        long = int(SHORT * max(width, height) / min(width, height))
        size = (SHORT, long) if width <= height else (long, SHORT)
        out = io.BytesIO()
        image.resize(size, Image.Resampling.BILINEAR).save(out, "JPEG", quality=QUALITY)
        return out.getvalue()


class CropAndFlip:
    """RandomResizedCrop and a flip by OpenCV, over a tensor of bytes whose channels are last in memory.

    The draws are Python's, as torch's would take half as long as the resizing. The result's channels are
    last, as with FFCV.
    """

    def __call__(self, image: Tensor) -> Tensor:
        """One crop, of shape (SIDE, SIDE, 3), uint8."""
        import cv2

        cv2.setNumThreads(0)  # every process has a core
        pixels = image.permute(1, 2, 0).numpy()
        top, left, height, width = _box(*pixels.shape[:2])
        crop = pixels[top : top + height, left : left + width]
        resized = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(cv2.flip(resized, 1) if random.random() < 0.5 else resized)


def _box(height: int, width: int) -> tuple[int, int, int, int]:
    """What torchvision's RandomResizedCrop draws: top, left, height and width."""
    for _ in range(10):
        area = height * width * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    return 0, 0, height, width


class Images(Dataset[Tensor]):
    """The images of a dataset of (image, label), over and over."""

    def __init__(self, pairs: Any, size: int) -> None:
        """Be `size` samples long."""
        self.pairs, self.count, self.size = pairs, len(pairs), size

    def __len__(self) -> int:
        """As told."""
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        """One image."""
        image: Tensor = self.pairs[index % self.count]
        return image


class Kept(Dataset[Tensor]):
    """The same images in memory, under the same transform: what one core does at most."""

    def __init__(self, images: Sequence[Tensor], transform: Callable[[Tensor], Tensor]) -> None:
        """Keep the images."""
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """One image, transformed."""
        return self.transform(self.images[index])


@dataclass(frozen=True, slots=True)
class Preparing:
    """What is prepared, where to, and with how many workers."""

    source: Path
    dest: Path
    workers: int

    def contender(self) -> Contender:
        """A pass is a whole run of `penstock.prepare`, from nothing to the manifest."""
        return Contender("penstock", self.workers, self._run)

    def _run(self) -> Pass:
        shutil.rmtree(self.dest, ignore_errors=True)
        cpu, start, marks = cpu_seconds(), time.perf_counter(), list[tuple[float, int]]()
        done = penstock.prepare(
            self.source,
            self.dest,
            resize_short=SHORT,
            quality=QUALITY,
            workers=self.workers,
            progress=lambda samples, _: marks.append((time.perf_counter() - start, samples)),
        )
        seconds = time.perf_counter() - start
        first, last = marks[1], marks[-1]
        return Pass(len(done), len(marks) - 1, first[1], seconds, first[0], last[0], cpu_seconds() - cpu)


def prepare_contenders(images: Path, count: int) -> list[Contender]:
    """`penstock.prepare`, torch's loader that only makes the same bytes, and processes that do."""
    folder = images.parent / "sources"
    folder.mkdir(exist_ok=True)
    files = sorted(images.iterdir())
    for number in range(len(list(folder.iterdir())), count):
        os.link(files[number % len(files)], folder / f"{number:06d}.jpg")
    by_hand = SmallJpegs(sorted(folder.iterdir()))
    options = {"dataset": by_hand, "batch_size": BATCH, "collate_fn": list}
    return [
        Preparing(folder, images.parent / "prepared-jpeg", 2).contender(),
        contender(DataLoader, "torch", 2, options),
        *(bare(by_hand, BATCH, processes) for processes in (1, 2)),
    ]


def prepare_targets(rows: Sequence[Summary]) -> list[Target]:
    """Against twice one process."""
    ours = row(rows, "penstock", 2)
    return [
        Target(
            "preparing, 2 workers, to twice one bare process", ratio(ours, row(rows, "bare", 1)) / 2, 0.85
        ),
        Target("preparing, 2 workers, to two bare processes", ratio(ours, row(rows, "bare", 2))),
    ]


def raw_contenders(images: Path, count: int) -> list[Contender]:
    """Prepared raw images under crop and flip, and the same from memory in one and two processes."""
    import_module("cv2")  # by the program, as usual, and not by each of its workers
    dest = images.parent / "prepared-raw"
    crop = CropAndFlip()
    prepared = penstock.prepare(images, dest, resize_short=SHORT, format="raw")
    kept = [prepared[index].clone() for index in range(len(prepared))]
    turn = Kept([kept[place % len(kept)] for place in range((AHEAD + TURN) * BATCH)], crop)
    dataset = Images(penstock.PreparedDataset(dest, crop), count)
    options = {"dataset": dataset, "batch_size": BATCH, "shuffle": True}
    return [
        going(penstock.DataLoader, "penstock", 2, options),
        going(DataLoader, "torch", 2, options),
        *(bare(turn, AHEAD * BATCH, processes, shuffle=True) for processes in (1, 2)),
    ]


def raw_targets(rows: Sequence[Summary]) -> list[Target]:
    """Against twice one core, and two at once; the rates are those in the midst of an epoch."""
    ours, alone, both = row(rows, "penstock", 2), row(rows, "bare", 1), row(rows, "bare", 2)
    steady = ours.steady_rate or ours.rate
    return [
        Target("raw images, 2 workers: images/s", steady.median, 9000),
        Target("raw images, 2 workers, to twice one core from memory", going_ratio(ours, alone) / 2, 0.7),
        Target("raw images, 2 workers, to two cores from memory", going_ratio(ours, both)),
    ]
