"""The exceptions of Penstock.

    PenstockError
    ├── ClosedError             an iterator or loader was used after it was closed      (RuntimeError)
    ├── WorkerError             a worker raised something that can't be rebuilt here    (RuntimeError)
    ├── WorkerDiedError         a worker process ended without being asked to           (RuntimeError)
    ├── BatchTimeoutError       no batch came within ``timeout`` seconds                (RuntimeError)
    ├── SampleTimeoutError      a sample took longer than ``sample_timeout`` seconds    (TimeoutError)
    ├── TooManyErrorsError      more samples were bad than ``max_errors`` allows        (RuntimeError)
    ├── DatasetNotSendableError the dataset can't be serialised for the start method    (TypeError)
    ├── BatchNotSendableError   a batch can't be serialised for the main process        (TypeError)
    ├── NotFingerprintableError it can't be told when a dataset has become another one   (TypeError)
    ├── NotRepeatableError      no part of a dataset's samples is the same every time   (ValueError)
    ├── StateError              a saved state doesn't fit the loader that is to go on    (ValueError)
    ├── NotStorableError        a sample holds what can't be stored in a file           (TypeError)
    ├── DamagedShardError       a file of samples isn't what was written                (RuntimeError)
    ├── PrepareError            data can't be prepared, or prepared data can't be used  (RuntimeError)
    └── BatchTooLargeError      a batch needs more memory than there is                 (MemoryError)

What ``dataset[i]`` or ``collate_fn`` raises in a worker reaches the caller as itself: the same type,
with the worker's traceback as its ``__cause__`` and the batch and the sample as a note.

Where torch raises a plain ``RuntimeError``, ours (`WorkerDiedError` and `BatchTimeoutError`) can be made
from a message alone, as that can: there is code that makes an exception anew from its type and its text.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

__all__ = [
    "BatchNotSendableError",
    "BatchTimeoutError",
    "BatchTooLargeError",
    "ClosedError",
    "DamagedShardError",
    "DatasetNotSendableError",
    "NotFingerprintableError",
    "NotRepeatableError",
    "NotStorableError",
    "PenstockError",
    "PrepareError",
    "SampleInHand",
    "SampleTimeoutError",
    "StateError",
    "TooManyErrorsError",
    "WorkerDiedError",
    "WorkerError",
    "WorkerTraceback",
    "annotate",
    "human_bytes",
]


class PenstockError(Exception):
    """The root of every exception that is Penstock's own."""

    def __reduce__(self) -> tuple[object, ...]:
        return _same, (type(self), self.args, self.__dict__.copy())


class ClosedError(PenstockError, RuntimeError):
    """An iterator or loader was used after it was closed."""


class WorkerError(PenstockError, RuntimeError):
    """Stands for an exception of a worker that can't be rebuilt in the main process.

    Attributes:
        type_name: the name of the original type, with its module.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name


class WorkerTraceback(PenstockError):
    """The traceback of a worker as text; the ``__cause__`` of what the main process raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text.rstrip()}\n"


@dataclass(frozen=True, slots=True)
class SampleInHand:
    """What a worker was doing.

    Attributes:
        batch: the number of the batch.
        index: what it had passed, or was about to pass, to ``dataset[i]``; with `stream`, the place in the
            batch of what it asked its iterator for.
        stream: of an iterable dataset, the worker whose iterator it was.
    """

    batch: int
    index: object
    stream: int | None = None

    def __str__(self) -> str:
        if self.stream is not None:
            place = f"sample {self.index} of batch {self.batch}"
            return f"on {place} from the iterable dataset in worker {self.stream}"
        return f"on dataset[{self.index!r}] for batch {self.batch}"


