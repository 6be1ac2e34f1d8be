"""`penstock profile`, inside the script: its loops are watched, and the script ended when enough was seen.

The loaders themselves stay as they are, torch's or Penstock's. Only the script's own process is profiled;
what it starts is left alone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from penstock.integrations.replace import when_imported

if TYPE_CHECKING:
    from penstock.profiling.data import Setting
    from penstock.profiling.live import Live
    from penstock.profiling.measure import Details
    from penstock.profiling.watching import Watch

VARIABLE = "PENSTOCK_PROFILE"
"""The options as JSON; empty in what the script starts."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command wants of the script's process."""

    report: str
    """The file for what was found."""
    batches: int | None
    seconds: float
    live: bool = False
    where: str = ""
    """The loop whose loader is to be changed, and how; nothing but the loop is measured then."""
    changes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class EnoughSeen(SystemExit):
    """Ends the script as ``sys.exit()`` does: its ``finally`` blocks and exit handlers run."""


def begin() -> None:
    """At the start of the Python that runs the script."""
    options = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = ""
    if options:
        session = _Session(Options(**json.loads(options)))
        atexit.register(session.finish)  # the first in, so the last out
        when_imported(session.install)


@dataclass(slots=True)
class _Site:
    """One loop over one dataset's loader, or over others like it, one after the other."""

    line: str
    watch: Watch
    setting: Setting
    loader: Any
    dataset: Any
    likeness: tuple[Any, ...]
    """What a loader over a dataset that is made anew for each epoch has in common with the last one's."""
    sizes: tuple[Any, ...]
    details: Details | None = None

    def has(self, loader: Any) -> bool:
        """Whether it is the same, or one that is set like it over the same dataset, perhaps in a cache that
        `_change` put around it."""
        same = loader.dataset is self.dataset or loader.dataset is self.loader.dataset
        return loader is self.loader or (same and _sizes(loader) == self.sizes)

    def resembles(self, loader: Any) -> bool:
        """Whether it is over a dataset that may have been made anew in the place of the last one."""
        alike = _likeness(loader) == self.likeness and _sizes(loader) == self.sizes
        return alike and not self.watch.iterating

    def follow(self, loader: Any, dataset: Any) -> None:
        """It goes on with this loader."""
        if loader is not self.loader:
            self.loader, self.dataset = loader, dataset
            self.watch.follow(loader)


def _likeness(loader: Any) -> tuple[Any, ...]:
    """All but what `_change` may change; of one class, to have no length is to have the same."""
    from penstock.profiling.measure import length

    return type(loader.dataset), length(loader.dataset), type(loader.sampler)


def _sizes(loader: Any) -> tuple[Any, ...]:
    """What a script varies that compares loaders: figures of both in one would be of neither."""
    return loader.num_workers, loader.batch_size


