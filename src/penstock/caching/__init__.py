"""Keeps what is the same every time: `cache` wraps a dataset, and `CachedDataset` is what it gives."""

from penstock.caching.dataset import CachedDataset, cache

__all__ = ["CachedDataset", "cache"]
