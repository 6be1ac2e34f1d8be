"""Hugging Face's Trainer on a dataset of its own, with evaluation; prints the losses."""

import sys

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

import datasets

torch.set_num_threads(1)
words = [[(7 * i + 3 * j) % 30 + 1 for j in range(8)] for i in range(40)]
data = datasets.Dataset.from_dict({"input_ids": words, "labels": [line[0] % 2 for line in words]})
for workers in (0, 2):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=31, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    arguments = TrainingArguments(
        output_dir=sys.argv[1],
        per_device_train_batch_size=8,
        num_train_epochs=2,
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )
    model = BertForSequenceClassification(config)
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data.select(range(20)))
    trainer.remove_callback(PrinterCallback)  # it tells of times, too
    trainer.train()
    print(workers, [entry.get("loss", entry.get("eval_loss")) for entry in trainer.state.log_history])
