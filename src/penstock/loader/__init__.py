"""The public loader, its iterator, and what an iterator holds."""

from penstock.arena import MAX_WORKERS
from penstock.loader.dataloader import DataLoader

__all__ = ["MAX_WORKERS", "DataLoader"]
