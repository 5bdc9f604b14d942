"""unsloth's own autograd functions for linears with LoRA, line by line (unsloth/kernels/fast_lora.py at 2025.2.5)."""

from __future__ import annotations

from loadcheck.stacks.unsloth_vllm.training_memory.autograd import Gradients, Tape, Tensor
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label
from loadcheck.stacks.unsloth_vllm.training_memory.linear import (
    Linear,
    WeightBuffer,
    fast_dequantize,
    lora_gradients,
    lora_product,
    matmul_lora,
)

GATE = Label("gate projection's output", "unsloth/kernels/fast_lora.py:75")
UP = Label("up projection's output", "unsloth/kernels/fast_lora.py:76")
ACTIVATED = Label("activated gate times up", "unsloth/kernels/swiglu.py:47")
DOWN = Label("down projection's output", "unsloth/kernels/fast_lora.py:78")
D_ACTIVATED = Label("gradient of activated gate times up", "unsloth/kernels/fast_lora.py:111")
DX_PRODUCT = Label("product on its way into the input's gradient", "unsloth/kernels/fast_lora.py:141, 149, 295-309")
QUERY = Label("queries", "unsloth/kernels/fast_lora.py:240")
KEY = Label("keys", "unsloth/kernels/fast_lora.py:241")
VALUE = Label("values", "unsloth/kernels/fast_lora.py:242")
OUTPUT = Label("attention's output projection", "unsloth/kernels/fast_lora.py:367")
D_OUTPUT = Label("gradient of attention's output", "unsloth/kernels/fast_lora.py:396")


def lora_mlp(tape: Tape, buffer: WeightBuffer, x: Tensor, gate: Linear, up: Linear, down: Linear) -> Tensor:
    """LoRA_MLP.forward (fast_lora.py:66-91): saves X and the outputs of gate and up."""
    n = x.num_elements // gate.num_in
    e = matmul_lora(tape, buffer, gate, n, GATE)
    g = matmul_lora(tape, buffer, up, n, UP)
    h = tape.tensor(n * gate.num_out, ACTIVATED)
    i = matmul_lora(tape, buffer, down, n, DOWN)
    del h

    def run(tape: Tape, saved: tuple[Tensor, ...], _gradients: Gradients) -> Gradients:
        return _mlp_backward(tape, buffer, saved[0], n, gate, up, down)

    i.node = tape.record([x, *_weights(gate), *_weights(up), *_weights(down)], run, [x, e, g])
    return i


def _mlp_backward(
    tape: Tape, buffer: WeightBuffer, x: Tensor, n: int, gate: Linear, up: Linear, down: Linear
) -> Gradients:
    """LoRA_MLP.backward (fast_lora.py:94-167): overwrites X with its gradient, and e and g with theirs."""
    dw = matmul_lora(tape, buffer, down, n, D_ACTIVATED, back=True)
    d_down = _gradients_of(tape, down, n)
    d_up = _gradients_of(tape, up, n)
    d_gate = _gradients_of(tape, gate, n)
    _gradient_into(tape, up, n)
    _gradient_into(tape, gate, n)
    del dw
    return [x, *d_gate, *d_up, *d_down]


def lora_qkv(tape: Tape, buffer: WeightBuffer, x: Tensor, q: Linear, k: Linear, v: Linear) -> tuple[Tensor, ...]:
    """LoRA_QKV.forward (fast_lora.py:230-254): saves only X."""
    n = x.num_elements // q.num_in
    linears = {QUERY: q, KEY: k, VALUE: v}
    outputs = tuple(matmul_lora(tape, buffer, linear, n, label) for label, linear in linears.items())

    def run(tape: Tape, saved: tuple[Tensor, ...], _gradients: Gradients) -> Gradients:
        return _qkv_backward(tape, saved[0], n, [q, k, v])

    inputs = [x, *_weights(q), *_weights(k), *_weights(v)]
    node = tape.record(inputs, run, [x], num_outputs=3)
    for number, output in enumerate(outputs):
        output.node, output.output = node, number
    return outputs


def _qkv_backward(tape: Tape, x: Tensor, n: int, linears: list[Linear]) -> Gradients:
    """LoRA_QKV.backward (fast_lora.py:256-318): overwrites X with its gradient."""
    gradients = [_gradients_of(tape, linear, n) for linear in linears]
    for linear in linears:
        _gradient_into(tape, linear, n)
    return [x, *(gradient for pair in gradients for gradient in pair)]


def lora_w(tape: Tape, buffer: WeightBuffer, x: Tensor, linear: Linear) -> Tensor:
    """LoRA_W.forward (fast_lora.py:362-372): saves X."""
    n = x.num_elements // linear.num_in
    out = matmul_lora(tape, buffer, linear, n, OUTPUT)

    def run(tape: Tape, _saved: tuple[Tensor, ...], _gradients: Gradients) -> Gradients:
        d_w = _gradients_of(tape, linear, n)
        weight = fast_dequantize(tape, linear)
        d_x = tape.tensor(n * linear.num_in, D_OUTPUT)
        del weight
        _lora_into(tape, linear, n)
        return [d_x, *d_w]

    out.node = tape.record([x, *_weights(linear)], run, [x])
    return out


def _weights(linear: Linear) -> list[Tensor]:
    return [] if linear.lora is None else [linear.lora.a, linear.lora.b]


def _gradients_of(tape: Tape, linear: Linear, n: int) -> tuple[Tensor, ...]:
    assert linear.lora is not None
    return lora_gradients(tape, linear.lora.r, n, linear.num_in, linear.num_out)


def _gradient_into(tape: Tape, linear: Linear, n: int) -> None:
    """dX += dY @ W.t(), and LoRA's part: X is overwritten."""
    weight = fast_dequantize(tape, linear)
    tape.tensor(n * linear.num_in, DX_PRODUCT)
    del weight
    _lora_into(tape, linear, n)


def _lora_into(tape: Tape, linear: Linear, n: int) -> None:
    """dX += dY @ B.to(dtype).t() @ (s * A.to(dtype).t())."""
    assert linear.lora is not None
    lora_product(tape, linear.lora.r, n, linear.num_out, linear.num_in)
