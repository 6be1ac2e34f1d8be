"""The work itself: every sample made in the workers, and written here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from penstock.bad import BadSample
from penstock.errors import DamagedShardError, PrepareError, TooManyErrorsError
from penstock.loader import MAX_WORKERS, DataLoader
from penstock.machine import cpus
from penstock.preparing.claim import claim
from penstock.preparing.images import codec_versions
from penstock.preparing.manifest import UNFINISHED, Order, versions_of
from penstock.preparing.prepared import PreparedDataset
from penstock.preparing.settings import Settings, shard_limits
from penstock.preparing.sources import ADDRESS, Source, open_source
from penstock.preparing.writer import Bad, ShardWriter

BATCH = 16
"""Samples at a time; what is written doesn't depend on it."""
ON_ERROR = "raise", "skip"

Progress = Callable[[int, int], None]
"""Told how many of the source's samples are done, and how many there are."""


def prepare(
    source: Any,
    dest: str | os.PathLike[str],
    *,
    resize_short: int | None = None,
    format: str = "jpeg",
    quality: int | None = None,
    until: int | str | None = None,
    shard_size: int | str = "64MB",
    workers: int | None = None,
    on_error: str = "raise",
    max_errors: float | None = None,
    progress: Progress | None = None,
) -> PreparedDataset:
    """Run the part of a pipeline that is the same every time over all samples, and store what comes of it.

    What was begun and interrupted is gone on with; what is finished already is given back as it is. The files
    are the same whatever the number of workers, and however often it was interrupted.

    Args:
        source: a folder of images, in class folders or not; ``"module:object"``, a map-style dataset or a
            callable that returns one; or a map-style dataset itself. If it has a transform (a ``Compose``),
            its steps before the first random one are run.
        dest: a folder that is new, empty, or of the same work.
        resize_short: pixels of images' shorter side, by torchvision's ``Resize``.
        format: how images are stored: "jpeg", "png", or "raw", as numbers.
        quality: of JPEG; 90 where it isn't given. JPEG and PNG files of a folder are stored as they are if
            they have the format and there is no `resize_short` and no `quality`.
        until: the step before which to cut the transform, by number or name, instead of the first random one.
        shard_size: how much a file holds, about: samples, or bytes with a unit. It is put together in memory,
            while the one before is brought to the disk.
        workers: processes; by default as many as there are cores for this one.
        on_error: "raise", or "skip" to leave out samples that can't be made and list them in the manifest.
        max_errors: how many of them end the work nevertheless: a number, or a share below 1.
        progress: called with the numbers of samples done and in all, also while what an earlier run did is
            looked at.

    Raises:
        PrepareError: if it can't be done for a reason that the message tells, such as a sample that can't be
            made, settings that differ from those it was begun with, or a disk that is full.
        NotRepeatableError: if the dataset's samples are random from the start.
    """
    if on_error not in ON_ERROR:
        raise PrepareError(f"on_error should be 'raise' or 'skip', but got {on_error!r}")
    if max_errors is not None and on_error == "raise":
        raise PrepareError("max_errors is for on_error='skip': without that, the first error ends the work")
    if max_errors is not None and not (max_errors >= 0 and (max_errors < 1 or max_errors % 1 == 0)):
        raise PrepareError(f"max_errors should be a whole number, or a share below 1, but got {max_errors}")
    if workers is not None and not 0 <= workers <= MAX_WORKERS:
        raise PrepareError(f"workers should be from 0 to {MAX_WORKERS}, but got {workers}")
    settings = Settings(resize_short, format, quality, *shard_limits(shard_size), until)
    count = cpus() if workers is None else workers
    opened = open_source(source, settings)
    order = Order(
        opened.told, settings.told(), versions_of("penstock", "pyarrow", "pillow", "torch") | codec_versions()
    )
    folder = Path(dest)
    _check_folder(source, folder)
    try:
        with claim(folder, order) as finished:
            if not finished:
                tolerant = on_error == "skip"
                limit = max_errors if tolerant else 0
                _Work(opened, folder, settings, order, count, tolerant, limit, progress or _ignore).run()
    except OSError as error:
        raise PrepareError(_disk_trouble(folder, error)) from error
    try:
        return PreparedDataset(folder)
    except DamagedShardError as error:
        raise PrepareError(f"{error} To have all of it made again, remove {folder} first") from error


