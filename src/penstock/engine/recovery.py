"""What becomes of a worker's death: who is to blame, and what of its tasks is run again.

Tasks are pure, so those that a dead worker had are run again by another, and give the same batches. A
sample that keeps killing its worker, or that took too long, has failed like one that raises; workers that
die without being on a sample, and a template, end the epoch.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from dataclasses import dataclass

from penstock.backends.base import Died
from penstock.bad import describe
from penstock.engine.batch import Batch
from penstock.engine.epoch import Epoch
from penstock.engine.watch import Watch
from penstock.errors import SampleInHand, SampleTimeoutError, WorkerDiedError
from penstock.fetch import Failed
from penstock.machine import memory_kills
from penstock.plan import ATTEMPTS, Task
from penstock.policy import Deaths

Name = Callable[[tuple[int, int] | None], SampleInHand | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one death.

    Attributes:
        fatal: it ends the epoch.
        culprit: the (batch, position) of the sample that isn't to be tried again.
    """

    error: WorkerDiedError | SampleTimeoutError
    fatal: bool
    culprit: tuple[int, int] | None


class Recovery:
    """See above; of one epoch."""

    def __init__(self, epoch: Epoch, watch: Watch) -> None:
        self._epoch, self._watch = epoch, watch
        self._deaths = Deaths(epoch.policy)
        self._memory_kills = memory_kills()

    def alive(self, worker: int) -> None:
        """It has done a task: what died under this number before did so by bad luck."""
        self._deaths.forget(worker)

    def judge(self, event: Died, name: Name) -> Verdict:
        """`name` tells a sample in hand by its (batch, position)."""
        late = self._watch.cause_of(event.pid)
        if event.exitcode != -signal.SIGKILL:
            late = None  # it was dying already, by itself
        error = late.error if late else self._death(event, name(event.sample))
        sample = late.sample if late else event.sample  # it may have got to another one before its end
        iterable = self._epoch.iterable
        cause = event.worker if sample is None else (event.worker, sample) if iterable else sample
        hopeless = self._deaths.add(cause) or (late is not None and sample is not None)
        fatal = event.worker is None or (hopeless and (sample is None or iterable))
        return Verdict(error, fatal, sample if hopeless else None)

    def settle(self, task: Task, batch: Batch, verdict: Verdict, worker: int) -> Task | None:
        """What to run again of a lost task; None if it has failed."""
        culprit = verdict.culprit
        if culprit is None or not task.holds(*culprit):
            return task
        position = culprit[1]
        if not self._epoch.policy.tolerant or task.bad.count(position) == ATTEMPTS:
            batch.fail(Failed(verdict.error, position, ""))
            return None
        bad = describe(
            verdict.error, self._epoch.dataset, *culprit, batch.indices[position], self._epoch.course.epoch
        )
        batch.condemn(dataclasses.replace(bad, worker=worker))
        return task._replace(bad=(*task.bad, position))

    def _death(self, event: Died, sample: SampleInHand | None) -> WorkerDiedError:
        kills, self._memory_kills = self._memory_kills, memory_kills()
        told = kills is not None and self._memory_kills is not None and event.exitcode == -signal.SIGKILL
        for_memory = self._memory_kills != kills if told else None
        return WorkerDiedError.of(event.worker, event.pid, event.exitcode, sample, for_memory)
