"""A step of GRPO: trl's GRPOTrainer on unsloth's model, with vLLM generating on the same card (trl 0.14.0 grpo_trainer.py)."""

from __future__ import annotations

from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm.training_memory.autograd import FULL, HALF, INDEX, Gradients, Tape, Tensor, creates
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label
from loadcheck.stacks.unsloth_vllm.training_memory.loss import SCALAR, divided, lm_head, to_fp32
from loadcheck.stacks.unsloth_vllm.training_memory.model import Trainee

PROMPTS = Label("token ids and masks", "trl/trainer/grpo_trainer.py:376-383", "batch")
IDS = Label("token ids and masks", "trl/trainer/grpo_trainer.py:411-415", "batch")
KEPT_HIDDEN = Label("last hidden states of the completions", "unsloth/models/llama.py:1066")
LOG_PROBS = Label("log-probabilities of the vocabulary", "trl/trainer/grpo_trainer.py:437", "logits")
TOKEN_LOG_PROBS = Label("log-probability of each token", "trl/trainer/grpo_trainer.py:438-440")
SMALL = Label("advantages, masks and losses of each token", "trl/trainer/grpo_trainer.py:449-515")
D_LOG_PROBS = Label(
    "gradient of log-probabilities", "torch/csrc/autograd: GatherBackward0, LogSoftmaxBackward0", "logits"
)
D_STACKED = Label("gradient of the logits in fp32", "torch/csrc/autograd: UnbindBackward0, SliceBackward0", "logits")


def forward(trainee: Trainee, settings: TrainSettings) -> Tensor:
    """GRPOTrainer.compute_loss (grpo_trainer.py:370-533), after the completions were generated."""
    tape = trainee.tape
    rows, prompt, completion = settings.rows, settings.max_prompt_length, settings.max_completion_length
    prompts = [tape.tensor(settings.per_device_train_batch_size * prompt, PROMPTS, INDEX) for _ in range(2)]
    completions = tape.tensor(rows * completion, IDS, INDEX)
    repeated = tape.tensor(rows * prompt, IDS, INDEX)
    ids = tape.tensor(rows * (prompt + completion), IDS, INDEX)
    del completions
    tape.ledger.start_phase("policy's forward pass")
    log_probs = _log_probs(trainee, settings)
    tape.ledger.start_phase("reference's forward pass")
    reference = _reference(trainee, settings)
    tape.ledger.start_phase("loss")
    loss = _loss(tape, log_probs, reference, rows, completion)
    del prompts, repeated, ids
    return loss


def _reference(trainee: Trainee, settings: TrainSettings) -> Tensor:
    """The same model without its adapters, in inference mode (grpo_trainer.py:445-452)."""
    tape = trainee.tape
    disabled = [(linear, linear.lora) for layer in trainee.layers for linear in layer.linears.values()]
    for linear, _ in disabled:
        linear.lora = None
    tape.recording = False
    log_probs = _log_probs(trainee, settings)
    tape.recording = True
    for linear, lora in disabled:
        linear.lora = lora
    return log_probs


def _log_probs(trainee: Trainee, settings: TrainSettings) -> Tensor:
    """get_per_token_logps (grpo_trainer.py:430-441): row by row, but the log-probabilities of all rows are saved for the gradient."""
    tape, rows, completion = trainee.tape, settings.rows, settings.max_completion_length
    vocab = trainee.config.vocab_size
    logits = _logits(trainee, settings)
    kept = _rows(tape, logits, rows, completion, vocab)
    per_token = []
    for row in kept:
        log_probs = _log_softmax(tape, row, completion, vocab)
        per_token.append(_gathered(tape, log_probs, completion, vocab))
    del row, kept, log_probs
    return _stacked(tape, per_token)


def _logits(trainee: Trainee, settings: TrainSettings) -> Tensor:
    """The model under autocast, with logits for one token more than the completion has; then all logits in fp32."""
    tape = trainee.tape
    tape.casts = {}
    logits = _half_logits(trainee, settings)
    tape.casts = None
    return to_fp32(tape, logits)


def _half_logits(trainee: Trainee, settings: TrainSettings) -> Tensor:
    """The head on the last tokens of every row (unsloth/models/llama.py:1065-1066); with several rows their states are copied."""
    tape, rows = trainee.tape, settings.rows
    hidden = trainee.hidden_states(rows, settings.row_tokens)
    n = rows * (settings.max_completion_length + 1)
    hidden_size = trainee.config.hidden_size
    last = hidden
    if rows > 1 and tape.recording:
        last = tape.tensor(n * hidden_size, KEPT_HIDDEN)
    spread = creates(rows * settings.row_tokens * hidden_size, KEPT_HIDDEN)
    last = Tensor(last.storage, n * hidden_size, HALF, tape.record([hidden], spread))
    return lm_head(tape, last, n, trainee.config.vocab_size)


def _rows(tape: Tape, logits: Tensor, rows: int, completion: int, vocab: int) -> list[Tensor]:
    """logits[:, :-1, :], then row by row: views, whose gradients are stacked and zero-padded."""
    sliced = creates(rows * (completion + 1) * vocab, D_STACKED, FULL)
    unbound = creates(rows * completion * vocab, D_STACKED, FULL)
    view = Tensor(logits.storage, rows * completion * vocab, FULL, tape.record([logits], sliced))
    node = tape.record([view], unbound, num_outputs=rows)
    return [Tensor(logits.storage, completion * vocab, FULL, node, number) for number in range(rows)]


def _log_softmax(tape: Tape, row: Tensor, completion: int, vocab: int) -> Tensor:
    out = tape.tensor(completion * vocab, LOG_PROBS, FULL)
    out.node = tape.record([row], creates(completion * vocab, D_LOG_PROBS, FULL), [out])
    return out


def _gathered(tape: Tape, log_probs: Tensor, completion: int, vocab: int) -> Tensor:
    out = tape.tensor(completion, TOKEN_LOG_PROBS, FULL)
    out.node = tape.record([log_probs], creates(completion * vocab, D_LOG_PROBS, FULL))
    return out


def _stacked(tape: Tape, rows: list[Tensor]) -> Tensor:
    num_rows = len(rows)
    out = tape.tensor(num_rows * rows[0].num_elements, TOKEN_LOG_PROBS, FULL)

    def run(_tape: Tape, _saved: tuple[Tensor, ...], gradients: Gradients) -> Gradients:
        return [gradients[0]] * num_rows

    out.node = tape.record(rows, run)
    return out


def _loss(tape: Tape, log_probs: Tensor, reference: Tensor, rows: int, completion: int) -> Tensor:
    """From log-probabilities to the loss: a few tensors with one number per token (grpo_trainer.py:454-515)."""
    kept = [tape.tensor(rows * completion, SMALL, FULL) for _ in range(8)]
    loss = tape.tensor(1, SCALAR, FULL)
    loss.node = tape.record([log_probs], creates(rows * completion, SMALL, FULL), [*kept, log_probs, reference])
    return loss


def backward(trainee: Trainee, loss: Tensor) -> None:
    """The trainer divides the loss by the accumulation steps, and accelerate divides it again (transformers/trainer.py:3675)."""
    tape = trainee.tape
    tape.ledger.start_phase("backward pass")
    loss = divided(tape, divided(tape, loss))
    tape.backward(loss, tape.tensor(1, SCALAR, FULL))
