"""The report: a measurement, and what can be asked of it."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.profiling import figures
from penstock.profiling.data import VERSION, Measurement, from_plain, to_plain
from penstock.profiling.predict import Checked, Prediction, predict
from penstock.profiling.verdict import Verdict, judge

if TYPE_CHECKING:
    import torch

FilePath = str | os.PathLike[str]


class Report:
    """What `penstock.profile` found out. ``print(report)`` shows it.

    Attributes:
        data: everything that was measured.
        checked: what came of the best advice, where that was tried.
    """

    def __init__(self, data: Measurement, checked: Checked | None = None) -> None:
        self.data, self.checked = data, checked

    @cached_property
    def verdict(self) -> Verdict:
        """What holds the loop back, and what to change."""
        return judge(self.data)

    @property
    def stall(self) -> float:
        """The share of the loop's time that went by waiting for data; where epochs have an end, with their
        beginning."""
        return figures.waited_share(self.data)

    @property
    def samples_per_s(self) -> float:
        """Of the loop, as it ran."""
        return figures.samples_per_s(self.data)

    def predict(
        self,
        num_workers: int | None = None,
        cache_after: str | None = None,
        dtype: str | torch.dtype | None = None,
        prefetch_factor: int | None = None,
    ) -> Prediction:
        """What the loop would do with other settings; what isn't named stays as it is.

        `cache_after` is the name of a part (``report.data.samples.parts``).

        Raises:
            TypeError: if a number isn't whole.
            ValueError: if a setting can't be, or what it depends on wasn't measured.
        """
        return predict(self.data, num_workers, cache_after, dtype, prefetch_factor)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: the measurement, and for other programs to read the verdict."""
        verdict = to_plain(self.verdict) | {"cause": self.verdict.cause.name}
        figured = {"samples_per_s": self.samples_per_s, "stall": self.stall}
        return {
            "penstock_report": VERSION,
            "verdict": verdict,
            "figures": figured,
            "checked": to_plain(self.checked),
            "measurement": to_plain(self.data),
        }

    def save(self, path: FilePath) -> None:
        """Write it as JSON, for `load`."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: FilePath) -> Report:
        """A report that was saved.

        Raises:
            ValueError: if the file holds something else, or a report of another version.
        """
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} is no JSON: {error}") from error
        try:
            return cls.from_dict(plain)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def from_dict(cls, plain: Any) -> Report:
        """The other way of `to_dict`.

        Raises:
            ValueError: as `load` does.
        """
        version = plain.get("penstock_report") if isinstance(plain, dict) else None
        if version is None:
            raise ValueError("this is no report of penstock's")
        if version != VERSION:
            raise ValueError(
                f"this report has form {version}, this Penstock reads form {VERSION}: profile again"
            )
        checked = plain.get("checked")
        if "measurement" not in plain:
            raise ValueError("this report holds no measurement")
        data = from_plain(Measurement, plain["measurement"])
        return cls(data, None if checked is None else from_plain(Checked, checked))

    def html(self, path: FilePath) -> None:
        """Write it as one page that needs nothing else, no network either.

        Raises:
            ModuleNotFoundError: without plotly: ``pip install "penstock[report]"``.
        """
        from penstock.profiling.render.html import page

        text = page(self.to_dict(), self.data, self.verdict, self.checked)
        Path(path).write_text(text, encoding="utf-8", errors="replace")  # a file's name may be no UTF-8

    def trace(self, path: FilePath) -> None:
        """Write the time line for chrome://tracing and Perfetto."""
        from penstock.profiling.render.trace import events

        Path(path).write_text(json.dumps(events(self.data)), encoding="utf-8")

    def __str__(self) -> str:
        from penstock.profiling.render.terminal import as_text

        return as_text(self.data, self.verdict, self.checked)

    def __rich__(self) -> Any:
        from penstock.profiling.render.terminal import view

        return view(self.data, self.verdict, self.checked)
