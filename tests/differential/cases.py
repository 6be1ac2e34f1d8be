"""Draws settings: the dataset, its samples' structure, all arguments, and what is done with the loader."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch.utils.data import default_collate, default_convert

from tests.differential import samples
from tests.differential.recording import MOST_BATCHES, STEPS, Setting
from tests.differential.samples import Box, Description, Failing, Leaf, Now, Opaque, Pinnable, Shelf, Sized
from tests.differential.sources import (
    BATCH_SAMPLERS,
    MAP_KINDS,
    SAMPLERS,
    STREAM_KINDS,
    MapSource,
    Order,
    StreamSource,
)

# -- samples -------------------------------------------------------------------------------------

ordinary = st.sampled_from(sorted(samples.LEAVES)).map(Leaf)
numbers = st.sampled_from(["float32", "int64", "0-d", "f4", "int", "float", "bool", "np.float32"]).map(Leaf)
refused = st.sampled_from(sorted(samples.REFUSED)).map(Leaf)
unusual = st.sampled_from(sorted(samples.UNUSUAL)).map(Leaf)
failing = st.sampled_from(sorted(samples.ERRORS)).map(Failing)


def boxes(inner: st.SearchStrategy[Description]) -> st.SearchStrategy[Description]:
    kinds = st.sampled_from(["tuple", "dict", "list", "point", *sorted(samples.CONTAINERS)])
    items = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.builds(Box, kinds, items)


def nested(leaves: st.SearchStrategy[Description]) -> st.SearchStrategy[Description]:
    return st.recursive(leaves, boxes, max_leaves=4)


def now(rare: st.SearchStrategy[Description], usual: st.SearchStrategy[Description]) -> Any:
    at = st.integers(0, 6)
    return st.builds(
        lambda every, at, *both: Now(every, at % every, *both), st.integers(2, 7), at, rare, usual
    )


regular = nested(st.one_of(numbers, ordinary))
irregular = st.one_of(
    now(ordinary, ordinary),
    now(regular, regular),
    now(refused, ordinary),
    st.builds(Sized, st.integers(1, 4)),
)
descriptions: st.SearchStrategy[Description] = st.one_of(
    regular,
    regular,
    nested(st.one_of(ordinary, irregular)),
    nested(st.one_of(ordinary, refused)),
    now(failing, regular),
)
"""Of samples that torch treats alike with workers and without."""

# -- collate functions ---------------------------------------------------------------------------


def as_they_are(batch: Any) -> Any:
    return batch


def collated_in_an_object(batch: Any) -> Any:
    return Opaque(default_collate(batch))


def pinnable(batch: Any) -> Any:
    return Pinnable(len(batch))


def text_of(batch: Any) -> str:
    return repr(type(batch))


def nothing(batch: Any) -> None:  # noqa: ARG001
    return None


def fails_on_few(batch: Any) -> Any:
    if len(batch) < 3:
        raise samples.OwnError("too few", len(batch))
    return batch


def padded(batch: Any) -> Any:
    return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(item).reshape(-1) for item in batch])


COLLATE = (
    *(None, default_collate, default_convert, as_they_are, collated_in_an_object),
    *(pinnable, text_of, nothing, fails_on_few, padded),
)

# -- arguments -----------------------------------------------------------------------------------


def some_of(**choices: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=choices)


def _init(worker: int) -> None:
    assert worker >= 0


def some_steps(*names: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(["epoch", *names]), min_size=1, max_size=3).map(tuple)


all_steps = some_steps("epoch", *sorted(STEPS.keys() - {"whole"}))
asking_in_step = some_steps("epoch", "left early", "loop", "two at once", "grow")
"""Those at whose end as much of the sampler is used up whether batches are made ahead or not."""
sizes = st.integers(0, 11)
common: dict[str, Any] = {
    "collate_fn": st.sampled_from(COLLATE),
    "pin_memory": st.booleans(),
    "generator": st.one_of(st.none(), st.integers(0, 9)),
    "in_order": st.just(True),
    "drop_last": st.booleans(),
    "worker_init_fn": st.sampled_from([None, _init]),
    "pin_memory_device": st.sampled_from(["", "cuda"]),
}


@st.composite
def maps(
    draw: Any,
    sample: st.SearchStrategy[Description],
    arguments: dict[str, Any],
    steps: st.SearchStrategy[tuple[str, ...]] = all_steps,
) -> Setting:
    size = draw(sizes)
    given = draw(some_of(**{**common, **arguments}))
    batching = draw(
        st.sampled_from(["batch_size", "batch_size", "none", "sampler", "sampler", "batch_sampler"])
    )
    if batching == "batch_sampler":
        names = st.sampled_from(sorted(BATCH_SAMPLERS))
        given["batch_sampler"] = Order(draw(names), max(size, 1), batches=True)
        given.pop("drop_last", None)
    elif batching == "none":
        given["batch_size"] = None
        given.pop("drop_last", None)
    else:
        given["batch_size"] = draw(st.integers(1, 5))
    if batching == "sampler" or (batching == "none" and draw(st.booleans())):
        given["sampler"] = Order(draw(st.sampled_from(sorted(SAMPLERS))), max(size, 1), batches=False)
    elif batching != "batch_sampler":
        given["shuffle"] = draw(st.sampled_from([True, False, None]))
    kind = draw(st.sampled_from(["dataset", "dataset", *sorted(MAP_KINDS)]))
    source = MapSource(kind, draw(sample), size)
    return Setting(source, given, draw(steps), draw(st.integers(0, 99)))


@st.composite
def shelves(draw: Any, sample: st.SearchStrategy[Description], arguments: dict[str, Any]) -> Setting:
    """Batches of many kinds, one after the other: a loader with workers is too dear for one kind each."""
    each = draw(st.integers(1, 4))
    items = draw(st.lists(sample, min_size=1, max_size=MOST_BATCHES - 1).map(tuple))
    given = draw(some_of(collate_fn=common["collate_fn"], **arguments))
    source = MapSource("dataset", Shelf(each, items), each * len(items))
    return Setting(source, {"batch_size": each, **given}, ("epoch",), draw(st.integers(0, 99)))


@st.composite
def streams(draw: Any, sample: st.SearchStrategy[Description], arguments: dict[str, Any]) -> Setting:
    given = draw(some_of(**{**common, **arguments}, batch_size=st.one_of(st.none(), st.integers(1, 5))))
    if given.get("batch_size", 1) is None:
        given.pop("drop_last", None)
    lengths = draw(st.lists(sizes, min_size=1, max_size=3).map(tuple))
    length = draw(st.one_of(st.none(), st.just(sum(lengths)), st.integers(0, 12)))
    kind = draw(st.sampled_from(["generator", "steps", *sorted(STREAM_KINDS)]))
    source = StreamSource(kind, draw(sample), lengths, draw(st.booleans()), length, draw(st.booleans()))
    return Setting(source, given, draw(all_steps), draw(st.integers(0, 99)))
