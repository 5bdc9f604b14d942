"""How a training is set: transformers' and trl's own names for each setting."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from loadcheck.specs.files import Spec
from loadcheck.specs.profile import MAX_COUNT
from loadcheck.specs.settings import Setting

Method = Literal["sft", "grpo"]
Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]

OPTIMIZERS = (
    "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit",
)  # fmt: skip
"""transformers' names (training_args.py:150-185) of those that are modelled; paged_adamw is paged_adamw_32bit."""
CPU_OPTIMIZERS = ("adamw_torch",)
"""bitsandbytes' need a GPU."""


class TrainSettings(Spec, frozen=True, kw_only=True):
    """What of a training moves its memory. Lengths are in tokens, counted as the model gets them: every row of a batch as long as its longest.

    Attributes:
        train_seq_length: of a row of SFT; GRPO's rows are prompt and completion.
        packing: whether rows of SFT are packed into full ones of `train_seq_length` (stacks/packing.py), which are what is predicted anyway.
        num_generations: completions of one prompt; per_device_train_batch_size counts prompts in GRPO (trl 0.14.0).
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
        """Rows of one forward pass."""
        return self.per_device_train_batch_size * (self.num_generations if self.method == "grpo" else 1)

    @property
    def row_tokens(self) -> int:
        return self.max_prompt_length + self.max_completion_length if self.method == "grpo" else self.train_seq_length


class Schedule(Spec, frozen=True, kw_only=True):
    """How long and how fast is trained; no memory depends on it. transformers' names (training_args.py), and its defaults where none is said.

    Attributes:
        max_steps: optimizer steps; without it `num_train_epochs` says how many.
        save_steps: steps from one checkpoint to the next; None for the one at the end alone.
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
    """train.json: one training with every question answered.

    Attributes:
        settings: its `train_seq_length` is the longest row, once the rows have been counted.
        data, data_sha256: the file, by its absolute path, and what was in it when the run began.
        limit_tokens: of a row; where one has more, `truncate` says whether it is cut or refused. Of packed rows all have so many.
        reward_functions: a Python file; GRPO alone has them.
        resume_from: the folder of a checkpoint; None for a training that starts anew.
    """

    settings: TrainSettings
    schedule: Schedule
    data: str
    data_sha256: str
    limit_tokens: Count
    truncate: bool = False
    reward_functions: str | None = None
    resume_from: str | None = None
