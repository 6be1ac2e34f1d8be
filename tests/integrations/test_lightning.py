"""Lightning: a fit with validation, loaders that it makes anew, resuming, Fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import penstock
from tests.conftest import our_children
from tests.integrations.beside import WORKERS, Loader, Points, beside_torch

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
L = pytest.importorskip("lightning", reason="pip install penstock[integrations]")

from tests.integrations.lines import Line, trainer  # noqa: E402


@pytest.mark.parametrize("workers", WORKERS, ids=str)
def test_fit_with_validation(workers: dict[str, Any]) -> None:
    def recipe(loader: Loader) -> Any:
        L.seed_everything(1, workers=True, verbose=False)
        model, train, val = (
            Line(),
            loader(Points(), batch_size=8, shuffle=True, **workers),
            loader(Points(20), batch_size=8, **workers),
        )
        run = trainer()
        run.fit(model, train, val)
        assert run.train_dataloader is train
        if loader is penstock.DataLoader:
            assert train.stats().batches == 7
        assert our_children() == [], "the loaders are still there, and so are their workers"
        return model.seen, run.callback_metrics["val_loss"], list(model.parameters())

    seen, *_ = beside_torch(recipe)
    assert [step[0] for step in seen[2:12]] == ["train"] * 7 + ["val"] * 3


SETTINGS: dict[str, Any] = {
    "batch_size": 6,
    "num_workers": 2,
    "drop_last": True,
    "timeout": 60,
    "prefetch_factor": 3,
    "persistent_workers": True,
    "multiprocessing_context": "fork",
    "in_order": False,
}


@pytest.mark.parametrize("in_hook", [False, True], ids=["from attributes", "from saved arguments"])
def test_loaders_are_made_anew_with_their_settings(in_hook: bool) -> None:
    """To predict, Lightning makes each loader again around a batch sampler of its own."""

    class Predicts(Line):
        def predict_dataloader(self) -> Any:
            return self.make()

    def recipe(loader: Loader) -> Any:
        model, run = Predicts(), trainer()
        own = {"seed": 5, "seeding": "worker"} if loader is penstock.DataLoader else {}
        model.make = lambda: loader(Points(20), generator=torch.Generator().manual_seed(3), **SETTINGS, **own)
        results = run.predict(model) if in_hook else run.predict(model, model.make())
        made = run.predict_dataloaders
        assert type(made) is loader
        assert type(made.batch_sampler).__name__ == "_IndexBatchSamplerWrapper"
        left_out = {"batch_size", "drop_last", "multiprocessing_context"}
        kept = {key: value for key, value in {**SETTINGS, **own}.items() if key not in left_out}
        assert {key: getattr(made, key) for key in kept} == kept
        assert made.multiprocessing_context.get_start_method() == "fork"
        assert made.generator.initial_seed() == 3
        return sorted(results, key=lambda batch: float(batch[0]))

    assert len(beside_torch(recipe)) == 4


def test_several_loaders_at_once_the_shorter_one_again() -> None:
    class Both(Line):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            self.seen.append(batch["b"][0].clone())
            return super().training_step(batch["a"], index)

    def recipe(loader: Loader) -> Any:
        model, arguments = Both(), {"batch_size": 8, "num_workers": 2, "shuffle": True}
        loaders = {"a": loader(Points(40), **arguments), "b": loader(Points(20), **arguments)}
        trainer().fit(model, loaders)
        return model.seen

    assert len(beside_torch(recipe)) == 20


@pytest.mark.parametrize("workers", WORKERS[::2], ids=str)
def test_resume_from_a_checkpoint(workers: dict[str, Any], tmp_path: Path) -> None:
    def recipe(loader: Loader) -> Any:
        def fit(epochs: int, **arguments: Any) -> list[Any]:
            model = Line()
            train = loader(Points(), batch_size=8, shuffle=True, **workers)
            run = trainer(max_epochs=epochs)
            run.fit(model, train, loader(Points(20), batch_size=8, **workers), **arguments)
            run.save_checkpoint(tmp_path / "last.ckpt")
            return model.seen

        return fit(1), fit(3, ckpt_path=tmp_path / "last.ckpt")

    _, seen = beside_torch(recipe)
    assert sum(step[0] == "train" for step in seen) == 14


@pytest.mark.parametrize("workers", WORKERS[::2], ids=str)
def test_fabric(workers: dict[str, Any]) -> None:
    def recipe(loader: Loader) -> Any:
        fabric = L.Fabric(accelerator="cpu", devices=1)
        wrapped = fabric.setup_dataloaders(loader(Points(), batch_size=8, shuffle=True, **workers))
        return [list(wrapped) for _ in range(2)], len(wrapped)

    beside_torch(recipe)
