"""`DistributedIterableDataset`: one stream of samples, shared out among ranks and their workers.

Nobody knows beforehand how long a stream is, and the ranks don't talk. So everyone goes through the whole of
it, and takes what is theirs: of each round of W samples, one for each of the W ranks, rank r takes the r-th,
and its workers take the rounds by turns. All see the same end, and so agree about the last round, without a
message: it is filled up, or left out. Thus all ranks get as many samples, in as many batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, cycle, islice
from typing import Any

import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

Round = tuple[Any, ...]


class DistributedIterableDataset(IterableDataset[Any]):
    """Shares out an iterable dataset's samples among all ranks, and among the workers of each.

    Every sample goes to one rank and to one worker of it, whatever the shards that it comes from, and all
    ranks get equally many: none is left waiting for another at the end of the epoch. Of the last round, which
    may have fewer samples than there are ranks, samples from the beginning make up the rest, as in torch's
    ``DistributedSampler``; with ``drop_last`` it is left out.

    `dataset` is iterated in full by every worker of every rank and has to give the same samples in the same
    order to each. So what is dear belongs into `transform`, which is applied to the samples that are taken.

    Arguments:
        dataset: an iterable of all samples; it need not look at ``get_worker_info()``.
        num_replicas, rank: of the distributed run; taken from ``torch.distributed`` if left out.
        drop_last: leave out the last round if it isn't full.
        transform: what to make of a sample.

    Raises:
        ValueError: if the rank isn't one of ``num_replicas``.
        RuntimeError: if they are left out and ``torch.distributed`` isn't initialised.
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.dataset, self.drop_last, self.transform = dataset, drop_last, transform
        self.num_replicas = _world("get_world_size", "num_replicas") if num_replicas is None else num_replicas
        self.rank = _world("get_rank", "rank") if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"rank should be in [0, {self.num_replicas - 1}], but got {self.rank}")

    def __iter__(self) -> Share:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        rounds = islice(rounds_of(self.dataset, self.num_replicas, self.drop_last), worker, None, workers)
        return Share((each[self.rank] for each in rounds), self.transform)

    def set_epoch(self, epoch: int) -> None:
        """Tell the dataset, if it wants to know."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class Share(Iterator[Any]):
    """What one worker takes. Going on from a state passes over what was taken without transforming it."""

    def __init__(self, samples: Iterator[Any], transform: Callable[[Any], Any] | None) -> None:
        self._samples, self._transform = samples, transform
        self._taken = 0

    def __next__(self) -> Any:
        sample = next(self._samples)
        self._taken += 1
        return sample if self._transform is None else self._transform(sample)

    def state_dict(self) -> dict[str, int]:
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._taken = state["taken"]
        next(islice(self._samples, self._taken, self._taken), None)


def rounds_of(samples: Iterable[Any], size: int, drop_last: bool) -> Iterator[Round]:
    """All samples, `size` at a time; the last round is filled up from the beginning, or dropped."""
    left = iter(samples)
    first: Round = ()
    while one := tuple(islice(left, size)):
        first = first or one
        if len(one) == size:
            yield one
        elif not drop_last:
            yield tuple(islice(chain(one, cycle(first)), size))


def _world(name: str, argument: str) -> int:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise RuntimeError(
            f"torch.distributed isn't initialised, so {argument} can't be taken from there: call "
            f"init_process_group() first, or pass num_replicas and rank."
        )
    return int(getattr(torch.distributed, name)())
