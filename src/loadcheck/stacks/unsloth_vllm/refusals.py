"""What the pinned unsloth and vLLM refuse regardless of memory: one function per rule, each with the lines that raise.

The lines are those of vLLM 0.7.2 and unsloth 2025.2.5. All rules are for loads with vLLM, which unsloth always starts with LoRA, and with
bfloat16 from compute capability 8.0 on, else float16 (unsloth_zoo/vllm_utils.py:803-857).

These refusals have no rule, because no setting of ours triggers them: swap space above 70 % of the RAM (vllm/config.py:1132-1146:
unsloth requests at most a quarter of the available RAM), max_num_batched_tokens below max_model_len (config.py:1564: unsloth makes them
equal), bitsandbytes below 7.0 (quantization/bitsandbytes.py:66: the card itself is refused there), and the shapes of LoRA's Triton
kernels, which mask sizes that are not multiples of their blocks (vllm/lora/ops/triton_ops/utils.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from loadcheck.predict.account import Obstacle
from loadcheck.predict.card import Card
from loadcheck.predict.case import Case
from loadcheck.specs.files import shown
from loadcheck.specs.model import ADAPTER_CONFIG, is_local
from loadcheck.stacks.unsloth_vllm.names import SUFFIX_4BIT
from loadcheck.stacks.unsloth_vllm.weights import LORA_EXTRA_VOCAB

FLASH_CAPABILITY = 8.0
"""Below it, vLLM uses xFormers instead of FlashAttention (vllm/platforms/cuda.py:176-182)."""
FLASH_HEAD_SIZES = (32, 64, 96, 128, 160, 192, 224, 256)
"""vllm/attention/backends/flash_attn.py:43-44; for other sizes, vLLM uses xFormers (vllm/platforms/cuda.py:203-217)."""
PAGED_HEAD_SIZES = (32, 64, 80, 96, 112, 120, 128, 192, 256)
"""vllm/attention/ops/paged_attn.py:38-39, which the xFormers backend uses for decoding (backends/xformers.py:412-416)."""

LORA_MAX_VOCAB = 257_024
"""vllm/lora/layers.py:969, `32000 < vocab_size > 257024`: only the upper bound has an effect."""

TURING = 7.5
"""Older cards are Volta."""


Rule = Callable[[Case], Obstacle | None]


def refusals(case: Case) -> Iterator[Obstacle]:
    """Every obstacle that more memory would not remove, in the order in which the engine hits them."""
    yield from apply_rules(RULES, case)


def model_refusals(case: Case) -> Iterator[Obstacle]:
    """Those that no setting would remove either, only another model or another card."""
    yield from apply_rules(MODEL_RULES, case)


def apply_rules(rules: tuple[Rule, ...], case: Case) -> Iterator[Obstacle]:
    """The obstacles that the rules find."""
    return (obstacle for rule in rules if (obstacle := rule(case)) is not None)


def head_sizes(compute_capability: float, float8: bool = False) -> tuple[int, ...]:
    """The head sizes that the attention backends of a card support, ascending; an 8-bit KV cache rules out FlashAttention."""
    flash = FLASH_HEAD_SIZES if compute_capability >= FLASH_CAPABILITY and not float8 else ()
    return tuple(sorted({*flash, *PAGED_HEAD_SIZES}))


def _too_long(case: Case) -> Obstacle | None:
    """unsloth/models/llama.py:1713-1718."""
    config, profile = case.config, case.profile
    if profile.max_seq_length <= config.max_position_embeddings:
        return None
    return Obstacle(
        f"max_seq_length {profile.max_seq_length} is above the model's {config.max_position_embeddings} positions",
        "Unsloth: Fast inference does not yet work with RoPE Scaling.",
        f"lower max_seq_length to {config.max_position_embeddings} or less",
    )


def _above_derived_length(case: Case) -> Obstacle | None:
    """vllm/config.py:2458-2518: with rope scaling, vLLM may derive a shorter length than max_position_embeddings."""
    config, profile = case.config, case.profile
    derived = config.derived_max_model_len
    if derived is None or profile.max_seq_length <= derived or profile.max_seq_length > config.max_position_embeddings:
        return None
    return Obstacle(
        f"max_seq_length {profile.max_seq_length} is above the {derived} tokens that the model's rope_scaling allows",
        f"User-specified max_model_len ({profile.max_seq_length}) is greater than the derived max_model_len",
        f"lower max_seq_length to {derived} or less",
    )


def _rope(case: Case) -> Obstacle | None:
    """vllm/transformers_utils/config.py:125-140, vllm/model_executor/layers/rotary_embedding.py:1023-1113."""
    config = case.config
    if config.rope_refusal is None:
        return None
    return Obstacle(
        "vLLM cannot use the model's rope_scaling", config.rope_refusal, "correct rope_scaling in config.json"
    )


def _window(case: Case) -> Obstacle | None:
    """vllm/config.py:1123-1130."""
    if not (case.config.sliding_window and case.profile.caches_prefixes):
        return None
    return Obstacle(
        "the model's attention has a sliding window, and prefix caching is on, which is unsloth's default",
        "Prefix caching is not supported with sliding window. Run with --disable-sliding-window to use prefix caching.",
        "load with --prefix-caching off, or use a model without a window, such as mistral 7B v0.3",
    )


def _float8(case: Case) -> Obstacle | None:
    """unsloth_zoo/vllm_utils.py:824-825."""
    if not case.profile.float8_kv_cache or case.gpu.compute_capability >= FLASH_CAPABILITY:
        return None
    return Obstacle(
        f"an 8-bit KV cache needs compute capability 8.0, and {case.gpu.name} has {case.gpu.compute_capability}",
        "Unsloth: Your GPU is too old for float8 KV cache! Set it to False.",
        "leave --float8-kv-cache out",
    )


def _activation(case: Case) -> Obstacle | None:
    """vllm/model_executor/models/llama.py:84-86, qwen2.py:89-91, granite.py:80-82, gemma.py:52-76."""
    config, supported = case.config, case.config.architecture.activations
    if config.hidden_act in supported:
        return None
    activation = shown(config.hidden_act, "")
    message = f"Unsupported activation: {activation}. Only silu is supported for now."
    remedy = "use a model with silu, such as llama, mistral or qwen2"
    if "silu" not in supported:
        message, remedy = f"Activation function {activation} is not supported", f"use a model with {supported[0]}"
    return Obstacle(f"the model's activation function is {activation}", message, remedy)


def _untied(case: Case) -> Obstacle | None:
    """vllm/model_executor/models/gemma.py:367."""
    config = case.config
    if config.tie_word_embeddings or not config.architecture.always_tied:
        return None
    return Obstacle(
        "the model's head is not tied to its embedding", "AssertionError", "use a model with tied embeddings"
    )


def _unsloth_copy(case: Case) -> Obstacle | None:
    """unsloth_zoo/vllm_utils.py:677-683, unsloth/models/granite.py:433-435; run without a GPU on 2026-11-29, with the pinned packages."""
    if case.config.model_type != "granite":
        return None
    return Obstacle(
        "once vLLM has loaded, unsloth fails to create its own copy of a granite model, which adapters and answers need",
        "GraniteRotaryEmbedding.__init__() got an unexpected keyword argument 'device'",
        "load it with vLLM alone, or without vLLM (--no-fast-inference), or use a llama, mistral, qwen2 or gemma model",
    )


def _head_size(case: Case) -> Obstacle | None:
    """vllm/platforms/cuda.py:176-217, vllm/attention/backends/xformers.py:412-416."""
    config, card = case.config, case.gpu
    supported = head_sizes(card.compute_capability, case.profile.float8_kv_cache)
    if config.head_dim in supported:
        return None
    remedy = f"use a model whose head size is one of {', '.join(map(str, supported))}"
    if config.head_dim in FLASH_HEAD_SIZES:
        remedy = "use a card of compute capability 8.0 or newer, whose FlashAttention supports it"
    return Obstacle(
        f"no attention backend for compute capability {card.compute_capability} supports head size {config.head_dim}",
        f"Head size {config.head_dim} is not supported by PagedAttention. Supported head sizes are: {list(PAGED_HEAD_SIZES)}.",
        remedy,
    )


def _vocabulary(case: Case) -> Obstacle | None:
    """vllm/lora/layers.py:969; LoRA is on even without adapters, because unsloth starts vLLM with it."""
    config = case.config
    most = LORA_MAX_VOCAB - LORA_EXTRA_VOCAB
    if not config.lora_vocabulary or config.vocab_size <= most:
        return None
    return Obstacle(
        f"the vocabulary of {config.vocab_size} is above the {most} that vLLM's LoRA supports",
        "When using LoRA, vocab size must be 32000 >= vocab_size <= 257024",
        f"use a model with a vocabulary of {most} or less",
    )


def _packed_weights(case: Case) -> Obstacle | None:
    """vllm/model_executor/layers/quantization/bitsandbytes.py:193-197: two 4-bit elements per byte, in each of vLLM's linears."""
    config = case.config
    if config.quantization != "nf4":
        return None
    hidden, inner = config.hidden_size, config.intermediate_size
    sizes = (hidden * (config.q_size + 2 * config.kv_size), config.q_size * hidden, hidden * 2 * inner, inner * hidden)
    if all(size % 2 == 0 for size in sizes):
        return None
    return Obstacle(
        "a linear has an odd number of elements, which 4-bit packing cannot halve",
        "The input size is not aligned with the quantized weight shape.",
        "load in 16 bits, or use a model with even sizes",
    )


