"""From the last hidden states to the loss: unsloth keeps the logits of short batches, and computes none for long ones."""

from __future__ import annotations

from loadcheck.stacks.unsloth_vllm.outside_budget import RETURN_LOGITS_TOKENS
from loadcheck.stacks.unsloth_vllm.training_memory.autograd import (
    FULL,
    HALF,
    INDEX,
    Gradients,
    Tape,
    Tensor,
    creates,
    pass_through,
)
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label

MAX_FUSED_SIZE = 65_536
"""The largest vocabulary of one cross-entropy kernel (unsloth/kernels/cross_entropy_loss.py:281)."""
CCE_LSE_BLOCK = 128
CCE_LOCK_COLUMNS = 64

LOGITS = Label("logits", "unsloth/models/llama.py:1097", "logits")
FULL_LOGITS = Label("logits in fp32", "accelerate/utils/operations.py:778 (convert_to_fp32)", "logits")
D_LOGITS = Label("gradient of the logits in 16 bits", "torch/csrc/autograd: ToCopyBackward0", "logits")
SHIFTED = Label("shifted labels", "unsloth/models/llama.py:1123")
LOSSES = Label("loss of each token", "unsloth/kernels/cross_entropy_loss.py:292")
LOG_SUMS = Label("log-sum-exp of each token", "unsloth/kernels/cross_entropy_loss.py:300-330")
SCALAR = Label("losses", "unsloth/kernels/cross_entropy_loss.py:400")
D_HIDDEN = Label("gradient of the last hidden states", "torch/csrc/autograd: MmBackward0 of lm_head")
VALID = Label("which tokens count", "cut_cross_entropy/utils.py:31-53")
CCE = Label("cut cross entropy's row sums", "cut_cross_entropy/cce_lse_forward.py:168-176; indexed_dot.py:101")
CCE_AVERAGE = Label("cut cross entropy's average logits", "cut_cross_entropy/cce_lse_forward.py:176")
CCE_LOCKS = Label("cut cross entropy's locks", "cut_cross_entropy/cce_lse_forward.py:169; cce_backward.py:302-304")
CCE_ORDER = Label("order of the vocabulary", "cut_cross_entropy/cce.py:30-32")


def causal_lm_loss(
    tape: Tape, hidden: Tensor, *, batch: int, length: int, vocab: int, fused: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss and the logits that the model returns (CausalLM_fast_forward, unsloth/models/llama.py:1014-1152).

    `fused`: whether this model computes the loss of long batches without logits.
    """
    if fused and batch * length > RETURN_LOGITS_TOKENS:
        return _cut_cross_entropy(tape, hidden, batch, length, vocab), None
    n = batch * length
    logits = lm_head(tape, hidden, n, vocab)
    labels = tape.tensor(n, SHIFTED, INDEX)
    return _cross_entropy(tape, logits, labels, n, vocab), logits


def to_fp32(tape: Tape, logits: Tensor) -> Tensor:
    """accelerate's fp32 copy of the 16-bit tensors that a model returns (accelerate/utils/operations.py:752-812)."""
    out = tape.tensor(logits.num_elements, FULL_LOGITS, FULL)
    out.node = tape.record([logits], creates(logits.num_elements, D_LOGITS))
    return out


def lm_head(tape: Tape, hidden: Tensor, n: int, vocab: int) -> Tensor:
    """The product with the frozen head, which saves nothing."""
    logits = tape.product(n * vocab, LOGITS)
    num_elements = n * (hidden.num_elements // n)

    def run(tape: Tape, _saved: tuple[Tensor, ...], _gradients: Gradients) -> Gradients:
        return [tape.product(num_elements, D_HIDDEN)]

    logits.node = tape.record([hidden], run)
    return logits


def _cross_entropy(tape: Tape, logits: Tensor, labels: Tensor, n: int, vocab: int) -> Tensor:
    """fast_cross_entropy_loss (unsloth/kernels/cross_entropy_loss.py:283-400): the gradient overwrites the logits."""
    losses = tape.tensor(n, LOSSES, FULL)
    chunks = -(-vocab // MAX_FUSED_SIZE)
    sums = tape.tensor(n * chunks, LOG_SUMS, FULL)
    if chunks > 1:
        sums = tape.tensor(n, LOG_SUMS, FULL)
    losses.node = tape.record([logits], lambda _tape, saved, _gradients: [saved[0]], [logits, sums, labels])
    return divided(tape, _summed(tape, losses))


def _summed(tape: Tape, x: Tensor) -> Tensor:
    """sum(): its input's gradient is that of the sum, expanded to the input's size."""
    out = tape.tensor(1, SCALAR, FULL)
    out.node = tape.record([x], pass_through)
    return out


def divided(tape: Tape, x: Tensor) -> Tensor:
    out = tape.tensor(1, SCALAR, FULL)
    out.node = tape.record([x], creates(1, SCALAR, FULL))
    return out


def _cut_cross_entropy(tape: Tape, hidden: Tensor, batch: int, length: int, vocab: int) -> Tensor:
    """cce_linear_cross_entropy (cut_cross_entropy/cce.py:36-90, 140-171): no logits, only sums over them."""
    valids = _flat_valids(tape, batch, length)
    n = batch * (length - 1)
    lse = tape.tensor(n, CCE, FULL)
    locks = tape.tensor(-(-n // CCE_LSE_BLOCK), CCE_LOCKS, FULL)
    average = tape.tensor(vocab, CCE_AVERAGE, FULL)
    del locks
    nll = tape.tensor(n, CCE, FULL)
    loss = tape.tensor(1, SCALAR, FULL)
    del nll

    def run(tape: Tape, saved: tuple[Tensor, ...], _gradients: Gradients) -> Gradients:
        return [_cce_backward(tape, saved[0], batch * length, n, vocab)]

    loss.node = tape.record([hidden], run, [hidden, lse, valids, average])
    if loss.node is not None:  # the node's parameters reference it, too (cce.py:21-28, 85: CCEParams)
        loss.node.held = (valids,)
    del lse, valids, average
    return divided(tape, loss)


def _flat_valids(tape: Tape, batch: int, length: int) -> Tensor:
    """The positions of valid labels: as two int64 columns, then as two int32, then as one (cut_cross_entropy/utils.py:31-53)."""
    n = batch * (length - 1)
    where = tape.tensor(n, VALID, 1)
    valids = tape.tensor(2 * n, VALID, INDEX)
    del where
    valids = tape.tensor(2 * n, VALID, FULL)
    summed = tape.tensor(n, VALID, INDEX)
    del valids
    return summed


def _cce_backward(tape: Tape, hidden: Tensor, num_tokens: int, n: int, vocab: int) -> Tensor:
    """cce_backward_kernel (cut_cross_entropy/cce_backward.py:243-333): only the gradient of the hidden states."""
    in_order = tape.tensor(vocab, CCE_ORDER, FULL), tape.tensor(vocab, CCE_ORDER, INDEX)
    order = tape.tensor(vocab, CCE_ORDER, FULL)
    del in_order
    d_hidden = tape.tensor(hidden.num_elements, D_HIDDEN, HALF)
    columns = -(-(hidden.num_elements // num_tokens) // CCE_LOCK_COLUMNS)
    locks = [tape.tensor(-(-rows // columns) * columns, CCE_LOCKS, FULL) for rows in (n, vocab)]
    del order, locks
    return d_hidden
