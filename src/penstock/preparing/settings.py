"""What is to be done to the samples."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from penstock.errors import PrepareError

FORMATS = "jpeg", "png", "raw"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the prepared samples depend on, beside the source.

    Attributes:
        resize_short: pixels of an image's shorter side, or None to leave its size.
        format: one of `FORMATS`; how images are stored.
        quality: of JPEG; None for 90, and for files that are stored as they are where nothing is to be done.
        shard_samples, shard_bytes: how much a shard holds at most; one of them is None.
        until: as the user cut the pipeline.

    Raises:
        PrepareError: if one of them isn't such a value.
    """

    resize_short: int | None
    format: str
    quality: int | None
    shard_samples: int | None
    shard_bytes: int | None
    until: int | str | None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise PrepareError(f"format should be 'jpeg', 'png' or 'raw', but got {self.format!r}")
        if self.resize_short is not None and self.resize_short < 1:
            raise PrepareError(f"resize_short should be 1 or more pixels, but got {self.resize_short}")
        if self.quality is not None and self.format != "jpeg":
            raise PrepareError(f"quality is of JPEG alone, and the format is {self.format}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise PrepareError(f"quality should be from 1 to 100, but got {self.quality}")

    def told(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def is_full(self, samples: int, nbytes: int) -> bool:
        """Whether a shard of so much has its size."""
        if self.shard_samples is not None:
            return samples >= self.shard_samples
        return self.shard_bytes is not None and nbytes >= self.shard_bytes


def shard_limits(size: int | str) -> tuple[int | None, int | None]:
    """A number of samples, or of bytes where there is a unit (``"256MB"``), as (samples, bytes).

    Raises:
        PrepareError: if `size` is neither.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)\s*", str(size).lower())
    if match is not None:
        number, unit, binary, byte = match.groups()
        if not (unit or byte):
            if number.isdigit() and int(number) > 0:
                return int(number), None
        else:
            base = 1024 ** " kmgt".index(unit) if binary and unit else _UNITS[unit]
            if float(number) * base >= 1:
                return None, int(float(number) * base)
    raise PrepareError(
        f"shard_size should be a number of samples (5000) or of bytes ('256MB'), but got {size!r}"
    )
