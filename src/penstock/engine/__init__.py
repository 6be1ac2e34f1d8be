"""Drives one epoch on a backend."""

from penstock.engine.drive import Engine
from penstock.engine.epoch import Batches, Epoch

__all__ = ["Batches", "Engine", "Epoch"]
