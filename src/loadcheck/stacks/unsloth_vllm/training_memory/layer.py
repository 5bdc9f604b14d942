"""A decoder layer of unsloth, and how its activations are kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from loadcheck.stacks.unsloth_vllm.training_memory.attention import Heads, attend
from loadcheck.stacks.unsloth_vllm.training_memory.autograd import (
    FULL,
    Gradients,
    Tape,
    Tensor,
    creates,
    detached,
    pass_through,
)
from loadcheck.stacks.unsloth_vllm.training_memory.fused import lora_mlp, lora_qkv, lora_w
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label
from loadcheck.stacks.unsloth_vllm.training_memory.linear import Linear, WeightBuffer, add, peft_linear

Checkpointing = bool | Literal["unsloth"]

NORMED = Label("output of a norm", "unsloth/kernels/rms_layernorm.py:152")
NORM_SCALE = Label("scale of a norm", "unsloth/kernels/rms_layernorm.py:153")
AFTER_ATTENTION = Label("hidden states after attention", "unsloth/models/llama.py:534")
AFTER_MLP = Label("hidden states after a layer", "unsloth/models/llama.py:540")
RESTORED = Label("hidden states, back from the host", "unsloth_zoo/gradient_checkpointing.py: Unsloth_Offloaded")
SILU = Label("activated gate", "transformers/models/llama/modeling_llama.py: LlamaMLP")
GATED = Label("activated gate times up", "transformers/models/llama/modeling_llama.py: LlamaMLP")
D_SILU = Label("gradient of the gate", "torch/csrc/autograd: SiluBackward0")
D_GATED = Label("gradient of gate or up", "torch/csrc/autograd: MulBackward0")
LAYER_GRADIENT = Label("gradient of a layer's input", "unsloth_zoo/gradient_checkpointing.py: Unsloth_Offloaded")


@dataclass(slots=True, eq=False)
class Layer:
    """One decoder layer: its linears by name, and which groups unsloth has patched (unsloth/models/llama.py:2529-2603)."""

    linears: dict[str, Linear]
    fused_qkv: bool
    fused_o: bool
    fused_mlp: bool


def decoder_layer(tape: Tape, buffer: WeightBuffer, heads: Heads, layer: Layer, hidden_states: Tensor) -> Tensor:
    """LlamaDecoderLayer_fast_forward (unsloth/models/llama.py:519-541)."""
    residual = hidden_states
    hidden_states = rms_norm(tape, heads.num_tokens, hidden_states)
    hidden_states = _attention(tape, buffer, heads, layer, hidden_states)
    hidden_states = add(tape, residual, hidden_states, AFTER_ATTENTION)
    residual = hidden_states
    hidden_states = rms_norm(tape, heads.num_tokens, hidden_states)
    hidden_states = _mlp(tape, buffer, layer, hidden_states)
    return add(tape, residual, hidden_states, AFTER_MLP)


def rms_norm(tape: Tape, num_tokens: int, x: Tensor) -> Tensor:
    """Fast_RMS_Layernorm (unsloth/kernels/rms_layernorm.py:140-195): writes its input's gradient over that of its output."""
    out = tape.tensor(x.num_elements, NORMED)
    scale = tape.tensor(num_tokens, NORM_SCALE, FULL)
    out.node = tape.record([x], pass_through, [x, scale])
    return out


def _attention(tape: Tape, buffer: WeightBuffer, heads: Heads, layer: Layer, hidden_states: Tensor) -> Tensor:
    """LlamaAttention_fast_forward (unsloth/models/llama.py:351-480). Rotary embedding works in place."""
    q, k, v = (layer.linears[name] for name in ("q_proj", "k_proj", "v_proj"))
    n = heads.num_tokens
    if layer.fused_qkv:
        queries, keys, values = lora_qkv(tape, buffer, hidden_states, q, k, v)
    else:
        queries, keys, values = (peft_linear(tape, linear, hidden_states, n) for linear in (q, k, v))
    attended = attend(tape, heads, queries, keys, values)
    o = layer.linears["o_proj"]
    return lora_w(tape, buffer, attended, o) if layer.fused_o else peft_linear(tape, o, attended, n)


def _mlp(tape: Tape, buffer: WeightBuffer, layer: Layer, x: Tensor) -> Tensor:
    gate, up, down = (layer.linears[name] for name in ("gate_proj", "up_proj", "down_proj"))
    if layer.fused_mlp:
        return lora_mlp(tape, buffer, x, gate, up, down)
    n = x.num_elements // gate.num_in
    return peft_linear(tape, down, _gated(tape, gate, up, x, n), n)


def _gated(tape: Tape, gate: Linear, up: Linear, x: Tensor, n: int) -> Tensor:
    """act_fn(gate_proj(x)) * up_proj(x), both factors saved for the gradient (transformers modeling_llama.py: LlamaMLP)."""
    activated = _silu(tape, peft_linear(tape, gate, x, n))
    upped = peft_linear(tape, up, x, n)
    num_elements = activated.num_elements
    out = tape.tensor(num_elements, GATED)

    def run(tape: Tape, _saved: tuple[Tensor, ...], _gradients: Gradients) -> Gradients:
        return [tape.tensor(num_elements, D_GATED) for _ in range(2)]

    out.node = tape.record([activated, upped], run, [activated, upped])
    return out


def _silu(tape: Tape, x: Tensor) -> Tensor:
    out = tape.tensor(x.num_elements, SILU)
    out.node = tape.record([x], creates(x.num_elements, D_SILU), [x])
    return out


# ------------------------------------------------------------------------------------------------------------- checkpointing

Forward = Callable[[Tensor], Tensor]


def checkpointed(tape: Tape, forward: Forward, hidden_states: Tensor, how: Checkpointing) -> Tensor:
    """Run a layer and keep only its input: on the host ("unsloth") or on the card (True); False keeps everything.

    The backward pass runs the layer again (unsloth_zoo/gradient_checkpointing.py: Unsloth_Offloaded_Gradient_Checkpointer;
    torch/utils/checkpoint.py: CheckpointFunction).
    """
    if not how:
        return forward(hidden_states)
    recording, tape.recording = tape.recording, False
    out = forward(hidden_states)
    tape.recording = recording
    kept = [] if how == "unsloth" else [hidden_states]
    out = detached(out)
    num_elements = hidden_states.num_elements

    def run(tape: Tape, saved: tuple[Tensor, ...], gradients: Gradients) -> Gradients:
        gradient = gradients[0]
        assert gradient is not None
        return _recompute(tape, forward, saved[0] if saved else tape.tensor(num_elements, RESTORED), gradient, how)

    out.node = tape.record([hidden_states], run, kept)
    return out


def _recompute(tape: Tape, forward: Forward, hidden_states: Tensor, gradient: Tensor, how: Checkpointing) -> Gradients:
    """A forward pass that saves everything, then backward; autocast's copies of weights live as long as its block."""
    hidden_states = detached(hidden_states)
    leaf = tape.leaf(hidden_states, LAYER_GRADIENT)
    casts, tape.casts = tape.casts, {}
    tape.recording = True
    output = forward(hidden_states)
    if how != "unsloth":
        tape.casts = casts
    tape.backward(output, gradient)
    tape.recording, tape.casts = False, casts
    return [leaf.gradient]
