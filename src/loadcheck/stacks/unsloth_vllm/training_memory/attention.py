"""Attention in training: xformers' memory-efficient attention, which calls torch's own flash attention.

xformers 0.0.28.post3 is built with `use_torch_flash` (xformers/cpp_lib.json), so from 8.0 on it calls
aten::_flash_attention_forward and _backward (torch 2.5.1 aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp). Before 8.0
it uses CUTLASS's kernel, which also holds the gradient of the queries in fp32; it is counted as the same, and no run of ours has
confirmed it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from loadcheck.stacks.unsloth_vllm.training_memory.autograd import FULL, Gradients, Tape, Tensor, creates
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label
from loadcheck.units import round_up

NUM_SMS = {
    "T4": 40, "V100": 80, "A100": 108, "A10": 80, "L40": 142, "L4": 58, "H100": 132, "H200": 132, "3090": 82, "4090": 128,
}  # fmt: skip
"""Streaming multiprocessors by a part of the card's name, from NVIDIA's data sheets (for H100 and H200 the SXM versions)."""
NUM_SMS_ASSUMED = 108
"""For a card whose number is unknown; a note says so (account.py)."""

KEYS = Label("keys, repeated for every head", "unsloth/models/llama.py:435")
VALUES = Label("values, repeated for every head", "unsloth/models/llama.py:436")
ATTENDED = Label("attention's output", "xformers/ops/fmha/flash.py:101-121")
LOG_SUM_EXP = Label("attention's log-sum-exp", "xformers/ops/fmha/flash.py:101-121")
SPLITS = Label("attention's partial outputs", "flash_api.cpp: set_params_splitkv")
D_QUERIES = Label("gradient of queries", "flash_api.cpp: mha_bwd")
D_KEYS = Label("gradient of repeated keys", "flash_api.cpp: mha_bwd")
D_VALUES = Label("gradient of repeated values", "flash_api.cpp: mha_bwd")
D_ONCE = Label("gradient of keys or values", "torch/csrc/autograd: ExpandBackward0")
SOFTMAX_D = Label("attention's row sums", "flash_api.cpp: mha_bwd (softmax_d)")
DQ_ACCUM = Label("gradient of queries in fp32", "flash_api.cpp: mha_bwd (dq_accum)")
ZEROS = Label("gradient of log-sum-exp, zeros", "torch/csrc/autograd/python_function.cpp: materialize_grads")


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of attention: `batch` rows of `length` tokens, and the card's streaming multiprocessors."""

    batch: int
    length: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_sms: int

    @property
    def num_tokens(self) -> int:
        return self.batch * self.length

    @property
    def rounded_dim(self) -> int:
        return round_up(self.head_dim, 32)


def attend(tape: Tape, heads: Heads, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one layer (unsloth/models/llama.py:420-445).

    Keys and values are repeated for every head only where gradients are needed: the backward pass of flash attention has no grouped heads.
    """
    if tape.recording and heads.num_kv_heads != heads.num_heads:
        k, v = _repeated(tape, heads, k, KEYS), _repeated(tape, heads, v, VALUES)
    return _flash(tape, heads, q, k, v)


def _repeated(tape: Tape, heads: Heads, x: Tensor, label: Label) -> Tensor:
    out = tape.tensor(heads.num_tokens * heads.num_heads * heads.head_dim, label)
    out.node = tape.record([x], creates(heads.num_tokens * heads.num_kv_heads * heads.head_dim, D_ONCE))
    return out


def _flash(tape: Tape, heads: Heads, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """_fMHA.forward (xformers/ops/fmha/__init__.py:72-140): saves its inputs, its output and the log-sum-exp."""
    out = tape.tensor(q.num_elements, ATTENDED)
    lse = tape.tensor(heads.num_tokens * heads.num_heads, LOG_SUM_EXP, FULL)
    splits = num_splits(heads)
    if splits > 1:
        elements = splits * heads.num_tokens * heads.num_heads
        _partial = tape.tensor(elements, SPLITS, FULL), tape.tensor(elements * heads.rounded_dim, SPLITS, FULL)
        del _partial

    def run(tape: Tape, saved: tuple[Tensor, ...], _gradients: Gradients) -> Gradients:
        return _flash_backward(tape, heads, saved)

    out.node = tape.record([q, k, v], run, [q, k, v, out, lse])
    return out


def _flash_backward(tape: Tape, heads: Heads, saved: tuple[Tensor, ...]) -> Gradients:
    """aten::_flash_attention_backward: three gradients, and temporarily the queries' in fp32, padded to blocks of 128 tokens."""
    q, k, v = saved[:3]
    zeros = tape.tensor(heads.num_tokens * heads.num_heads, ZEROS, FULL)
    d_q = tape.tensor(q.num_elements, D_QUERIES)
    d_k = tape.tensor(k.num_elements, D_KEYS)
    d_v = tape.tensor(v.num_elements, D_VALUES)
    rows = heads.batch * round_up(heads.length, 128) * heads.num_heads
    softmax_d = tape.tensor(rows, SOFTMAX_D, FULL)
    accumulated = tape.tensor(rows * heads.rounded_dim, DQ_ACCUM, FULL)
    del softmax_d, accumulated, zeros
    return [d_q, d_k, d_v]


def num_sms(card_name: str) -> int | None:
    """The card's number of multiprocessors, needed only for whether flash attention splits the keys of short batches; None if unknown."""
    return next((number for part, number in NUM_SMS.items() if part in card_name), None)


def num_splits(heads: Heads) -> int:
    """How many parts flash attention's forward pass splits the keys into, where there is too little work for the whole card.

    torch 2.5.1 flash_api.cpp: num_splits_heuristic, set_params_splitkv.
    """
    blocks = heads.batch * heads.num_heads * -(-heads.length // 64)
    if blocks >= 0.8 * heads.num_sms:
        return 1
    block_n = 256 if heads.head_dim <= 64 else 128 if heads.head_dim <= 128 else 64
    num_n = -(-heads.length // block_n)
    most = min(128, heads.num_sms, num_n)
    able = [n for n in range(1, most + 1) if n == 1 or -(-num_n // n) != -(-num_n // (n - 1))]
    efficiency = {n: _efficiency(blocks * n / heads.num_sms) for n in able}
    best = max(efficiency.values())
    return next(n for n in able if efficiency[n] >= 0.85 * best)


def _efficiency(waves: float) -> float:
    return waves / math.ceil(waves)