def _suffix(case: Case) -> Obstacle | None:
    """unsloth_zoo/vllm_utils.py:549-604, 869: with vLLM, unsloth goes by the end of a directory's name."""
    folder, quantized = _directory(case), case.config.quantization == "nf4"
    if (
        folder is None
        or folder.name.lower().endswith(SUFFIX_4BIT) is quantized
        or not (quantized or case.profile.load_in_4bit)
    ):
        return None
    if quantized:
        return Obstacle(
            f"{shown(folder.name, '')} is quantized, but its name does not end in {SUFFIX_4BIT}",
            "KeyError: 'layers.0.mlp.down_proj.weight.absmax'",
            f"rename the directory so that its name ends in {SUFFIX_4BIT}",
        )
    return Obstacle(
        f"{shown(folder.name, '')} ends in {SUFFIX_4BIT}, but its config.json has no quantization_config",
        "cannot access local variable 'compute_dtype' where it is not associated with a value",
        f"rename the directory without {SUFFIX_4BIT}, or quantize the model and save it with its quantization_config",
    )


def _adapter_beside(case: Case) -> Obstacle | None:
    """unsloth/models/loader.py:144-165."""
    folder = _directory(case)
    if folder is None or not (folder / ADAPTER_CONFIG).is_file():
        return None
    return Obstacle(
        f"{ADAPTER_CONFIG} lies beside config.json",
        "Unsloth: Your repo has a LoRA adapter and a base model.",
        "move it and the adapter's weights to their own directory",
    )


