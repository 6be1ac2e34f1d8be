"""The machine's limit: processes that only call `dataset[i]`, with no loader at all."""

import multiprocessing
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch.utils.data import RandomSampler, Sampler, SequentialSampler

from penstock.demo.measure import Contender, Pass

Times = tuple[float, float, float, float]  # start, first batch, end; CPU seconds


def bare(dataset: Any, batch: int, processes: int, shuffle: bool = False) -> Contender:
    """So many processes at once, each going through the whole dataset on one thread.

    `batch` samples count as the first batch. With `shuffle` each process has its own random order: what
    lies in memory is read quicker from one end to the other than a loader that shuffles can read it.
    """
    sampler = RandomSampler if shuffle else SequentialSampler
    return Contender("bare", processes, lambda: _run(dataset, sampler(dataset), batch, processes))


def _run(dataset: Any, sampler: Sampler[int], batch: int, processes: int) -> Pass:
    """One pass, timed from when all processes are ready."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(processes)
    results: SimpleQueue[Times] = context.SimpleQueue()
    arguments = dataset, sampler, batch, ready, results
    children = [context.Process(target=_work, args=arguments) for _ in range(processes)]
    for child in children:
        child.start()
    starts, firsts, ends, cpu = zip(*(results.get() for _ in children), strict=True)
    for child in children:
        child.join()
    start, size = min(starts), len(dataset)
    return Pass(
        samples=processes * size,
        batches=processes * -(-size // batch),
        first_samples=processes * batch,
        seconds=max(ends) - start,
        first_batch=max(firsts) - start,
        last_batch=max(ends) - start,
        cpu_seconds=sum(cpu),
    )


def _work(
    dataset: Any, sampler: Sampler[int], batch: int, ready: Barrier, results: "SimpleQueue[Times]"
) -> None:
    """Make all samples and drop them."""
    torch.set_num_threads(1)
    torch.seed()
    order = list(sampler)
    dataset[0]  # what is set up once is set up now
    ready.wait()
    cpu, start = time.process_time(), time.perf_counter()
    first = start
    for done, index in enumerate(order, 1):
        dataset[index]
        if done == batch:
            first = time.perf_counter()
    results.put((start, first, time.perf_counter(), time.process_time() - cpu))
