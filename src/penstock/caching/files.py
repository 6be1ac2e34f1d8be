"""What is behind a path: the sizes and the times of change of files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

_LONGEST = 4096
_KEY = re.compile(r"[0-9a-f]{32}")
"""The name of a folder in a cache's."""


class Files:
    """All files that were come to; each folder is looked at once. What a cache has written to its folder
    doesn't count."""

    def __init__(self, cache: str | os.PathLike[str] | None = None) -> None:
        self._paths: set[str] = set()
        self._folders: set[tuple[int, int]] = set()
        self._cache = set() if cache is None else _identity_of(cache)

    def told(self, path: str | bytes) -> Iterator[object]:
        """If it is a path: what the file is like, or the files below it, with their names."""
        if len(path) > _LONGEST:
            return
        text = os.fsdecode(path)
        if not text.strip("/") or text in self._paths:  # nobody means all of the system
            return
        try:
            status = os.stat(text)
        except (OSError, ValueError):
            return
        self._paths.add(text)
        if os.path.isdir(text):
            yield from self._below(text)
        else:
            yield from ("file", status.st_size, status.st_mtime_ns)

    def _below(self, root: str) -> Iterator[object]:
        for folder, folders, files in os.walk(root, followlinks=True):
            identity = _identity_of(folder)
            if identity <= self._folders:
                folders.clear()
                continue
            self._folders |= identity
            folders[:] = sorted(n for n in folders if not (identity == self._cache and _KEY.fullmatch(n)))
            for name in sorted(files):
                path = os.path.join(folder, name)
                yield path
                yield from self.told(path)


def _identity_of(folder: str | os.PathLike[str]) -> set[tuple[int, int]]:
    """By what a folder is known, however one came to it; nothing if it isn't there."""
    try:
        status = os.stat(folder)
    except OSError:
        return set()
    return {(status.st_dev, status.st_ino)}
