"""Puts Penstock's DataLoader in the place of torch's as soon as the program has imported torch.

Not before: what a program does ahead of ``import torch`` (set ``OMP_NUM_THREADS``, say) has to count. And not
later, so that whatever names, subclasses or makes a DataLoader finds Penstock's there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_OURS = "penstock.loader"
_TORCHS = ("torch", "torch.utils.data")


def replace() -> None:
    """Have every name in a module that stands for torch's DataLoader stand for Penstock's."""
    from penstock.loader import DataLoader
    from penstock.original import TorchDataLoader

    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and not name.startswith("penstock."):
            for variable, value in list(vars(module).items()):
                if value is TorchDataLoader:
                    setattr(module, variable, DataLoader)


def replace_when_imported(done: Callable[[], None]) -> None:
    """`replace` as soon as torch is imported, or now if it is; then call `done`."""

    def act() -> None:
        replace()
        done()

    when_imported(act)


def when_imported(act: Callable[[], None]) -> None:
    """Call `act` as soon as torch is imported and our loader can be, or now if so it is; before anybody else
    sees torch's."""
    watch = _Watch(act)
    sys.meta_path.insert(0, watch)
    watch.look()


class _Watch(MetaPathFinder):
    """Sees every import begin, and those of torch and of our loader end."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith("penstock."):
            self.look()
        if self._act is None or name not in (*_TORCHS, _OURS):
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            _call_after_load(spec.loader, lambda: self.look(name))
        return spec

    def look(self, loaded: str = "") -> None:
        """Act if that can be done by now; the module `loaded` just was."""
        if self._act is not None and _can_replace(loaded):
            act, self._act = self._act, None
            act()


def _can_replace(loaded: str) -> bool:
    """Whether torch is there, and our loader is there or can be imported.

    It can't be imported while some other module of ours, which it needs, is waiting for torch itself.
    """

    def complete(name: str) -> bool:
        module = sys.modules.get(name)
        return name == loaded or (module is not None and not getattr(module.__spec__, "_initializing", False))

    ours = [name for name in list(sys.modules) if name.startswith("penstock.")]
    return all(map(complete, _TORCHS)) and (complete(_OURS) or all(map(complete, ours)))


def _call_after_load(loader: Any, then: Callable[[], None]) -> None:
    """Call `then` once the loader, which is that of a single module, has executed it."""

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        loader.exec_module(module)
        then()

    # Python leaves the frames of its own import system out of tracebacks. This one is of that kind: an
    # error or a Ctrl-C in the middle of the program's ``import torch`` looks as it does without us.
    exec_module.__code__ = exec_module.__code__.replace(co_filename="<frozen importlib._bootstrap>")
    loader.exec_module = exec_module
