"""The batches of an epoch: their indices, from any batch on, and the books of what was handed over."""

from penstock.indices.describe import ELASTIC, describe, epoch_of
from penstock.indices.dice import restore, state_of
from penstock.indices.listed import Listed
from penstock.indices.place import Place
from penstock.indices.stream import IndexStream, is_known, outlook
from penstock.indices.turns import Turns
from penstock.indices.untouched import unmoved

__all__ = [
    "ELASTIC",
    "IndexStream",
    "Listed",
    "Place",
    "Turns",
    "describe",
    "epoch_of",
    "is_known",
    "outlook",
    "restore",
    "state_of",
    "unmoved",
]
