"""The settings of a training, by transformers' and trl's own names."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from loadcheck.specs.files import Spec
from loadcheck.specs.profile import MAX_COUNT, Count
from loadcheck.specs.settings import Setting

Method = Literal["sft", "grpo"]

OPTIMIZERS = (
    "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit",
)  # fmt: skip
"""The modelled optimizers, by transformers' names (training_args.py:150-185); paged_adamw is paged_adamw_32bit."""
CPU_OPTIMIZERS = ("adamw_torch",)
"""Those of bitsandbytes need a GPU."""


class TrainSettings(Spec, frozen=True, kw_only=True):
    """The settings of a training that affect its memory. Lengths are in tokens with padding: every row of a batch is as long as its longest.

    Attributes:
        train_seq_length: the length of a row in SFT; in GRPO a row is a prompt with its completion.
        packing: whether rows of SFT are packed into full rows of `train_seq_length` (stacks/packing.py), for which memory is predicted anyway.
        num_generations: completions per prompt; per_device_train_batch_size counts prompts in GRPO (trl 0.14.0).
    """

    method: Method
    per_device_train_batch_size: Count = 1
    gradient_accumulation_steps: Count = 1
    train_seq_length: Count = 2048
    packing: bool = False
    optim: str = "adamw_8bit"
    num_generations: Count = 8
    max_prompt_length: Count = 256
    max_completion_length: Count = 256

    def __post_init__(self) -> None:
        if self.optim not in OPTIMIZERS:
            raise ValueError(f"optim ({self.optim}) is not modelled; modelled: {', '.join(OPTIMIZERS)}")

    @property
    def rows(self) -> int:
        """Rows per forward pass."""
        return self.per_device_train_batch_size * (self.num_generations if self.method == "grpo" else 1)

    @property
    def row_tokens(self) -> int:
        return self.max_prompt_length + self.max_completion_length if self.method == "grpo" else self.train_seq_length


class Schedule(Spec, frozen=True, kw_only=True):
    """How long and how fast to train; memory does not depend on it. Names (training_args.py), and defaults unless stated, are transformers'.

    Attributes:
        max_steps: optimizer steps; if None, `num_train_epochs` decides.
        save_steps: steps between checkpoints; None for only one at the end.
    """

    max_steps: Annotated[Count | None, Setting("Optimizer steps; overrides --num-train-epochs.")] = None
    num_train_epochs: Annotated[float, Meta(gt=0, le=1e6), Setting("Passes over the data.  [default: 1]")] = 1.0
    learning_rate: Annotated[float, Meta(gt=0, le=1), Setting("Peak learning rate.  [default: 2e-4; GRPO 5e-6]")] = 2e-4
    lr_scheduler_type: Annotated[
        Literal["linear", "cosine", "constant", "constant_with_warmup"],
        Setting("Learning rate schedule.  [default: linear]"),
    ] = "linear"
    warmup_steps: Annotated[int, Meta(ge=0, le=MAX_COUNT), Setting("Steps of warmup.  [default: 0]")] = 0
    warmup_ratio: Annotated[
        float, Meta(ge=0, le=1), Setting("Warmup as a share of all steps, without --warmup-steps.")
    ] = 0.0
    weight_decay: Annotated[float, Meta(ge=0, le=1), Setting("Weight decay of the optimizer.  [default: 0]")] = 0.0
    save_steps: Annotated[Count | None, Setting("Steps between checkpoints.  [default: one at the end]")] = None
    seed: Annotated[int, Meta(ge=0, le=MAX_COUNT), Setting("Seed of the order of the rows.  [default: 3407]")] = 3407


class TrainJob(Spec, frozen=True, kw_only=True):
    """train.json: one training, fully specified.

    Attributes:
        settings: its `train_seq_length` is the longest row, once the rows are counted.
        data, data_sha256: the data file's absolute path, and its hash when the run began.
        limit_tokens: the longest row allowed; `truncate` decides whether longer rows are cut or refused. Packed rows all have this length.
        reward_functions: a Python file; only for GRPO.
        resume_from: the folder of a checkpoint; None for a new training.
    """

    settings: TrainSettings
    schedule: Schedule
    data: str
    data_sha256: str
    limit_tokens: Count
    truncate: bool = False
    reward_functions: str | None = None
    resume_from: str | None = None
