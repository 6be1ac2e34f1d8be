"""The protocol of everything that can be saved and go on: samplers, datasets, iterators."""

from __future__ import annotations

from typing import Any


def is_stateful(thing: Any) -> bool:
    """Whether it can tell its state and take it back."""
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))
