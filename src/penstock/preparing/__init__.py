"""Data prepared beforehand: the part of a pipeline that is the same every time, run once, to disk."""

try:
    import PIL  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('this needs Pillow: pip install "penstock[prepare]"', name="PIL") from error

from penstock.preparing.prepared import PreparedDataset
from penstock.preparing.run import prepare

__all__ = ["PreparedDataset", "prepare"]
