"""Image files that are damaged in every way: the run goes on, and each bad one is told of by its path.

``PENSTOCK_BAD_FILES`` sets how many files; ten thousand are for a run by hand.
"""

from __future__ import annotations

import ctypes
import io
import os
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from penstock import DataLoader

FILES = int(os.environ.get("PENSTOCK_BAD_FILES", "300"))
FORMATS = "JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"


class Pictures(Dataset[Any]):
    """As torchvision's ImageFolder, but small."""

    def __init__(self, paths: list[Path]) -> None:
        self.samples = [(str(path), label) for label, path in enumerate(paths)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        path, label = self.samples[index]
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB").resize((16, 16)))), label


def encoded(chance: random.Random, kind: str) -> bytearray:
    pixels = np.frombuffer(chance.randbytes(40 * 30 * 3), np.uint8).reshape(40, 30, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return bytearray(file.getvalue())


def write(path: Path, chance: random.Random, change: Callable[[bytearray], Any] = bool) -> None:
    data = encoded(chance, chance.choice(FORMATS))
    change(data)
    path.write_bytes(data)


def truncated(path: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        del data[chance.randrange(len(data)) :]

    write(path, chance, change)


def flipped(path: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        for _ in range(chance.choice([1, 10, 100])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)

    write(path, chance, change)


def wrong_magic(path: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        data[:8] = chance.randbytes(8)

    write(path, chance, change)


def bomb(path: Path, chance: random.Random) -> None:
    """A small file that says it is a picture of billions of pixels, or of as many as PIL only warns of."""
    side = chance.choice([10_000, 60_000, 2_000_000_000])
    data = encoded(chance, "PNG")
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def empty(path: Path, _: random.Random) -> None:
    path.touch()


def folder(path: Path, _: random.Random) -> None:
    path.mkdir()


def dead_link(path: Path, _: random.Random) -> None:
    path.symlink_to(path.parent / "nothing")


def circle(path: Path, _: random.Random) -> None:
    path.symlink_to(path)


def denied(path: Path, chance: random.Random) -> None:
    write(path, chance)
    path.chmod(0)


def missing(_: Path, __: random.Random) -> None:
    pass


KINDS = write, truncated, flipped, wrong_magic, bomb, empty, folder, dead_link, circle, denied, missing
MAY_BE_GOOD = {"write", "truncated", "flipped", "wrong_magic"}


def obey_permissions(_: int = 0) -> None:
    """Root may read everything by two capabilities, which this process gives up."""

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    header, sets = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(ctypes.byref(header), sets) == 0
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(ctypes.byref(header), sets) == 0


def good(dataset: Pictures, index: int) -> bool:
    try:
        dataset[index]
    except Exception:
        return False
    return True


@pytest.mark.timeout(60 + FILES // 10)
def test_each_bad_file_is_told_of_and_the_rest_is_loaded(tmp_path: Path) -> None:
    chance = random.Random(0)
    kinds = [chance.choice(KINDS) for _ in range(FILES)]
    paths = [tmp_path / f"{number}.img" for number in range(FILES)]
    for path, make in zip(paths, kinds, strict=True):
        make(path, chance)
    dataset, errors_file = Pictures(paths), tmp_path / "errors.jsonl"
    loader = DataLoader(
        dataset,
        batch_size=16,
        num_workers=2,
        on_error="skip",
        errors_file=errors_file,
        worker_init_fn=obey_permissions,
    )
    with loader:
        labels = [label for _, batch in loader for label in batch.tolist()]
    fine = [i for i, kind in enumerate(kinds) if kind.__name__ in MAY_BE_GOOD and good(dataset, i)]
    bad = Counter(str(path) for label, path in enumerate(paths) if label not in set(fine))
    assert labels == fine
    assert Counter(each.path for each in loader.errors) == bad
    assert len(errors_file.read_text().splitlines()) == len(loader.errors) == bad.total()
    assert loader.stats().workers_replaced == 0
    types = Counter(each.type for each in loader.errors)
    assert types["PermissionError"] == kinds.count(denied)
    assert types["IsADirectoryError"] == kinds.count(folder)
    assert types["PIL.Image.DecompressionBombError"] + types["PIL.Image.DecompressionBombWarning"] > 0
    print(f"{len(fine)} good of {FILES}", Counter(kind.__name__ for kind in kinds), types)
