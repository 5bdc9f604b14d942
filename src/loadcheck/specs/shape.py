"""A model's shape: all that the memory figures depend on."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from loadcheck.specs.architecture import ARCHITECTURES, Architecture
from loadcheck.specs.files import Spec

Quantization = Literal["nf4", "16bit"]
ModelType = Literal["llama", "mistral", "qwen2", "granite", "gemma"]
"""The keys of `specs.architecture.ARCHITECTURES`."""

MAX_SIZE = 10_000_000
"""Far larger than any size of a model, so that products of sizes stay bounded."""
Size = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")


class ModelConfig(Spec, frozen=True, kw_only=True):
    """The shape of a model of one of `ARCHITECTURES`. Sizes are element counts; lengths are tokens."""

    model_type: ModelType
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Meta(ge=1, le=1000)]
    num_attention_heads: Annotated[int, Meta(ge=1, le=1024)]
    num_key_value_heads: Annotated[int, Meta(ge=1, le=1024)]
    head_dim: Size
    vocab_size: Size
    max_position_embeddings: Size
    tie_word_embeddings: bool
    rope_cache_tokens: Size
    """Positions in vLLM's rotary cache; max_position_embeddings unless rope scaling stretches it."""
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    sliding_window: bool = False
    """Whether attention is windowed, which vLLM refuses with prefix caching, which unsloth always enables."""
    quantization: Quantization = "16bit"
    kept_modules: tuple[str, ...] = ()
    """Modules that a 4-bit checkpoint keeps in 16 bits, such as `layers.1.mlp`: unsloth's dynamic quants."""
    hidden_act: str = "silu"
    derived_max_model_len: Annotated[int, Meta(ge=1)] | None = None
    """The longest max_model_len that vLLM accepts, if rope scaling changes it from max_position_embeddings."""
    rope_refusal: str | None = None
    """vLLM's message if it refuses the rope scaling; None if it accepts it."""
    lora: bool = True
    """Whether the engine reserves room for adapters. This and the next depend on the load, not on the model; `predict.case.Case` sets both."""
    kv_number_bytes: Literal[1, 2] = 2
    """Bytes per number in the KV cache."""

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of num_key_value_heads "
                f"({self.num_key_value_heads}); correct the two"
            )

    @property
    def architecture(self) -> Architecture:
        """The record of its `model_type`."""
        return ARCHITECTURES[self.model_type]

    @property
    def lora_vocabulary(self) -> bool:
        """Whether embedding and head have rows and slots for adapters."""
        return self.lora and self.architecture.lora_vocabulary

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Each linear of a layer by its Hugging Face name: (in_features, out_features)."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (hidden, self.q_size),
            "k_proj": (hidden, self.kv_size),
            "v_proj": (hidden, self.kv_size),
            "o_proj": (self.q_size, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    def is_in_4bit(self, layer: int, linear: str) -> bool:
        """Whether a linear, by its Hugging Face name, is quantized in this layer."""
        block = "mlp" if linear in MLP_LINEARS else "self_attn"
        prefixes = {f"layers.{layer}", f"layers.{layer}.{block}", f"layers.{layer}.{block}.{linear}"}
        return self.quantization == "nf4" and not prefixes.intersection(self.kept_modules)
