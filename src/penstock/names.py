"""The names that code refers to."""

from __future__ import annotations

import types
from collections.abc import Iterator


def names_in(code: types.CodeType) -> list[str]:
    """The global names and the attributes that code refers to, in that of inner functions too."""
    return sorted({name for part in parts_of(code) for name in part.co_names})


def parts_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and that of the functions inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from parts_of(const)
