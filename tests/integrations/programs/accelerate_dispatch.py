"""Two processes: the first loads for both, or each loads its part of every batch."""

from __future__ import annotations

from itertools import product
from typing import Any

import accelerate
import torch

from tests.conftest import our_children
from tests.integrations.beside import Loader, Points, beside_torch


def batches(loader: Loader, workers: int, **loading: Any) -> Any:
    accelerate.data_loader.DataLoader = loader
    configuration = accelerate.DataLoaderConfiguration(**loading)
    hf = accelerate.Accelerator(cpu=True, dataloader_config=configuration)
    assert hf.num_processes == 2
    made = hf.prepare(loader(Points(45), batch_size=8, shuffle=True, num_workers=workers))
    assert type(made.base_dataloader) is loader
    whole = [[hf.gather_for_metrics(x).clone() for x, _ in made] for _ in range(2)]
    return whole, list(hf.skip_first_batches(made, 1)), len(made)


def main() -> None:
    for dispatch, split, workers in product((False, True), (False, True), (0, 2)):
        if workers == 0 and split:
            continue  # it has nothing to do with the workers
        loading = {"dispatch_batches": dispatch, "split_batches": split, "even_batches": True}
        whole, *_ = beside_torch(lambda loader: batches(loader, workers, **loading))  # noqa: B023
        assert our_children() == []
        assert all(sum(map(len, epoch)) == 45 for epoch in whole)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