class WorkerDiedError(PenstockError, RuntimeError):
    """A worker process ended without being asked to.

    Attributes:
        worker: the worker's number, or None for the template process that the workers come from.
        pid: its process id.
        exitcode: as in ``multiprocessing.Process.exitcode``: negative for a signal, None if unknown.
        sample: the sample it was on, or None between samples.
        for_memory: the kernel says that it killed a process for lack of memory; None if it doesn't say.
    """

    worker: int | None = None
    pid: int | None = None
    exitcode: int | None = None
    sample: SampleInHand | None = None
    for_memory: bool | None = None

    @classmethod
    def of(
        cls,
        worker: int | None,
        pid: int,
        exitcode: int | None,
        sample: SampleInHand | None,
        for_memory: bool | None = None,
    ) -> Self:
        where = "between samples" if sample is None else str(sample)
        if worker is None:
            text = f"The template process of the DataLoader workers (pid {pid}) {describe_exit(exitcode)}."
        else:  # begins with torch's words, which people match
            text = (
                f"DataLoader worker (pid {pid}) {describe_exit(exitcode)}. It was worker {worker}, {where}."
            )
        error = cls(text + (MEMORY_REMEDY if for_memory else exit_remedy(worker, exitcode, sample)))
        error.worker, error.pid, error.exitcode, error.sample = worker, pid, exitcode, sample
        error.for_memory = for_memory
        return error


class SampleTimeoutError(PenstockError, TimeoutError):
    """A sample took longer than ``sample_timeout``; its worker was ended.

    Attributes:
        worker, pid: of the worker that was on it.
        sample: which it was.
        stack: where the worker was in its Python code, or None if it couldn't say.
    """

    def __init__(
        self, worker: int, pid: int, sample: SampleInHand | None, timeout: float, stack: str | None
    ) -> None:
        self.worker, self.pid, self.sample, self.stack = worker, pid, sample, stack
        where = f"It was here:\n{stack.rstrip()}" if stack else "It could not say where it was."
        super().__init__(
            f"a sample took longer than sample_timeout={timeout:g} seconds: worker {worker} (pid {pid}) was "
            f"{sample or 'between samples'}, and was ended. {where}"
        )

    def __str__(self) -> str:
        return str(self.args[0])


class BatchTimeoutError(PenstockError, RuntimeError):
    """No batch came within the loader's ``timeout``.

    Attributes:
        timeout: seconds.
        busy: for each worker with work, its number, its pid and the sample that it is on.
    """

    timeout: float | None = None
    busy: tuple[tuple[int, int, SampleInHand | None], ...] = ()

    @classmethod
    def of(
        cls,
        batch: int,
        timeout: float,
        busy: Sequence[tuple[int, int, SampleInHand | None]],
        stacks: Sequence[str] = (),
    ) -> Self:
        lines = [f"DataLoader timed out after {timeout:g} seconds: batch {batch} did not come."]
        lines += [f"  worker {w} (pid {pid}) is {s or 'between samples'}" for w, pid, s in busy]
        lines += [stack.rstrip() for stack in stacks]
        lines.append("Raise timeout=, or look at why these samples take so long.")
        error = cls("\n".join(lines))
        error.timeout, error.busy = timeout, tuple(busy)
        return error


class TooManyErrorsError(PenstockError, RuntimeError):
    """More samples were bad than ``max_errors`` allows.

    Attributes:
        count: how many.
    """

    def __init__(self, count: int, samples: int, limit: float, kinds: Sequence[str], last: str) -> None:
        self.count = count
        lines = [f"{count} of {samples} samples were bad, more than max_errors={limit:g} allows:"]
        lines += [f"  {kind}" for kind in kinds[:10]]
        lines.append(f"The last one was {last}. All are in loader.errors.")
        super().__init__("\n".join(lines))


class DatasetNotSendableError(PenstockError, TypeError):
    """The dataset (or collate_fn, or worker_init_fn) can't be serialised for the start method."""

    def __init__(self, start_method: str, culprit: str, reason: str) -> None:
        super().__init__(
            f"{culprit} can't be sent to workers under the {start_method!r} start method: {reason}. "
            f"Open files, connections and locks in dataset[i] or worker_init_fn instead of in "
            f"__init__, leave them out in __getstate__, or use multiprocessing_context='fork'."
        )


class BatchNotSendableError(PenstockError, TypeError):
    """A batch can't be serialised for the main process."""

    def __init__(self, type_name: str, reason: str) -> None:
        super().__init__(
            f"a batch of type {type_name} can't be sent to the main process: {reason}. "
            f"Return tensors, arrays, numbers, strings or picklable objects from the dataset and "
            f"from collate_fn, or use num_workers=0."
        )


