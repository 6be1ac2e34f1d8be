"""The batches of an epoch, while the number of workers is being chosen.

Between two batches, this tells the controller what the last ones took, and has the session do what it says.
To go over to no workers, no more batches are asked of them; once none is in the making, the others are made
here.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from penstock.engine import Engine
from penstock.loader.session import Session
from penstock.stats import Recorder
from penstock.tuning import Controller, Meter, Observation, Span, Totals

_log = logging.getLogger("penstock")


class Tuned:
    """An iterator over the batches of one epoch."""

    def __init__(self, engine: Engine, session: Session, controller: Controller, recorder: Recorder) -> None:
        self._engine, self._session, self._recorder = engine, session, recorder
        self._controller = controller
        self._left: float | None = None
        self._meter: Meter | None = None
        self._passing: int | None = None
        self._carried, controller.meter = self._fitting(controller.meter), None
        self._review, controller.reviewed = self._fitting(controller.reviewed), None
        self._whole = None if self._carried is None else Span(self._totals())
        if controller.begin_epoch():
            self._tell()

    def __next__(self) -> Any:
        if not self._session.workers:
            return next(self._engine)
        clock, cpu = self._recorder.clock, time.thread_time
        left, self._left = self._left, None
        asked, computed = clock(), cpu()
        try:
            batch = next(self._engine)
        except StopIteration:
            self._end(0.0 if left is None else asked - left)
            raise
        wait, hand = clock() - asked, cpu() - computed
        self._controller.batches += 1
        if self._whole is not None:
            self._whole.add(wait, 0.0 if left is None else asked - left, hand)
        if left is not None:
            self._take_in(wait, asked - left, hand)
        self._left = clock()
        return batch

    def take_raised(self) -> BaseException | None:
        return self._engine.take_raised()

    def _rest(self) -> None:
        """Measure nothing until all workers run and what was asked of those before is handed over."""
        self._meter = self._review = self._passing = self._whole = None

    def _fitting(self, meter: Meter | None) -> Meter | None:
        return meter if meter is not None and meter.workers == self._session.workers else None

    def _take_in(self, wait: float, step: float, hand: float) -> None:
        if self._controller.workers != self._session.workers:  # another iterator's decision, it may be
            self._follow()
        elif self._meter is not None:
            totals = self._totals()
            seen = self._meter.add(wait, step, hand, totals)
            if self._meter.between_blocks:  # the epoch isn't too short for them
                self._whole = None
            decided = seen is not None and self._decides(seen)
            if decided or self._reviewed(wait, step, hand, totals):
                self._follow()
        elif self._passing is None:
            if self._session.all_run:
                self._begin()
        elif self._passing > 0:
            self._passing -= 1
        else:
            self._measure_by(self._new_meter())

    def _begin(self) -> None:
        """All run: go on with what the last epoch left, or wait for what was asked of those before."""
        carried, self._carried = self._carried, None
        if carried is not None:
            carried.begin_block(self._totals())
            self._measure_by(carried)
        else:
            self._passing = self._engine.making

    def _measure_by(self, meter: Meter) -> None:
        self._meter, self._passing = meter, None
        if self._review is not None:
            self._review.begin_block(self._totals())

    def _end(self, step: float) -> None:
        """However few batches an epoch has, the next one is measured, and goes on with what this one left."""
        meter = self._meter or self._fitting(self._carried)
        self._meter = meter or self._new_meter()
        if self._whole is not None and self._whole.count:
            self._whole.add_last_step(step)
            seen = self._meter.add_block(self._whole, self._totals())
            if seen is not None:
                self._decides(seen)  # the next epoch follows it
        self._controller.meter, self._controller.reviewed = self._meter, self._review

    def _decides(self, seen: Observation) -> bool:
        """Whether anything is to change, by what was measured."""
        before = len(self._controller.decisions)
        room = 0 if self._controller.settled else self._session.room()
        self._controller.observe(seen, room)
        self._meter = self._new_meter()
        if len(self._controller.decisions) == before:
            return False
        self._tell()
        return True

    def _reviewed(self, wait: float, step: float, hand: float, totals: Totals) -> bool:
        """Whether anything is to change, as the loop has come to wait more than it should."""
        controller = self._controller
        if not controller.settled or controller.patient:
            return False
        if self._review is None:
            self._review = Meter(self._session.workers, totals, patient=True)
            return False
        seen = self._review.add(wait, step, hand, totals)
        if seen is None:
            return False
        self._review = None
        controller.review(seen)
        return not controller.settled

    def _new_meter(self) -> Meter:
        return Meter(self._session.workers, self._totals(), self._controller.patient)

    def _follow(self) -> None:
        wanted = self._controller.workers
        if wanted == 0:
            self._engine.ahead = 0
            if self._engine.making == 0:
                self._session.do_without_workers()
        else:
            self._session.resize(wanted, self._controller.prefetch_factor)
            self._rest()

    def _tell(self) -> None:
        decision = self._controller.decisions[-1]
        if decision.settled:
            _log.info("num_workers='auto': %s.", decision.why)

    def _totals(self) -> Totals:
        return Totals(*self._recorder.totals(), time.process_time())
