"""A small Lightning module and its trainer."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import nn


class Line(L.LightningModule):
    """Linear regression that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(8, 1)
        self.seen: list[Any] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.line(x), y)
        self.seen.append(("train", x.clone(), y.clone(), loss.item()))
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        x, y = batch
        loss = nn.functional.mse_loss(self.line(x), y)
        self.log("val_loss", loss)
        self.seen.append(("val", x.clone(), loss.item()))

    def predict_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.line(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(**arguments: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "enable_checkpointing": False, "max_epochs": 2}
    return L.Trainer(**{**quiet, **defaults, **arguments})
