"""trl's SFTTrainer on rows that are tokenized already."""

from __future__ import annotations

from typing import Any

from loadcheck.stacks.monitored_trainer import monitored
from loadcheck.stacks.rows import TokenRow
from loadcheck.stacks.step_monitor import Backend
from loadcheck.stacks.train_session import TrainSession


def sft_trainer(session: TrainSession, backend: Backend, model: Any, tokenizer: Any, rows: list[TokenRow]) -> Any:
    """trl 0.14.0's SFTTrainer; each batch is padded to its longest row (packed rows need no padding)."""
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq
    from trl import SFTConfig, SFTTrainer

    columns = {
        "input_ids": [row.input_ids for row in rows],
        "attention_mask": [[1] * len(row.input_ids) for row in rows],
        "labels": [row.labels for row in rows],
    }
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:  # padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    config = SFTConfig(
        max_seq_length=session.job.limit_tokens,
        dataset_kwargs={"skip_prepare_dataset": True},
        **session.config_arguments(backend),
    )
    return monitored(SFTTrainer)(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
