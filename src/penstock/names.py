"""The names that code refers to."""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator


def names_in(code: types.CodeType) -> list[str]:
    """The global names and the attributes that code refers to, in that of inner functions too."""
    return sorted({name for part in parts_of(code) for name in part.co_names})


def globals_in(code: types.CodeType) -> list[str]:
    """The global names alone."""
    parts = [dis.get_instructions(part) for part in parts_of(code)]
    return sorted({each.argval for part in parts for each in part if each.opname in _OF_GLOBALS})


_OF_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}


def parts_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and that of the functions inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from parts_of(const)
