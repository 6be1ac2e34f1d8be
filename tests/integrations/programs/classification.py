"""In the manner of torchvision's references/classification/train.py, with a smaller model and made images."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler, RandomSampler, SequentialSampler
from torchvision.transforms import v2

from tests.conftest import our_children
from tests.integrations.beside import WORKERS, Loader, beside_torch


def load_data() -> tuple[Any, Any, Any, Any]:
    steps = [v2.CenterCrop(28), v2.Resize(24), v2.PILToTensor(), v2.ToDtype(torch.float, scale=True)]
    make = lambda size, first: torchvision.datasets.FakeData(  # noqa: E731
        size, (3, 32, 32), 4, v2.Compose(steps), random_offset=first
    )
    train, val = make(45, 0), make(13, 1000)
    if not dist.is_initialized():
        return train, val, RandomSampler(train), SequentialSampler(val)
    return train, val, DistributedSampler(train), DistributedSampler(val, shuffle=False)


def train_one_epoch(model: nn.Module, optimizer: Any, loader: Any) -> list[Any]:
    model.train()
    seen = []
    for image, target in loader:
        loss = nn.functional.cross_entropy(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append((image.clone(), target.clone(), loss.item()))
    return seen


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Any) -> tuple[float, float]:
    """(accuracy, number of images), of all processes together."""
    model.eval()
    sums = torch.zeros(2)
    for image, target in loader:
        sums += torch.tensor([(model(image).argmax(1) == target).sum(), len(target)])
    dist.all_reduce(sums)
    return sums[0].item() / sums[1].item(), sums[1].item()


def training(loader: Loader, workers: dict[str, Any]) -> Any:
    train, val, train_sampler, val_sampler = load_data()
    train_loader = loader(train, batch_size=8, sampler=train_sampler, drop_last=True, **workers)
    val_loader = loader(val, batch_size=8, sampler=val_sampler, **workers)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    net(torch.zeros(1, 3, 24, 24))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    history = []
    for epoch in range(2):
        train_sampler.set_epoch(epoch)
        history.append((train_one_epoch(model, optimizer, train_loader), evaluate(model, val_loader)))
    return history, list(net.parameters())


def main() -> None:
    dist.init_process_group("gloo")
    for workers in WORKERS:
        history, _ = beside_torch(lambda loader, workers=workers: training(loader, workers))
        assert our_children() == []
        for seen, (_, images) in history:
            assert len(seen) == 2
            assert images == 14
        targets = [None, None]
        dist.all_gather_object(targets, [target.tolist() for _, target, _ in history[0][0]])
        assert targets[0] != targets[1], "each process has data of its own"
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
