"""The other files of a synthetic checkpoint: the config, and a tokenizer with one token per byte."""

from __future__ import annotations

from typing import Any

from loadcheck.specs.shape import ModelConfig

# The tokens: one for each byte, then these.
BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL_TOKENS = (BOS, EOS, PAD)
NUM_TOKENS = 256 + len(SPECIAL_TOKENS)
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def small_files(hf: dict[str, Any], config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Every file except the weights, by name, as JSON data."""
    tokens = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    ids = {f"{role}_id": 256 + SPECIAL_TOKENS.index(token) for role, token in tokens.items()}
    return {
        "config.json": {**hf, **ids, "torch_dtype": "bfloat16", **_quantization(config)},
        "generation_config.json": {"_from_model_config": True, **ids},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            **tokens,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
        "special_tokens_map.json": tokens,
    }


# As unsloth prints the real checkpoint's config ("vLLM Bitsandbytes config using kwargs"), except for the skipped modules, which
# are vLLM's default there; unsloth_zoo/vllm_utils.py:553-557 indexes the four bnb_4bit keys.
QUANTIZATION_CONFIG: dict[str, Any] = {
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": ["lm_head", "multi_modal_projector", "merger", "modality_projection"],
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
    "quant_method": "bitsandbytes",
}


def _quantization(config: ModelConfig) -> dict[str, Any]:
    """The quantization_config of config.json; empty for 16 bits."""
    if config.quantization != "nf4":
        return {}
    kept = [f"model.{name}" for name in config.kept_modules]
    skipped = [*QUANTIZATION_CONFIG["llm_int8_skip_modules"], *kept]
    return {"quantization_config": {**QUANTIZATION_CONFIG, "llm_int8_skip_modules": skipped}}


def _tokenizer() -> dict[str, Any]:
    """A byte-level BPE tokenizer without merges, in the format of tokenizers 0.21."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 256 + n, "content": token, **flags} for n, token in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {letter: byte for byte, letter in enumerate(byte_alphabet())},
            "merges": [],
        },
    }


def byte_alphabet() -> list[str]:
    """GPT-2's letter for each byte in byte-level BPE: the character itself if printable, otherwise the next from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
