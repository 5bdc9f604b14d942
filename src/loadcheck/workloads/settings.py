"""How a training is set: transformers' and trl's own names for each setting."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from loadcheck.specs.files import Spec
from loadcheck.specs.profile import MAX_COUNT
from loadcheck.workloads.names import OPTIMIZERS

Method = Literal["sft", "grpo"]
Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]


class TrainSettings(Spec, frozen=True, kw_only=True):
    """One training. Lengths are in tokens, counted as the model gets them: every row of a batch as long as its longest.

    Attributes:
        train_seq_length: of a row of SFT; GRPO's rows are prompt and completion.
        num_generations: completions of one prompt; per_device_train_batch_size counts prompts in GRPO (trl 0.14.0).
    """

    method: Method
    per_device_train_batch_size: Count = 1
    gradient_accumulation_steps: Count = 1
    train_seq_length: Count = 2048
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
