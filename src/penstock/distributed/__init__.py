"""Samples shared out among the ranks of a distributed run."""

from penstock.distributed.sampler import DistributedSampler, integers, share, turns
from penstock.distributed.stream import DistributedIterableDataset

__all__ = ["DistributedIterableDataset", "DistributedSampler", "integers", "share", "turns"]
