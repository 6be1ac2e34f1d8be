"""timm's loaders, as a program that knows nothing of Penstock uses them; prints what it saw."""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import ImageDataset, create_loader

folder = Path(sys.argv[1])
for number in range(20):
    (folder / str(number % 2)).mkdir(exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / str(number % 2) / f"{number}.png")

torch.set_num_threads(1)
torch.manual_seed(0)
model = timm.create_model("test_vit", num_classes=2, img_size=32)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
fixed = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": 0.0}
for arguments in (
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": False, "use_prefetcher": False},
    {"num_workers": 2, "use_multi_epochs_loader": True},
):
    loader = create_loader(
        ImageDataset(str(folder)), 32, 6, is_training=True, device=torch.device("cpu"), **fixed, **arguments
    )
    for epoch in range(2):
        torch.manual_seed(epoch)
        losses = []
        for images, targets in loader:
            loss = torch.nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(arguments, epoch, losses)
    del loader