class _Session:
    """All that is seen of the script."""

    def __init__(self, options: Options) -> None:
        self._options, self._process = options, os.getpid()
        self._sites: dict[str, _Site] = {}
        self._live: Live | None = None
        self._ours = False
        self._cut = ""

    def install(self) -> None:
        """See every loop over a loader begin."""
        from penstock.loader import DataLoader
        from penstock.original import TorchDataLoader
        from penstock.profiling.live import Live

        self._live = Live(self._options.live)
        for cls in (TorchDataLoader, DataLoader):
            cls.__iter__ = self._watched(cls.__iter__)  # type: ignore[method-assign]

    def _watched(self, original: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Any]:
        @functools.wraps(original)
        def begin(loader: Any) -> Any:
            return self._iterate(loader, original) if self._watches() else original(loader)

        return begin

    def _watches(self) -> bool:
        """Not our own loops, nor those in other threads and processes, which couldn't be ended."""
        here = threading.current_thread() is threading.main_thread()
        return here and not self._ours and os.getpid() == self._process

    def _iterate(self, loader: Any, original: Callable[[Any], Iterator[Any]]) -> Any:
        from penstock.profiling.lines import user_frame
        from penstock.profiling.measure import setting_of, watch_of
        from penstock.profiling.watching import Limits

        frame = user_frame(sys._getframe(2))
        line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        here = [site for site in self._sites.values() if site.line == line]
        known = [site for site in here if site.has(loader)] or [
            site for site in here if site.resembles(loader)
        ]
        site = known[0] if known else None
        where = site.setting.where if site else f"{line} ({len(here) + 1})" if here else line
        dataset, likeness, sizes = loader.dataset, _likeness(loader), _sizes(loader)
        if self._options.where == where and (site is None or site.loader is not loader):
            self._change(loader)
        if site is None:
            assert self._live is not None
            limits = Limits(self._options.batches, self._options.seconds)
            watch = watch_of(loader, limits, True, self._live.tick)
            site = _Site(line, watch, setting_of(loader, where), loader, dataset, likeness, sizes)
            self._sites[where] = site
            self._live.__enter__()
        site.follow(loader, dataset)
        if site.watch.over:
            self._leave(site)
        return site.watch.iterate(lambda: original(loader), functools.partial(self._end_of_epoch, site))

    def _change(self, loader: Any) -> None:
        from penstock.profiling.apply import apply_here

        self._ours = True
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "This DataLoader will create"
                )  # more than cores, on purpose
                apply_here(loader, self._options.changes)
        finally:
            self._ours = False

    def _end_of_epoch(self, site: _Site, watch: Watch) -> None:
        """Measure the rest while what the loader reads is still there; then end the script if it is time."""
        if site.details is None:
            self._measure(site)
        if watch.over:
            self._leave(site)

    def _leave(self, site: _Site) -> NoReturn:
        watch, where = site.watch, site.setting.where
        self._cut = f"{watch.limits.seconds:g} s of {where} (--seconds for more)"
        if watch.limits.batches is not None and watch.recorder.batches >= watch.limits.batches:
            self._cut = f"{watch.limits.batches} batches of {where} (--batches for more)"
        raise EnoughSeen

    def _measure(self, site: _Site) -> None:
        from penstock.profiling.measure import Details, measure_details

        if self._options.where or self._live is None:
            return
        site.details = Details()
        self._ours = True
        try:
            say, seconds = self._live.say, self._options.seconds
            site.details = measure_details(site.loader, site.watch.loop, say, seconds)
        except Exception as error:
            site.details.problems.append(f"{type(error).__name__}: {error}")
        finally:
            self._ours = False

    def finish(self) -> None:
        """At the script's end, whichever it was: write down what was found."""
        if os.getpid() != self._process:
            return
        if self._live is not None:
            self._live.__exit__()
        failed = hasattr(sys, "last_value")
        with contextlib.suppress(Exception):  # Python tries again and reports it, as always
            sys.stdout.flush()
        try:
            Path(self._options.report).write_text(json.dumps(self._report(failed)), encoding="utf-8")
        except Exception:  # an exit handler's error would be all that is seen of the script's end
            traceback.print_exc()

    def _report(self, failed: bool) -> dict[str, Any]:
        """The loops, that which took most time first."""
        if not self._sites:  # torch may not even have been imported
            return {"failed": failed, "loops": [], "short": [], "cut": ""}
        from penstock.profiling.data import to_plain
        from penstock.profiling.measure import Details, NothingToProfile, assemble, machine

        sites = sorted(self._sites.values(), key=lambda site: -site.watch.recorder.spent)
        measured, short = [], []
        for site in sites:
            if site.details is None and site.watch.loop is not None and not failed:
                self._measure(site)
            try:
                measured.append(assemble(site.watch, site.details or Details(), site.setting, machine()))
            except NothingToProfile as error:
                short.append(f"{site.setting.where}: {error}")
        loops = [to_plain(m) for m in measured]
        return {"failed": failed, "loops": loops, "short": short, "cut": self._cut}
