"""The trained model: its layers with LoRA, and unsloth's forward pass through them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.adapters import patched
from loadcheck.stacks.unsloth_vllm.training_memory.attention import Heads
from loadcheck.stacks.unsloth_vllm.training_memory.autograd import FULL, Leaf, Tape, Tensor
from loadcheck.stacks.unsloth_vllm.training_memory.layer import (
    Checkpointing,
    Layer,
    checkpointed,
    decoder_layer,
    rms_norm,
)
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label, Storage
from loadcheck.stacks.unsloth_vllm.training_memory.linear import Linear, Lora, WeightBuffer

ADAPTERS = Label("adapters", "peft/tuners/lora/layer.py:116-118: fp32", "adapters")
ROPE = Label("rotary tables", "unsloth/models/llama.py:1243-1244", "weights")
EMBEDDED = Label("input embeddings", "unsloth/models/llama.py:639; kept as a leaf, unsloth/models/_utils.py:556-563")
D_EMBEDDED = Label("gradient of the input embeddings", "unsloth/models/_utils.py:556-563 (make_inputs_require_grad)")


@dataclass(slots=True)
class Trainee:
    """A loaded model with adapters, on a tape.

    Attributes:
        leaves: the trained tensors, with their gradients.
        fused_loss: whether the loss of a long batch is computed without logits: not for mistral (unsloth/models/mistral.py:257-272), nor
            below 7.5 (unsloth_zoo/loss_utils.py:25-34).
        rope: the rotary tables, which the first forward pass replaces by tables of `rope_bytes` (unsloth/models/llama.py:811-817).
    """

    config: ModelConfig
    tape: Tape
    layers: list[Layer]
    checkpointing: Checkpointing
    num_sms: int
    fused_loss: bool
    leaves: list[Leaf]
    rope: list[Storage]
    rope_bytes: tuple[int, int]
    buffer: WeightBuffer = field(default_factory=WeightBuffer)

    def hidden_states(self, batch: int, length: int) -> Tensor:
        """LlamaModel_fast_forward (unsloth/models/llama.py:575-908): the input of the head."""
        tape, config = self.tape, self.config
        heads = Heads(
            batch, length, config.num_attention_heads, config.num_key_value_heads, config.head_dim, self.num_sms
        )
        embedded = tape.tensor(batch * length * config.hidden_size, EMBEDDED)
        if tape.recording:
            tape.leaf(embedded, D_EMBEDDED)
        self._grow_rope()
        states = embedded
        for layer in self.layers:
            states = checkpointed(tape, self._forward(heads, layer), states, self.checkpointing)
        return rms_norm(tape, heads.num_tokens, states)

    def _grow_rope(self) -> None:
        for number, num_bytes in enumerate(self.rope_bytes):
            if num_bytes > self.rope[number].num_bytes:
                self.rope[number] = self.tape.ledger.allocate(num_bytes, ROPE)

    def _forward(self, heads: Heads, layer: Layer) -> Callable[[Tensor], Tensor]:
        return lambda states: decoder_layer(self.tape, self.buffer, heads, layer, states)


def build(
    config: ModelConfig,
    tape: Tape,
    *,
    first_rope_bytes: tuple[int, int],
    rope_bytes: tuple[int, int],
    r: int,
    targets: Collection[str],
    dropout: float,
    checkpointing: Checkpointing,
    num_sms: int,
    compute_capability: float,
) -> Trainee:
    """The layers with LoRA on their `targets`, and with unsloth's patches."""
    counts = patched(config, targets, dropout)
    biases = {"patched_qkv": config.qkv_bias, "patched_o": config.o_bias, "patched_mlp": config.mlp_bias}
    # A base bias prevents a group from being patched, though qwen2's is counted as patched (unsloth/models/llama.py:2529-2600).
    fused = [bool(counts[group]) and not bias for group, bias in biases.items()]
    leaves: list[Leaf] = []
    layers = []
    for number in range(config.num_hidden_layers):
        linears = {
            name: _linear(config, tape, number, name, r, name in targets, dropout, leaves) for name in config.linears
        }
        layers.append(Layer(linears, *fused))
    rope = [tape.ledger.allocate(num_bytes, ROPE) for num_bytes in first_rope_bytes]
    fused_loss = config.model_type != "mistral" and compute_capability >= 7.5
    return Trainee(config, tape, layers, checkpointing, num_sms, fused_loss, leaves, rope, rope_bytes)


def _linear(
    config: ModelConfig, tape: Tape, layer: int, name: str, r: int, targeted: bool, dropout: float, leaves: list[Leaf]
) -> Linear:
    num_in, num_out = config.linears[name]
    linear = Linear(num_in, num_out, config.is_in_4bit(layer, name))
    if targeted:
        a, b = tape.tensor(r * num_in, ADAPTERS, FULL), tape.tensor(num_out * r, ADAPTERS, FULL)
        leaves += [tape.leaf(a), tape.leaf(b)]
        linear.lora = Lora(r, a, b, dropout > 0)
    return linear
