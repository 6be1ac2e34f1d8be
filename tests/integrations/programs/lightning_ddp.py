"""Two processes: Lightning makes each loader again, around a DistributedSampler."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DistributedSampler

import penstock
from tests.conftest import our_children
from tests.integrations.beside import WORKERS, Loader, Points, beside_torch
from tests.integrations.lines import Line, trainer


def fit(loader: Loader, workers: dict[str, Any]) -> Any:
    arguments = {"batch_size": 4, "prefetch_factor": 3 if workers["num_workers"] else None, **workers}
    train, val = loader(Points(45), shuffle=True, **arguments), loader(Points(20), **arguments)
    run, model = trainer(strategy="ddp", devices=2), Line()
    run.fit(model, train, val)
    made = run.train_dataloader
    assert made is not train
    assert type(made) is loader
    assert isinstance(made.sampler, DistributedSampler)
    assert (made.num_workers, made.prefetch_factor) == (workers["num_workers"], train.prefetch_factor)
    if loader is penstock.DataLoader:
        assert made.stats().batches == 6
    return model.seen, run.callback_metrics["val_loss"], list(model.parameters())


def main() -> None:
    for workers in WORKERS[::2]:
        seen, *_ = beside_torch(lambda loader, workers=workers: fit(loader, workers))
        assert our_children() == []
        assert sum(step[0] == "train" for step in seen) == 12
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
