"""Hugging Face's datasets, and its Trainer, with our loader handed in or made where Accelerate makes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import penstock
from tests.integrations.beside import WORKERS, Loader, beside_torch

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
why = "pip install penstock[integrations]"
datasets = pytest.importorskip("datasets", reason=why)
transformers = pytest.importorskip("transformers", reason=why)
data_loader = pytest.importorskip("accelerate.data_loader", reason=why)

WORDS, LONGEST = 30, 12


def sentences(size: int = 40) -> Any:
    """Lists of word numbers, of lengths that differ, and whether the first is even."""
    words = [[(7 * i + 3 * j) % WORDS + 1 for j in range(i % (LONGEST - 3) + 3)] for i in range(size)]
    return datasets.Dataset.from_dict({"input_ids": words, "labels": [line[0] % 2 for line in words]})


def pad(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    lines = [torch.as_tensor(sample["input_ids"]) for sample in samples]
    padded = torch.nn.utils.rnn.pad_sequence(lines, batch_first=True)
    labels = torch.tensor([int(sample["labels"]) for sample in samples])
    return {"input_ids": padded, "attention_mask": (padded > 0).long(), "labels": labels}


def tiny_model() -> Any:
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=WORDS + 1,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=LONGEST,
        )
    )


class Recording(transformers.Trainer):
    """Keeps every batch that it trains on."""

    seen: list[Any]

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **more: Any) -> Any:
        if model.training:
            self.seen.append({name: value.clone() for name, value in inputs.items()})
        return super().compute_loss(model, inputs, *arguments, **more)


def make_trainer(kind: type[Any], folder: Path, workers: dict[str, Any], train: Any, **arguments: Any) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_num_workers": workers["num_workers"],
        "dataloader_persistent_workers": workers.get("persistent_workers", False),
        **arguments,
    }
    trainer = kind(
        model=tiny_model(),
        args=transformers.TrainingArguments(**settings),
        train_dataset=train,
        eval_dataset=sentences(20),
        data_collator=pad,
    )
    trainer.seen = []
    return trainer


def outcome(trainer: Any) -> Any:
    """The batches, the losses of every step and evaluation, and the weights."""
    losses = [
        {name: value for name, value in entry.items() if "loss" in name}
        for entry in trainer.state.log_history
    ]
    return trainer.seen, losses[:-1], list(trainer.model.parameters())


@pytest.mark.parametrize("workers", WORKERS, ids=str)
def test_our_loader_handed_in(workers: dict[str, Any], tmp_path: Path) -> None:
    def recipe(loader: Loader) -> Any:
        class Ours(Recording):
            def get_train_dataloader(self) -> Any:
                self.made = loader(
                    self.train_dataset,
                    batch_size=self.args.train_batch_size,
                    sampler=self._get_train_sampler(),
                    collate_fn=self.data_collator,
                    **workers,
                )
                return self.made

            def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
                chosen = eval_dataset or self.eval_dataset
                return loader(chosen, batch_size=8, collate_fn=self.data_collator, **workers)

        trainer = make_trainer(Ours, tmp_path, workers, sentences())
        trainer.train()
        if loader is penstock.DataLoader:
            assert trainer.made.stats().batches == 5
        return outcome(trainer)

    seen, losses, _ = beside_torch(recipe)
    assert len(seen) == 10
    assert len(losses) == 12, "ten steps and two evaluations"


@pytest.mark.parametrize(
    ("kind", "workers"),
    [("lists", WORKERS[0]), ("lists", WORKERS[1]), ("tensors", WORKERS[2]), ("stream", WORKERS[2])],
    ids=str,
)
def test_our_loader_in_accelerates_place_for_it(
    kind: str, workers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Trainer makes torch's loader, but has Accelerate prepare it."""

    def recipe(loader: Loader) -> Any:
        monkeypatch.setattr(data_loader, "DataLoader", loader)
        train = sentences()
        if kind == "tensors":
            train = train.with_format("torch")
        if kind == "stream":
            train = train.to_iterable_dataset(num_shards=2)
        trainer = make_trainer(Recording, tmp_path, workers, train, max_steps=10)
        assert type(trainer.get_train_dataloader().base_dataloader) is loader
        trainer.train()
        return outcome(trainer)

    seen, *_ = beside_torch(recipe)
    assert len(seen) == 10


def test_resume_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(loader: Loader) -> Any:
        monkeypatch.setattr(data_loader, "DataLoader", loader)
        folder = tmp_path / loader.__module__
        workers = {"num_workers": 2}
        saving = {"save_strategy": "steps", "save_steps": 7}
        whole = make_trainer(Recording, folder, workers, sentences(), **saving)
        whole.train()
        rest = make_trainer(Recording, folder, workers, sentences(), **saving)
        rest.train(resume_from_checkpoint=str(folder / "checkpoint-7"))
        return whole.seen, rest.seen

    whole, rest = beside_torch(recipe)
    assert [batch["input_ids"].tolist() for batch in rest] == [
        batch["input_ids"].tolist() for batch in whole[7:]
    ]


def test_a_stream_in_a_new_order_every_epoch() -> None:
    """All workers shuffle the shards alike, by a generator in the dataset; the epoch is in shared memory."""

    def recipe(loader: Loader) -> Any:
        numbers = datasets.Dataset.from_dict({"number": list(range(24))})
        stream = numbers.to_iterable_dataset(num_shards=8).shuffle(seed=1, buffer_size=4)
        made = loader(stream, batch_size=6, num_workers=2, persistent_workers=True)
        epochs = []
        for epoch in range(3):
            stream.set_epoch(epoch)
            epochs.append([number for batch in made for number in batch["number"].tolist()])
        return epochs

    epochs = beside_torch(recipe)
    assert [sorted(epoch) for epoch in epochs] == [list(range(24))] * 3
    assert len(set(map(tuple, epochs))) == 3


@pytest.mark.parametrize("workers", WORKERS[:2], ids=str)
def test_formats_of_datasets(workers: dict[str, Any]) -> None:
    """Rows come several at a time, from `__getitems__`."""

    def recipe(loader: Loader) -> Any:
        rows = datasets.Dataset.from_dict(
            {
                "number": list(range(20)),
                "text": [f"row {i}" for i in range(20)],
                "matrix": [[[float(i), 1.0], [2.0, 3.0]] for i in range(20)],
            }
        )
        formats = [rows, rows.with_format("torch"), rows.with_format("numpy").select(range(3, 17))]
        return [list(loader(each, batch_size=6, shuffle=True, **workers)) for each in formats]

    beside_torch(recipe)
