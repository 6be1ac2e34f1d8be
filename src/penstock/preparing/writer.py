"""Puts samples together to shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from penstock.errors import DamagedShardError, NotStorableError, PrepareError
from penstock.preparing.manifest import Manifest, Order, ShardEntry
from penstock.preparing.settings import Settings
from penstock.shards import Layout, Shard, Written, fitted, record_batch, write_shard
from penstock.tree import leaves_of

Bad = dict[str, Any]
_Done = tuple[ShardEntry, dict[str, str]]
"""A shard that is on the disk, and the types of its columns."""


class ShardWriter:
    """Writes a folder's shards one after the other; goes on after those that are there.

    All shards have one layout: when samples come that it doesn't hold, it is widened, and the shards before
    are written again. So what is in the files doesn't depend on where the work was interrupted.

    A shard is put together and brought to the disk by a thread, while samples for the next one come. When
    that is full, it is waited for, and what went wrong with it is raised. Leaving the ``with`` block waits
    for it as well.

    Attributes:
        next: the index of the source's first sample that no shard covers.
        bad: the bad samples that the shards there cover; `add` and `finish` are given those after.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        order: Order,
        classes: list[str] | None,
        found: Callable[[int], None],
    ) -> None:
        """`found` is called with `next` for every whole shard there: looking at many takes long."""
        self._folder, self._settings, self._order = folder, settings, order
        self._classes = classes
        self._layout: Layout | None = None
        self._entries: list[ShardEntry] = []
        self._columns: dict[str, str] = {}
        self._samples: dict[int, Any] = {}
        self._nbytes = 0
        self._thread = ThreadPoolExecutor(1, "penstock-shards")
        self._writing: Future[_Done] | None = None
        self.next = 0
        self.bad: list[Bad] = []
        self._go_on(found)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def add(self, index: int, sample: Any, bad: Sequence[Bad]) -> None:
        """The sample made of the source's sample `index`; what is bad of those before is in `bad`, at least.

        Raises:
            OSError: if a shard can't be written.
            PrepareError: if a sample holds what can't be stored.
        """
        self._samples[index] = sample
        self._nbytes += _size(sample)
        if self._settings.is_full(len(self._samples), self._nbytes):
            self._flush(index + 1, bad)

    def finish(self, stop: int, bad: Sequence[Bad]) -> Manifest:
        """There are no more; the source has `stop` samples. Raises as `add`."""
        if self._samples:
            self._flush(stop, bad)
        self._settle()
        told = self.bad + [each for each in bad if each["index"] >= self.next]
        return Manifest(self._order, self._entries, self._columns, self._classes, told)

    def _flush(self, stop: int, bad: Sequence[Bad]) -> None:
        parts, layout = self._fitted()
        self._settle()
        if self._layout is not None and layout != self._layout:
            self._widen(layout)
        self._layout = layout
        covered = [each for each in bad if self.next <= each["index"] < stop]
        about = {**self._about(), "first": self.next, "stop": stop, "bad": covered}
        self._writing = self._thread.submit(self._write, self._path(len(self._entries)), parts, layout, about)
        self.bad += covered
        self._samples, self._nbytes, self.next = {}, 0, stop

    def _fitted(self) -> tuple[dict[int, Any], Layout]:
        """The samples, taken apart, by their indices, and a layout for them and those before."""
        try:
            parts, layout = fitted(list(self._samples.values()), self._layout)
        except NotStorableError as error:
            raise _named(error, self._samples, lambda sample: fitted([sample])) from error
        return dict(zip(self._samples, parts, strict=True)), layout

    def _widen(self, layout: Layout) -> None:
        """Write the shards again that have another layout."""
        entries, self._entries = self._entries, []
        for entry in entries:
            shard = Shard(self._folder / entry.name)
            if shard.layout == layout:
                self._entries.append(entry)
            else:
                parts, _ = fitted(list(shard.stored()), layout)
                self._take(self._write(shard.path, dict(enumerate(parts)), layout, shard.about))

    def _write(self, path: Path, parts: dict[int, Any], layout: Layout, about: dict[str, Any]) -> _Done:
        """Bring a shard to the disk; takes the samples from `parts`. In any thread."""
        samples = len(parts)
        try:
            batch = record_batch(list(parts.values()), layout)
        except NotStorableError as error:
            raise _named(error, parts, lambda part: record_batch([part], layout)) from error
        parts.clear()
        written = write_shard(path, batch, layout, about, _for_hugging_face(batch, self._classes))
        columns = {field.name: str(field.type) for field in batch.schema}
        return _entry(path.name, samples, written, about), columns

    def _settle(self) -> None:
        """Wait until the last shard is on the disk."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self._take(writing.result())

    def _take(self, done: _Done) -> None:
        entry, self._columns = done
        self._entries.append(entry)

    def _about(self) -> dict[str, Any]:
        return {"done": self._order.done, "versions": self._order.versions, "classes": self._classes}

    def _path(self, number: int) -> Path:
        return self._folder / f"shard-{number:05d}.arrow"

    def _go_on(self, found: Callable[[int], None]) -> None:
        """Take over the shards that are there, up to the first that is missing or damaged."""
        shards = []
        for shard in self._whole_shards():
            shards.append(shard)
            found(shard.about["stop"])
        if not shards:
            return
        for shard in shards:
            written = Written(shard.nbytes, shard.crc32)
            self._entries.append(_entry(shard.path.name, len(shard), written, shard.about))
            self.bad += shard.about["bad"]
        self.next = shards[-1].about["stop"]
        self._columns = {field.name: str(field.type) for field in shards[-1].batch.schema}
        self._layout = reduce(Layout.join, (shard.layout for shard in shards))
        self._widen(self._layout)  # it was interrupted in doing so

    def _whole_shards(self) -> Iterator[Shard]:
        stop = number = 0
        while self._path(number).exists():
            try:
                shard = Shard(self._path(number), verify=True)
            except DamagedShardError:
                return
            if shard.about["first"] != stop:
                return
            yield shard
            stop, number = shard.about["stop"], number + 1


def _entry(name: str, samples: int, written: Written, about: dict[str, Any]) -> ShardEntry:
    crc32 = f"{written.crc32:08x}"
    return ShardEntry(name, samples, written.nbytes, crc32, about["first"], about["stop"])


def _named(error: NotStorableError, samples: dict[int, Any], store: Callable[[Any], object]) -> PrepareError:
    """The same, with the index of the first sample that can't be stored."""
    for index, sample in samples.items():
        try:
            store(sample)
        except NotStorableError as its:
            return PrepareError(f"sample {index}: {its}")
    return PrepareError(str(error))


def _for_hugging_face(batch: Any, classes: list[str] | None) -> dict[bytes, bytes]:
    """What has ``datasets`` show labels by the names of their classes."""
    if (
        classes is None
        or "label" not in batch.schema.names
        or str(batch.schema.field("label").type) != "int64"
    ):
        return {}
    features = {"label": {"names": classes, "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def _size(sample: Any) -> int:
    """Bytes, roughly, as a function of the sample."""
    total = 0
    for leaf in leaves_of(sample):
        if isinstance(leaf, torch.Tensor):
            total += leaf.numel() * leaf.element_size()  # a sparse one, which is refused later, has no nbytes
            continue
        nbytes = getattr(leaf, "nbytes", None)
        total += nbytes if nbytes is not None else len(leaf) if isinstance(leaf, bytes | str) else 8
    return total
