"""How long the processes of a `penstock run` waited for data: counted as it goes, told at the end.

The program's main process makes a nameless file in memory. Every process that loads data has a page of it,
and keeps its figures there; so they count however it ends.
"""

from __future__ import annotations

import mmap
import os
import struct

_FIGURES = struct.Struct("=dq")
_NAME = "penstock-run"


class Waits:
    """The figures of this process, in a page of the file at `path`.

    Where the program has closed that, or it is another system's, they are kept where nobody else sees them.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._pid = 0
        self._page: mmap.mmap
        self._waited, self._batches = 0.0, 0

    def add(self, waited: float) -> None:
        """Count a batch that was waited for this many seconds."""
        if self._pid != os.getpid():  # the first batch, or the first since a fork
            self._page = self._new_page()
            self._waited, self._batches = 0.0, 0
            self._pid = os.getpid()
        self._waited += waited
        self._batches += 1
        _FIGURES.pack_into(self._page, 0, self._waited, self._batches)

    def _new_page(self) -> mmap.mmap:
        try:
            with open(_checked(self._path), "ab+", buffering=0) as file:  # no two append to one place
                file.write(bytes(mmap.PAGESIZE))
                return mmap.mmap(file.fileno(), mmap.PAGESIZE, offset=file.tell() - mmap.PAGESIZE)
        except OSError:
            return mmap.mmap(-1, mmap.PAGESIZE)

    def of_all(self) -> list[tuple[float, int]]:
        """(seconds waited, batches) of each process that had any."""
        try:
            with open(_checked(self._path), "rb") as file:
                pages = list(iter(lambda: file.read(mmap.PAGESIZE), b""))
        except OSError:
            return [(self._waited, self._batches)] if self._batches else []
        return [_FIGURES.unpack_from(page) for page in pages]


def new_file() -> int:
    """The descriptor of a new file, which is there until that is closed."""
    return os.memfd_create(_NAME)


def _checked(path: str) -> str:
    """The path itself; never touch a file that isn't ours: descriptors and process ids are used again."""
    if not os.readlink(path).startswith(f"/memfd:{_NAME} "):
        raise FileNotFoundError(path)
    return path


def sentence(figures: list[tuple[float, int]], run_s: float) -> str:
    """What to say of a run that took this many seconds."""
    if not figures:
        return "no batches came from torch's DataLoader"
    waited, batches = sum(seconds for seconds, _ in figures), sum(count for _, count in figures)
    share = waited / (run_s * len(figures))
    said = f"waited {waited:.2f} s for {batches} batches of data, {share:.0%} of the run's {run_s:.2f} s"
    return said if len(figures) == 1 else f"{said} in {len(figures)} processes"