def _directory(case: Case) -> Path | None:
    """The directory of a local model; None for a name or a config.json alone."""
    if not is_local(case.profile.model):
        return None
    folder = Path(case.profile.model).expanduser().resolve()
    return folder if folder.is_dir() else None


def found_on_disk(case: Case) -> tuple[Path, bool] | None:
    """What the rules look at outside of the case: a local model's directory, and whether it holds adapters, too."""
    folder = _directory(case)
    return None if folder is None else (folder, (folder / ADAPTER_CONFIG).is_file())


SETTING_RULES: tuple[Rule, ...] = (_adapter_beside, _suffix, _too_long, _above_derived_length, _float8)
ENGINE_RULES: tuple[Rule, ...] = (_rope, _window, _head_size, _activation, _untied, _packed_weights)
"""vLLM's own, with or without unsloth."""
MODEL_RULES: tuple[Rule, ...] = (
    *ENGINE_RULES, _vocabulary, _unsloth_copy,
)  # fmt: skip
"""Those that no setting can avoid."""
RULES = (*SETTING_RULES, *MODEL_RULES)


def known_warnings(card: Card) -> Iterator[str]:
    """Known failures after a load that fits, by the card's architecture."""
    if card.compute_capability < TURING:
        yield VOLTA_PREFIX


VOLTA_PREFIX = (
    "Volta (compute capability 7.0): unsloth always turns on prefix caching, and in public reports Triton 3.1 aborts the process there "
    "(mma -> mma layout conversion is only supported on Ampere) as soon as two prompts share a prefix; use a card of 7.5 or newer"
)
"""vllm/attention/ops/prefix_prefill.py, which xFormers' backend calls for a cached prefix. Not seen in a run of ours."""
