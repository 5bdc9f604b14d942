"""A step of supervised fine-tuning: trl's SFTTrainer on unsloth's model (trl 0.14.0, transformers 4.48.2 trainer.py)."""

from __future__ import annotations

from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm.training_memory.autograd import FULL, INDEX, Tape, Tensor
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label
from loadcheck.stacks.unsloth_vllm.training_memory.loss import SCALAR, causal_lm_loss, divided, to_fp32
from loadcheck.stacks.unsloth_vllm.training_memory.model import Trainee

BATCH = Label(
    "token ids, masks and labels", "transformers/trainer.py: get_batch_samples; accelerate/data_loader.py:571", "batch"
)


def batches(tape: Tape, settings: TrainSettings) -> list[list[Tensor]]:
    """All micro-batches of a step are on the card before the first one runs (unsloth/models/_utils.py:1002-1035)."""
    elements = settings.rows * settings.row_tokens
    return [
        [tape.tensor(elements, BATCH, INDEX) for _ in range(3)] for _ in range(settings.gradient_accumulation_steps)
    ]


def forward(trainee: Trainee, settings: TrainSettings) -> Tensor:
    """compute_loss (transformers/trainer.py:3700-3750): under autocast, with its outputs in fp32."""
    tape = trainee.tape
    tape.ledger.start_phase("forward pass")
    tape.casts = {}
    loss, logits = _model(trainee, settings)
    tape.casts = None
    if logits is not None:
        logits = to_fp32(tape, logits)
    return loss


def _model(trainee: Trainee, settings: TrainSettings) -> tuple[Tensor, Tensor | None]:
    config = trainee.config
    hidden = trainee.hidden_states(settings.rows, settings.row_tokens)
    return causal_lm_loss(
        trainee.tape,
        hidden,
        batch=settings.rows,
        length=settings.row_tokens,
        vocab=config.vocab_size,
        fused=trainee.fused_loss,
    )


def backward(trainee: Trainee, loss: Tensor) -> None:
    """accelerator.backward (accelerate/accelerator.py:2200-2230): divides the loss again, and starts from a gradient of 1."""
    tape = trainee.tape
    tape.ledger.start_phase("backward pass")
    loss = divided(tape, loss)
    tape.backward(loss, tape.tensor(1, SCALAR, FULL))
