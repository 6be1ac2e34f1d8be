"""Samples in files: Arrow IPC streams of plain columns, written whole or not at all, read without a copy.

`encode` turns samples into a record batch and `write_shard` writes it; `Shard` gives the samples back, bit
for bit. What reads Arrow reads these files too: a tensor of one shape is a column of nested fixed-size
lists, and Hugging Face's ``datasets`` opens a shard by ``Dataset.from_file``.
"""

try:
    import pyarrow  # noqa: F401
except ModuleNotFoundError as error:
    text = 'this needs pyarrow: pip install "penstock[prepare]"'
    raise ModuleNotFoundError(text, name="pyarrow") from error

from penstock.shards.columns import Column
from penstock.shards.files import Written, clear_leftovers, write_atomically, write_shard
from penstock.shards.layout import Layout, layout_of
from penstock.shards.parts import EncodedImage, Pixels
from penstock.shards.samples import encode, fitted, record_batch
from penstock.shards.shard import Shard

__all__ = [
    "Column",
    "EncodedImage",
    "Layout",
    "Pixels",
    "Shard",
    "Written",
    "clear_leftovers",
    "encode",
    "fitted",
    "layout_of",
    "record_batch",
    "write_atomically",
    "write_shard",
]