class NotFingerprintableError(PenstockError, TypeError):
    """It can't be told when a dataset has become another one, so its samples aren't kept on disk.

    Attributes:
        where: what in the dataset is the reason.
    """

    def __init__(self, where: str, kind: str) -> None:
        self.where = where
        super().__init__(
            f"{where}, a {kind}, can't be fingerprinted, so what is cached on disk could be out of date. "
            f"Open such things in dataset[i] instead of in __init__, or cache in memory alone."
        )


class NotRepeatableError(PenstockError, ValueError):
    """No part of a dataset's samples is the same every time, or not the part that was asked for."""

    def __init__(self, dataset: str, reason: str) -> None:
        super().__init__(
            f"nothing of {dataset} can be kept: {reason} What is kept has to be the same every time: draw "
            f"random numbers in a transform, after everything that is worth keeping."
        )


class StateError(PenstockError, ValueError):
    """One can't go on from a saved state: it is another loader's, or the sampler's order isn't that again."""


class NotStorableError(PenstockError, TypeError):
    """A sample holds what can't be stored in a file."""

    def __init__(self, kind: type, reason: str = "") -> None:
        super().__init__(
            f"a sample holds {_article(kind)}, which can't be stored{': ' if reason else ''}{reason}. "
            f"What can: tensors, NumPy arrays, Pillow's images, numbers, strings, bytes, None, and dicts, "
            f"lists and tuples of them."
        )


class DamagedShardError(PenstockError, RuntimeError):
    """A file of samples isn't what was written.

    Attributes:
        path: of the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: os.PathLike[str], reason: str) -> None:
        self.path, self.reason = os.fspath(path), reason
        super().__init__(f"{self.path} is damaged: {reason}.")


class PrepareError(PenstockError, RuntimeError):
    """Data can't be prepared, or what was prepared can't be used, for a reason that can be mended."""


class BatchTooLargeError(MemoryError, PenstockError):
    """A batch needs more memory than there is, or than one batch may have.

    Attributes:
        needed, available: bytes.
    """

    def __init__(self, needed: int, available: int, what: str) -> None:
        self.needed, self.available = needed, available
        super().__init__(
            f"a batch needs {human_bytes(needed)}, and {what} {human_bytes(available)}. "
            f"Make batch_size smaller, or the samples (uint8 instead of float32, a lower resolution)."
        )


def _same(kind: type[BaseException], args: tuple[object, ...], state: dict[str, object]) -> object:
    """Rebuild an exception without its constructor, whose arguments aren't the ones in `args`."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def annotate(error: BaseException, note: str) -> None:
    """``error.add_note(note)``, whatever its class makes of that."""
    try:
        error.add_note(note)
    except Exception:  # a frozen dataclass, say
        vars(error)["__notes__"] = [*getattr(error, "__notes__", ()), note]


def _article(kind: type) -> str:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def human_bytes(count: float) -> str:
    """`count` bytes for a person to read: ``38.5 MB``; powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.95:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def describe_exit(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is None:
        return "exited unexpectedly"
    if exitcode >= 0:
        return f"exited unexpectedly with exit code {exitcode}"
    try:
        number = signal.Signals(-exitcode)
    except ValueError:
        return f"is killed by signal: {-exitcode}"
    return f"is killed by signal: {signal.strsignal(number)} ({number.name})"


MEMORY_REMEDY = (
    " The kernel killed it for lack of memory: use fewer workers, a smaller batch_size or smaller samples."
)


def exit_remedy(worker: int | None, exitcode: int | None, sample: SampleInHand | None) -> str:
    """What a user can do about it, as a sentence with a space before it, or nothing."""
    if exitcode == -signal.SIGKILL:
        return (
            " Nothing but the system or a person sends SIGKILL; most often the system does, for lack"
            " of memory: use fewer workers, a smaller batch_size or smaller samples."
        )
    if exitcode in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE):
        return " A library written in C crashed." + (
            f" Call dataset[{sample.index!r}] in a process of its own to see it."
            if sample is not None and sample.stream is None
            else ""
        )
    if worker is None:
        return " Its own words, if any, are on standard error."
    if exitcode is not None and exitcode >= 0:
        return " Something in the dataset ended the process (os._exit, sys.exit, a C library)."
    return ""
