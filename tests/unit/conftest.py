"""Makes the leak check after every test quick."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_collections() -> Iterator[None]:
    """Leave torch and the like, which were there before the first test, out of every collection."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
