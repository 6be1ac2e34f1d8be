"""`penstock.upgrade`: an existing torch DataLoader, made Penstock's."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from penstock.loader import DataLoader
from penstock.original import TorchDataLoader

T = TypeVar("T")


def upgrade(loader: TorchDataLoader[T]) -> DataLoader[T]:
    """A Penstock DataLoader with everything that is set on `loader`, which stays as it was.

    The two share the dataset, the sampler and the generator; workers and iterators aren't carried over. An
    object of a subclass of torch's class gets a class that is both its own and Penstock's: its methods stay,
    and what they reach by ``super()`` is Penstock's. A loader that is Penstock's already is returned itself,
    and so is one that Accelerate prepared, which only wraps another: that one is replaced in it.

    Raises:
        TypeError: if `loader` is no torch DataLoader.
    """
    if isinstance(loader, DataLoader):
        return loader
    if not issubclass(type(loader), TorchDataLoader) and hasattr(loader, "base_dataloader"):
        prepared: Any = loader  # it only says, by `__class__`, that it is a DataLoader
        prepared.base_dataloader = upgrade(prepared.base_dataloader)
        return prepared  # type: ignore[no-any-return]
    if not isinstance(loader, TorchDataLoader):
        kind = type(loader)  # type: ignore[unreachable]
        raise TypeError(
            f"upgrade() takes a torch.utils.data.DataLoader, not {kind.__module__}.{kind.__qualname__}; "
            "upgrade a loader before it is wrapped in anything else."
        )
    return _with_state(type(loader), {**vars(loader), "_iterator": None})


def _with_state(cls: type, state: dict[str, Any]) -> DataLoader[Any]:
    """Made from attributes, not by ``__init__``: they may have been changed since, and subclasses differ."""
    made: DataLoader[Any] = object.__new__(_ours(cls))
    no_data: Any = ()
    vars(made).update(vars(DataLoader(no_data)))  # for what Penstock's has beyond torch's
    vars(made).update(state)
    return made


@cache
def _ours(cls: type) -> type:
    """Penstock's class for objects of `cls`, which is torch's or a subclass of it."""
    if cls is TorchDataLoader:
        return DataLoader

    def reduce(self: Any) -> Any:
        """No name leads to this class, so it is made again from its parents where the object is unpickled."""
        return _with_state, (cls, self.__getstate__())

    body = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls)(cls.__name__, (cls, DataLoader), {**body, "__reduce__": reduce})
