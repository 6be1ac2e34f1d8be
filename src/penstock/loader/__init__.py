"""The public loader, its iterator, and what an iterator holds."""

from penstock.loader.dataloader import DataLoader

__all__ = ["DataLoader"]
