"""The memory of loadcheck's own training steps, against the runs that measured it."""

from pathlib import Path

import pytest

from loadcheck.logs.events import Answered, Trained
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import LINEAR_MODULES
from loadcheck.stacks import parse_log
from loadcheck.stacks.engine_common import TRAINING_TEXT
from loadcheck.stacks.unsloth_vllm.activation import cublas_workspace
from loadcheck.stacks.unsloth_vllm.training_memory.autograd import FULL, INDEX, Tape
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label, Ledger
from loadcheck.stacks.unsloth_vllm.training_memory.loaded import rope_tables
from loadcheck.stacks.unsloth_vllm.training_memory.loss import SCALAR, causal_lm_loss
from loadcheck.stacks.unsloth_vllm.training_memory.model import Trainee, build
from loadcheck.stacks.unsloth_vllm.training_memory.optimizer import Optimizer

RUNS = Path(__file__).parent / "runs"
TOKENS = len(TRAINING_TEXT.encode())
"""The synthetic tokenizer has one per byte."""


def trainable_config(model: str) -> Trainee:
    _, config = resolve_model(model, True)
    tape = Tape(Ledger(), cublas_workspace(9.0).num_bytes, {"main": None})
    tables = [rope_tables(config, min(tokens, config.max_position_embeddings)) for tokens in (32_768, 1 << 30)]
    return build(
        config,
        tape,
        first_rope_bytes=tables[0],
        rope_bytes=tables[1],
        r=32,
        targets=LINEAR_MODULES,
        dropout=0.0,
        checkpointing="unsloth",
        num_sms=132,
        compute_capability=9.0,
    )


def peak_of_steps(model: str) -> int:
    """Steps on one text with torch's AdamW and without a trainer: no copy of the logits, no clipping, and the loss stays in memory."""
    trained = trainable_config(model)
    tape, config = trained.tape, trained.config
    before = tape.ledger.held_bytes
    ids = tape.tensor(TOKENS, Label("token ids", ""), INDEX)
    optimizer = Optimizer(tape, "adamw_torch", [leaf.tensor.num_elements for leaf in trained.leaves])
    loss = None
    for _ in range(3):
        tape.casts = {}
        hidden = trained.hidden_states(1, TOKENS)
        found = causal_lm_loss(tape, hidden, batch=1, length=TOKENS, vocab=config.vocab_size, fused=True)
        del hidden
        tape.casts, loss = None, found[0]
        del found
        tape.backward(loss, tape.tensor(1, SCALAR, FULL))
        optimizer.step()
        for leaf in trained.leaves:
            leaf.gradient = None
    del ids
    return tape.ledger.peak_bytes - before


@pytest.mark.parametrize(
    ("run", "model"),
    [
        ("h100/reference-train3", "llama-3.1-8b-instruct"),
        ("h100/smollm2-train3", "smollm2-135m-instruct"),
        ("h200/reference-train3", "llama-3.1-8b-instruct"),
        ("h200/recovered-peak-train3", "llama-3.1-8b-instruct"),
    ],
)
def test_peak_of_our_own_steps_equals_the_measured_one(run: str, model: str) -> None:
    """Four runs of two models on two cards are predicted to the byte; the peak is in the optimizer's step."""
    attempt = parse_log(RUNS / run / "load.log").last
    trained, answer = attempt.last(Trained), attempt.last(Answered)
    assert trained is not None and trained.peak_allocated_bytes is not None
    assert answer is not None and answer.allocated_bytes is not None
    assert peak_of_steps(model) == trained.peak_allocated_bytes - answer.allocated_bytes
