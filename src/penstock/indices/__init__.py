"""The indices of an epoch's batches, from any batch on."""

from penstock.indices.stream import IndexStream, Place

__all__ = ["IndexStream", "Place"]