class _Work:
    """Everything from the first sample that isn't there yet to the manifest."""

    def __init__(
        self,
        source: Source,
        folder: Path,
        settings: Settings,
        order: Order,
        workers: int,
        tolerant: bool,
        max_errors: float | None,
        progress: Progress,
    ) -> None:
        self._source, self._folder, self._workers = source, folder, workers
        self._tolerant, self._limit, self._progress = tolerant, max_errors, progress
        self._total = len(source)
        self._writer = ShardWriter(folder, settings, order, source.classes, self._tell)
        self._bad: list[Bad] = []

    def run(self) -> None:
        total = self._total
        self._tell(self._writer.next)
        with self._writer:
            if self._writer.next < total:
                with self._loader(range(self._writer.next, total)) as loader:
                    self._load(loader)
            manifest = self._writer.finish(total, self._bad)
        if manifest.samples == 0:
            raise PrepareError(
                f"none of the {total} samples could be made; the first: {_told(manifest.bad[0])}"
            )
        manifest.write(self._folder)
        (self._folder / UNFINISHED).unlink()

    def _tell(self, done: int) -> None:
        self._progress(done, self._total)

    def _loader(self, indices: Sequence[int]) -> DataLoader[Any]:
        limit = self._limit
        if limit is not None and not 0 < limit < 1:
            limit = max(0, limit - len(self._writer.bad))
        return DataLoader(
            _Numbered(self._source),
            batch_size=BATCH,
            sampler=indices,
            num_workers=self._workers,
            collate_fn=_as_it_is,
            seed=0,
            on_error="skip",
            max_errors=limit,
        )

    def _load(self, loader: DataLoader[Any]) -> None:
        try:
            for batch in loader:
                self._bad += map(_entry, loader.errors)
                loader.errors.clear()
                for index, sample in batch:
                    self._writer.add(index, sample, self._bad)
                self._tell(index + 1)
            self._bad += map(_entry, loader.errors)
        except TooManyErrorsError as error:
            raise PrepareError(self._too_many(loader.errors[0], loader.errors[-1])) from error

    def _too_many(self, first: BadSample, last: BadSample) -> str:
        if not self._tolerant:
            how = "prepare again with on_error='skip' (--on-error skip): it goes on from here"
            return f"{_told(_entry(first))}. To leave out what can't be made, {how}"
        limit = f"max_errors={self._limit:g}"
        return f"more samples could not be made than {limit} allows; the last: {_told(_entry(last))}"


class _Numbered(Dataset[Any]):
    """The samples with their indices. What a sample raises is told with the path of its file."""

    def __init__(self, source: Source) -> None:
        self._source, self.paths = source, source.paths

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self._source[index]


def _as_it_is(samples: list[Any]) -> list[Any]:
    return samples


def _ignore(done: int, total: int) -> None: ...


def _entry(bad: BadSample) -> Bad:
    """What the manifest tells of a bad sample: nothing that is another at the next time."""
    message = ADDRESS.sub("", bad.message)
    return {"index": bad.index, "path": bad.path, "type": bad.type, "message": message}


def _told(bad: Bad) -> str:
    where = f" ({bad['path']})" if bad["path"] else ""
    return f"sample {bad['index']}{where}: {bad['type']}: {bad['message']}"


def _check_folder(source: Any, folder: Path) -> None:
    if isinstance(source, str | os.PathLike) and folder.resolve().is_relative_to(Path(source).resolve()):
        raise PrepareError(f"{folder} is in {source} itself: give a folder elsewhere")
    if folder.exists() and not folder.is_dir():
        raise PrepareError(f"{folder} is a file: give a folder")


def _disk_trouble(folder: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"can't write to {folder}: {reason}. What is finished of it stays: prepare again, and it goes on"
