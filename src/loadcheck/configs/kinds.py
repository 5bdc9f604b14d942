"""The four kinds of config: how their keys map to our settings, what cannot be trained here, and the defaults of missing keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OFF: tuple[Any, ...] = (None, False, "", 0, 0.0, [], {}, "none", "no")
"""Values of a switch that is off."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One tool's config format.

    Attributes:
        identified_by: keys, any of which identifies the format.
        parameters: our parameter by the tool's key; several keys may map to one parameter.
        refused: keys that would make it a different training, with the values that do not; a missing key is None.
        defaults: the tool's own values of keys that a file may leave out, by our parameter.
        source: where its keys and defaults are documented.
        isolates: keys that separate the examples of a packed row, with the values that do not; refused with packing.
        packing_note: how its packing differs from ours where it does not separate them; empty where it is the same.
    """

    name: str
    identified_by: tuple[str, ...]
    parameters: Mapping[str, str]
    refused: Mapping[str, tuple[Any, ...]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    isolates: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    packing_note: str = ""


TRAINING_ARGUMENTS = {
    name: name
    for name in (
        "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps",
        "warmup_ratio", "weight_decay", "max_steps", "num_train_epochs", "save_steps", "seed", "optim",
    )
} | {"gradient_checkpointing": "use_gradient_checkpointing"}  # fmt: skip
"""transformers 4.48.2 training_args.py, which TRL and LLaMA-Factory share."""
GRPO = {
    name: name for name in ("num_generations", "max_prompt_length", "max_completion_length")
} | {"use_vllm": "fast_inference"}  # fmt: skip
HF_DEFAULTS = {
    "per_device_train_batch_size": 8,
    "optim": "adamw_torch",
    "num_train_epochs": 3.0,
    "use_gradient_checkpointing": False,
}
DISTRIBUTED = {"deepspeed": OFF, "fsdp": OFF}

UNSLOTH = Kind(
    "unsloth",
    ("training.training_type", "lora.lora_r", "training.batch_size"),
    {
        "model": "model",
        "data.local_dataset": "data",
        "training.max_seq_length": "max_seq_length",
        "training.load_in_4bit": "load_in_4bit",
        "training.num_epochs": "num_train_epochs",
        "training.learning_rate": "learning_rate",
        "training.batch_size": "per_device_train_batch_size",
        "training.gradient_accumulation_steps": "gradient_accumulation_steps",
        "training.warmup_steps": "warmup_steps",
        "training.max_steps": "max_steps",
        "training.save_steps": "save_steps",
        "training.weight_decay": "weight_decay",
        "training.random_seed": "seed",
        "training.gradient_checkpointing": "use_gradient_checkpointing",
        "training.optim": "optim",
        "training.packing": "packing",
        "training.lr_scheduler_type": "lr_scheduler_type",
        "lora.lora_r": "lora_r",
        "lora.lora_alpha": "lora_alpha",
        "lora.lora_dropout": "lora_dropout",
        "lora.target_modules": "target_modules",
    },
    {
        "training.training_type": (None, "lora", "qlora"),
        "lora.use_rslora": OFF,
        "lora.use_loftq": OFF,
    },
    {
        "lora_r": 64,
        "lora_alpha": 16,
        "max_seq_length": 2048,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
    },
    "unsloth studio/backend/assets/configs/lora_text.yaml; packing today: unsloth/utils/packing.py",
    packing_note="today's unsloth separates the examples of a packed row; here, as in unsloth 2025.2.5 with trl 0.14.0, they attend to each other",
)
AXOLOTL = Kind(
    "axolotl",
    ("base_model", "sequence_len", "micro_batch_size"),
    {
        "base_model": "model",
        "datasets": "data",
        "rl": "method",
        "trl.num_generations": "num_generations",
        "trl.max_completion_length": "max_completion_length",
        "trl.use_vllm": "fast_inference",
        "sequence_len": "max_seq_length",
        "sample_packing": "packing",
        "pad_to_sequence_len": "pads_to_length",
        "load_in_4bit": "load_in_4bit",
        "micro_batch_size": "per_device_train_batch_size",
        "gradient_accumulation_steps": "gradient_accumulation_steps",
        "num_epochs": "num_train_epochs",
        "max_steps": "max_steps",
        "optimizer": "optim",
        "lr_scheduler": "lr_scheduler_type",
        "learning_rate": "learning_rate",
        "warmup_steps": "warmup_steps",
        "warmup_ratio": "warmup_ratio",
        "weight_decay": "weight_decay",
        "save_steps": "save_steps",
        "seed": "seed",
        "gradient_checkpointing": "use_gradient_checkpointing",
        "lora_r": "lora_r",
        "lora_alpha": "lora_alpha",
        "lora_dropout": "lora_dropout",
        "lora_target_modules": "target_modules",
        "lora_target_linear": "all_linear",
    },
    {
        "rl": (*OFF, "grpo"), "adapter": ("lora", "qlora"), "load_in_8bit": OFF, "peft_use_dora": OFF, "peft_use_rslora": OFF,
        "lora_modules_to_save": OFF, **DISTRIBUTED, "fsdp_config": OFF,
    },
    {"load_in_4bit": False, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "use_gradient_checkpointing": False,
     "lora_dropout": 0.0, "optim": "adamw_torch_fused"},
    "axolotl src/axolotl/utils/schemas; packing: validation.py (check_sample_packing_without_attention, hint_sample_packing_padding)",
    {
        **{f"{name}_attention": OFF for name in ("flash", "sdp", "xformers", "flex")},
        "attn_implementation": (*OFF, "eager"),
    },
    "axolotl packs whole rows and restarts positions in each; here rows are cut at sequence_len, and positions continue",
)  # fmt: skip
LLAMA_FACTORY = Kind(
    "LLaMA-Factory",
    ("finetuning_type", "cutoff_len", "lora_target", "lora_rank"),
    {
        **TRAINING_ARGUMENTS,
        "model_name_or_path": "model",
        "stage": "method",
        "cutoff_len": "max_seq_length",
        "packing": "packing",
        "quantization_bit": "load_in_4bit",
        "lora_rank": "lora_r",
        "lora_alpha": "lora_alpha",
        "lora_dropout": "lora_dropout",
        "lora_target": "target_modules",
        "disable_gradient_checkpointing": "no_gradient_checkpointing",
    },
    {
        "stage": (None, "sft"), "finetuning_type": (None, "lora"), "use_dora": OFF, "use_rslora": OFF,
        "loraplus_lr_ratio": OFF, "additional_target": OFF, "use_galore": OFF, **DISTRIBUTED,
        "use_apollo": OFF, "use_badam": OFF, "use_adam_mini": OFF, "use_muon": OFF, "use_llama_pro": OFF,
        "quantization_method": (None, "bnb", "bitsandbytes"), "quantization_type": (None, "nf4"), "double_quantization": (None, True),
    },
    {**HF_DEFAULTS, "lora_r": 8, "lora_dropout": 0.0, "target_modules": "all", "max_seq_length": 2048, "load_in_4bit": False,
     "learning_rate": 5e-5, "use_gradient_checkpointing": True},
    "LLaMA-Factory src/llamafactory/hparams; packing: data/processor/supervised.py (PackedSupervisedDatasetProcessor)",
    {"neat_packing": OFF},
    "LLaMA-Factory packs whole rows, pads them to cutoff_len + 1 and restarts positions in each; here rows are cut at cutoff_len, nothing "
    "is padded, and positions continue",
)  # fmt: skip
TRL = Kind(
    "TRL",
    ("model_name_or_path", "use_peft", "lora_r"),
    {
        **TRAINING_ARGUMENTS,
        **GRPO,
        "model_name_or_path": "model",
        "dataset_name": "data",
        "max_seq_length": "max_seq_length",
        "max_length": "max_seq_length",
        "packing": "packing",
        "load_in_4bit": "load_in_4bit",
        "lora_r": "lora_r",
        "lora_alpha": "lora_alpha",
        "lora_dropout": "lora_dropout",
        "lora_target_modules": "target_modules",
    },
    {
        "use_peft": (True,), "load_in_8bit": OFF, "use_dora": OFF, "use_rslora": OFF,
        "lora_modules_to_save": OFF, "bnb_4bit_quant_type": (None, "nf4"), **DISTRIBUTED,
    },
    {**HF_DEFAULTS, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "q_proj,v_proj", "max_seq_length": 1024,
     "load_in_4bit": False, "learning_rate": 2e-5},
    "trl 0.14.0 trainer/model_config.py, trainer/sft_config.py; peft 0.14.0 utils/constants.py",
    {"packing_strategy": (*OFF, "wrapped"), "padding_free": OFF},
    "packing is that of trl 0.14.0, which later versions call packing_strategy wrapped; trl learns every token of a packed row, here only "
    "the assistant's tokens are labels",
)  # fmt: skip

KINDS = (UNSLOTH, AXOLOTL, LLAMA_FACTORY, TRL)
"""In the order in which they are tried: TRL's keys are among LLaMA-Factory's."""
