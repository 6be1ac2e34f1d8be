"""MONAI's own loaders, which are subclasses of torch's; prints what they give.

Its thread workers seed torch's generator in the middle of a run, so nothing is shuffled there.
"""

import torch
from monai.data import CacheDataset, DataLoader, Dataset, ThreadDataLoader
from monai.transforms import Compose, EnsureChannelFirstd, ScaleIntensityd

volumes = [{"image": torch.arange(16.0).reshape(4, 4) * (i + 1), "number": i} for i in range(10)]
steps = Compose(
    [EnsureChannelFirstd("image", channel_dim="no_channel"), ScaleIntensityd("image", minv=0, maxv=9)]
)
for kind, arguments in (
    (DataLoader, {}),
    (DataLoader, {"num_workers": 2}),
    (DataLoader, {"num_workers": 2, "persistent_workers": True}),
    (ThreadDataLoader, {}),
    (ThreadDataLoader, {"num_workers": 2, "repeats": 2}),
    (ThreadDataLoader, {"num_workers": 2, "use_thread_workers": True, "shuffle": False}),
):
    for dataset in (Dataset(volumes, steps), CacheDataset(volumes, steps, num_workers=1, progress=False)):
        torch.manual_seed(1)
        loader = kind(dataset, batch_size=4, **{"shuffle": True, **arguments})
        for batch in loader:
            image = batch["image"]
            print(
                kind.__name__, arguments, type(image).__name__, image.sum((1, 2, 3)).tolist(), batch["number"]
            )
        del loader
