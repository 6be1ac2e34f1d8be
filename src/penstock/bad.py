"""Bad samples: what is told of one, and the book that a loader keeps of them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import traceback
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Subset

from penstock.errors import TooManyErrorsError

KEPT = 10_000
"""How many bad samples are kept in memory, the latest ones."""
FEWEST_SAMPLES = 1000
"""A share of bad samples is judged as if so many samples had been made at least."""
_PATH_LISTS = "samples", "imgs", "paths", "files", "image_paths", "filenames", "data"

_log = logging.getLogger("penstock")


@dataclass(frozen=True, slots=True)
class BadSample:
    """One sample that could not be made.

    Attributes:
        batch, position: its place; of an iterable dataset, roughly.
        index: what was passed to ``dataset[i]``; None of an iterable dataset.
        epoch: the number of the epoch.
        worker: the number of the worker; 0 is the calling process when ``num_workers=0``.
        type, message, traceback: of the exception.
        path: of the file that it is made from, where the dataset shows one.
    """

    batch: int
    position: int
    index: Any
    epoch: int
    type: str
    message: str
    traceback: str
    path: str | None = None
    worker: int = 0

    def __str__(self) -> str:
        what = f"sample {self.position}" if self.index is None else f"dataset[{self.index!r}]"
        where = f" ({self.path})" if self.path else ""
        return f"{what}{where} for batch {self.batch}: {self.type}: {self.message}"


class NoneSampleError(TypeError):
    """``dataset[i]`` returned None, which counts as an error here (``none_is_error``)."""

    def __init__(self) -> None:
        super().__init__("dataset[i] returned None")


def describe(
    error: BaseException, dataset: Any, batch: int, position: int, index: Any, epoch: int
) -> BadSample:
    """What is told of a sample that raised `error`."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    text = "".join(traceback.format_exception(error))
    try:
        message = str(error)
    except Exception:  # in its own __str__
        message = "(its message can't be shown)"
    return BadSample(batch, position, index, epoch, name, message, text, path_of(dataset, index))


def path_of(dataset: Any, index: Any) -> str | None:
    """The path of a sample's file, where the dataset keeps a list of them, as torchvision's do."""
    try:
        while isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        for name in _PATH_LISTS:
            entries = getattr(dataset, name, None)
            if isinstance(entries, list | tuple):
                entry = entries[index]
                entry = entry[0] if isinstance(entry, list | tuple) else entry
                if isinstance(entry, str | os.PathLike):
                    return os.fspath(entry)
    except Exception:
        pass  # a report's nicety; the sample has failed already
    return None


class ErrorBook:
    """The bad samples of a loader, over all its epochs.

    `limit` is as `Policy.max_errors`. With `path` each is appended to that file as a line of JSON; where it
    can't be written, that is said once. A relative path is of the folder that the program is in now.

    Attributes:
        count: how many there were.
        kept: the latest of them.
    """

    def __init__(self, limit: float | None = None, path: str | os.PathLike[str] | None = None) -> None:
        if not isinstance(path, str | bytes | os.PathLike | None):  # `open` takes a number for a descriptor
            raise TypeError(f"errors_file should be a path, but got {path!r}")
        self._limit = limit
        self._path = None if path is None else os.path.abspath(os.fspath(path))
        self.count = 0
        self._samples = 0
        self.kept: deque[BadSample] = deque(maxlen=KEPT)
        self._kinds: Counter[str] = Counter()

    def add(self, bad: Iterable[BadSample], samples: int) -> None:
        """Note what was bad of a batch of which `samples` were made.

        Raises:
            TooManyErrorsError: if there are now more than the limit.
        """
        self._samples += samples
        for each in bad:
            self.count += 1
            self._samples += 1
            self.kept.append(each)
            self._kinds[each.type] += 1
            _log.warning("bad sample: %s", each)
            self._write(each)
        if bad and self._limit is not None and self.count > self._allowed(self._limit):
            lines = [f"{count} x {kind}" for kind, count in self._kinds.most_common()]
            raise TooManyErrorsError(self.count, self._samples, self._limit, lines, str(self.kept[-1]))

    def _allowed(self, limit: float) -> float:
        return limit * max(self._samples, FEWEST_SAMPLES) if 0 < limit < 1 else limit

    def _write(self, bad: BadSample) -> None:
        if self._path is None:
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(_line(bad) + "\n")
        except (OSError, ValueError) as error:  # a path with a NUL in it, say
            _log.warning("errors_file=%r can't be written (%s); nothing more goes there.", self._path, error)
            self._path = None


def _line(bad: BadSample) -> str:
    """As JSON; an index of a kind that JSON doesn't know, by its ``repr``."""
    fields = {field.name: getattr(bad, field.name) for field in dataclasses.fields(bad)}
    try:
        return json.dumps(fields, default=repr)
    except (TypeError, ValueError):  # a dict's keys are no text, or it holds itself
        return json.dumps({**fields, "index": repr(bad.index)}, default=repr)
