"""Datasets whose cost is known."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
import time
from multiprocessing.synchronize import Lock
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Known(Dataset[Tensor]):
    """Samples that take some time, in a way that subclasses say."""

    def __init__(self, seconds: float, size: int = 400) -> None:
        self.seconds, self.size = seconds, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        self.spend(index)
        return torch.full((16,), float(index))

    def spend(self, index: int) -> None:
        raise NotImplementedError


def compute(seconds: float) -> None:
    """So much CPU time, with the interpreter lock held."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Computing(Known):
    def spend(self, index: int) -> None:  # noqa: ARG002
        compute(self.seconds)


class Sleeping(Known):
    def spend(self, index: int) -> None:  # noqa: ARG002
        time.sleep(self.seconds)


class Cheap(Known):
    def spend(self, index: int) -> None:
        pass


class Locked(Known):
    """Only one worker at a time is at it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.lock: Lock = multiprocessing.Lock()

    def spend(self, index: int) -> None:  # noqa: ARG002
        with self.lock:
            time.sleep(self.seconds)


class Rarely(Known):
    """One sample in a hundred takes much longer."""

    def __init__(self, seconds: float, size: int = 400) -> None:
        super().__init__(seconds, size)
        self.paths = [f"images/{index}.png" for index in range(size)]

    def spend(self, index: int) -> None:
        time.sleep(200 * self.seconds if index % 100 == 7 else self.seconds)


class Threaded(Known):
    """Computes in threads of its own, outside the interpreter lock."""

    def spend(self, index: int) -> None:  # noqa: ARG002
        block = bytes(1 << 20)
        threads = [threading.Thread(target=hashlib.sha256, args=(block,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Beside(Known):
    """Computes beside threads of its own that never let go of the interpreter lock but when they have to."""

    beside = False

    def spend(self, index: int) -> None:  # noqa: ARG002
        if not self.beside:
            self.beside = True
            for _ in range(3):
                threading.Thread(target=compute, args=(60,), daemon=True).start()
        compute(self.seconds)


class Reading(Known):
    """From something that answers after a while, as storage over a network does."""

    def __init__(self, fifo: Path) -> None:
        super().__init__(0.0)
        self.fifo = str(fifo)

    def spend(self, index: int) -> None:  # noqa: ARG002
        with open(self.fifo, "rb", buffering=0) as file:
            file.read(1)


class Failing(Known):
    def spend(self, index: int) -> None:
        raise KeyError(f"no sample {index}")
