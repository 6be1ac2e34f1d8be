"""Accelerate, which makes every loader that it prepares anew from a list of torch's arguments."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

import penstock
from tests.integrations.beside import TORCHS, WORKERS, Loader, Points, beside_torch

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
accelerate = pytest.importorskip("accelerate", reason="pip install penstock[integrations]")
data_loader = pytest.importorskip("accelerate.data_loader")


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Accelerate keeps its state in classes, from the first Accelerator on."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let Accelerate make its loaders of a class."""
    return lambda loader: monkeypatch.setattr(data_loader, "DataLoader", loader)


def accelerator(**loading: Any) -> Any:
    steps = loading.pop("gradient_accumulation_steps", 1)
    configuration = accelerate.DataLoaderConfiguration(**loading)
    return accelerate.Accelerator(
        cpu=True, dataloader_config=configuration, gradient_accumulation_steps=steps
    )


@pytest.mark.parametrize("workers", WORKERS, ids=str)
def test_training_with_a_prepared_loader(workers: dict[str, Any], use: Any) -> None:
    def recipe(loader: Loader) -> Any:
        use(loader)
        hf = accelerator(gradient_accumulation_steps=3)
        model = nn.Linear(8, 1)
        model, optimizer, train = hf.prepare(
            model,
            torch.optim.SGD(model.parameters(), lr=0.01),
            loader(Points(), batch_size=8, shuffle=True, **workers),
        )
        assert type(train.base_dataloader) is loader
        seen = []
        for _ in range(2):
            for x, y in train:
                with hf.accumulate(model):
                    loss = nn.functional.mse_loss(model(x), y)
                    hf.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                all_x = hf.gather_for_metrics(x)
                seen.append((x.clone(), loss.item(), hf.sync_gradients, len(all_x), train.end_of_dataloader))
        if loader is penstock.DataLoader:
            assert train.stats().batches == 7
        hf.free_memory()
        return seen, list(model.parameters())

    seen, _ = beside_torch(recipe)
    assert [step[-1] for step in seen] == 2 * ([False] * 6 + [True])


@pytest.mark.parametrize("split_batches", [False, True])
@pytest.mark.parametrize("even_batches", [False, True])
def test_shards(split_batches: bool, even_batches: bool, use: Any) -> None:
    """What the first and the second of two processes get."""

    def recipe(loader: Loader) -> Any:
        use(loader)
        accelerator()
        shards = []
        for rank in range(2):
            whole = loader(Points(45), batch_size=8, shuffle=True, num_workers=2)
            shard = accelerate.data_loader.prepare_data_loader(
                whole,
                num_processes=2,
                process_index=rank,
                split_batches=split_batches,
                even_batches=even_batches,
                use_seedable_sampler=True,
                data_seed=7,
            )
            shards.append([list(shard) for _ in range(2)])
        return shards

    beside_torch(recipe)


@pytest.mark.parametrize("workers", WORKERS[::2], ids=str)
@pytest.mark.parametrize("split_batches", [False, True])
def test_dispatched_batches(workers: dict[str, Any], split_batches: bool, use: Any) -> None:
    def recipe(loader: Loader) -> Any:
        use(loader)
        hf = accelerator(dispatch_batches=True, split_batches=split_batches)
        train = hf.prepare(loader(Points(), batch_size=8, shuffle=True, **workers))
        assert type(train).__name__ == "DataLoaderDispatcher"
        assert type(train.base_dataloader) is loader
        return [list(train) for _ in range(2)]

    beside_torch(recipe)


@pytest.mark.parametrize("workers", WORKERS[:2], ids=str)
@pytest.mark.parametrize("dispatch", [False, True])
def test_skipping_the_first_batches(workers: dict[str, Any], dispatch: bool, use: Any) -> None:
    def recipe(loader: Loader) -> Any:
        use(loader)
        hf = accelerator(dispatch_batches=dispatch)
        train = hf.prepare(loader(Points(), batch_size=8, shuffle=True, **workers))
        rest = hf.skip_first_batches(train, 3)
        assert type(rest.base_dataloader) is loader
        return list(rest), list(train)

    rest, whole = beside_torch(recipe)
    assert (len(rest), len(whole)) == (4, 7)


class Count(IterableDataset[torch.Tensor]):
    """Shared out among the workers by hand, as torch's documentation says."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        step, first = (info.num_workers, info.id) if info else (1, 0)
        return (torch.tensor([float(i)]) for i in range(first, self.size, step))

    def __len__(self) -> int:
        return self.size


@pytest.mark.parametrize("workers", WORKERS[::2], ids=str)
@pytest.mark.parametrize("dispatch", [None, False])
def test_iterable_dataset(workers: dict[str, Any], dispatch: bool | None, use: Any) -> None:
    def recipe(loader: Loader) -> Any:
        use(loader)
        hf = accelerator(dispatch_batches=dispatch)
        train = hf.prepare(loader(Count(21), batch_size=4, **workers))
        return [list(train) for _ in range(2)], list(hf.skip_first_batches(train, 2))

    beside_torch(recipe)


def test_arguments_that_torch_does_not_have(use: Any) -> None:
    """Accelerate doesn't hand them on; docs/frameworks.md says how to."""
    ours = penstock.DataLoader(Points(), seed=3)
    use(penstock.DataLoader)
    assert accelerator().prepare(ours).seed is None
    use(partial(penstock.DataLoader, seed=3))
    prepared = accelerator().prepare(ours)
    assert prepared.seed == 3
    assert isinstance(prepared, penstock.DataLoader)
    assert len(list(prepared)) == 50


def test_stateful_loader_of_torchdata() -> None:
    """Accelerate's other loader is torchdata's own: ours is only what it is made from."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="pip install torchdata")

    def recipe(loader: Loader) -> Any:
        hf = accelerator(use_stateful_dataloader=True)
        train = hf.prepare(loader(Points(), batch_size=8, shuffle=True, num_workers=2))
        assert type(train.base_dataloader) is stateful.StatefulDataLoader
        return list(train)

    beside_torch(recipe)


@pytest.mark.parametrize("workers", WORKERS[::2], ids=str)
def test_a_prepared_loader_is_upgraded_inside(workers: dict[str, Any]) -> None:
    """Of whatever class a loader was, Accelerate prepares one of torch's."""

    def recipe(loader: Loader) -> Any:
        prepared = accelerator().prepare(loader(Points(), batch_size=8, shuffle=True, **workers))
        assert type(prepared.base_dataloader) is TORCHS
        if loader is penstock.DataLoader:
            assert penstock.upgrade(prepared) is prepared
            assert type(prepared.base_dataloader) is loader
            assert penstock.upgrade(prepared) is prepared
        return [[(x, prepared.end_of_dataloader) for x, _ in prepared] for _ in range(2)]

    beside_torch(recipe)
