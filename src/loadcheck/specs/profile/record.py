"""The record of a profile. Each setting is declared here once, with its `Setting`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta

from loadcheck.specs.files import Spec
from loadcheck.specs.settings import Setting
from loadcheck.specs.shape import Quantization

Loader = Literal["unsloth", "vllm"]
Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

NAME = r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,99}"
"""The form of a profile's name: it becomes part of the names of run folders and range files, so it must not lead elsewhere."""

MAX_COUNT = 2**31 - 1
"""The upper bound of every length, step count and seed, so that absurd values are refused at once."""
Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]

# vllm/config.py:2119-2127 at 0.7.2
VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256)
LINEAR_MODULES: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Adapters(Spec, frozen=True, kw_only=True):
    """The LoRA adapters that `get_peft_model` attaches."""

    r: Annotated[int, Meta(ge=1, le=1024), Setting("Rank of the adapters.", "--lora-r", moves_memory=True)] = 32
    lora_alpha: Annotated[
        int, Meta(ge=1, le=MAX_COUNT), Setting("Scale of the adapters (LoRA alpha).", moves_memory=True)
    ] = 32
    lora_dropout: Annotated[
        float,
        Meta(ge=0, lt=1),
        Setting("Dropout of the adapters; unless it is 0, unsloth patches nothing.", moves_memory=True),
    ] = 0.0
    bias: Literal["none"] = "none"
    target_modules: Annotated[
        tuple[Target, ...],
        Meta(min_length=1),
        Setting("Modules with adapters, such as q_proj,v_proj.", moves_memory=True),
    ] = LINEAR_MODULES
    use_gradient_checkpointing: Annotated[
        bool | Literal["unsloth"], Setting("Gradient checkpointing: unsloth, true or false.", only_load=True)
    ] = "unsloth"
    random_state: Annotated[
        int, Meta(ge=0, le=MAX_COUNT), Setting("Seed of the adapters' initial weights.", only_load=True)
    ] = 3407


class Generation(Spec, frozen=True, kw_only=True):
    """The one answer that proves that the loaded model works."""

    prompt: Annotated[
        str,
        Meta(min_length=1),
        Setting("Prompt for the loaded model; without --expect, any answer passes.", only_load=True),
    ] = "What is the capital of France?"
    max_new_tokens: Annotated[int, Meta(ge=1, le=MAX_COUNT), Setting("Longest answer, in tokens.", only_load=True)] = 32
    expect: Annotated[
        str | None, Setting("Word that the answer must contain; ignored with synthetic weights.", only_load=True)
    ] = None


class Training(Spec, frozen=True, kw_only=True):
    """Training steps on the adapters after the load; none by default."""

    steps: Annotated[
        int, Meta(ge=0, le=MAX_COUNT), Setting("Training steps after the load.", "--train-steps", moves_memory=True)
    ] = 0
    learning_rate: Annotated[
        float, Meta(gt=0, le=1), Setting("Learning rate of the training steps.", only_load=True)
    ] = 2e-4


class Profile(Spec, frozen=True, kw_only=True):
    """One load, as data. Lengths are in tokens; utilization is a fraction of the memory that is free at the start."""

    name: str
    description: str
    engine: Literal["gpu", "cpu"]
    model: Annotated[
        str,
        Meta(min_length=1),
        Setting("A name in env/models, a local directory, or a config.json.", moves_memory=True),
    ]
    weights: Annotated[
        Literal["hub", "package", "synthetic", "local"],
        Setting("Source of the weights.", moves_memory=True, only_load=True),
    ]
    max_seq_length: Annotated[
        int,
        Meta(ge=1, le=MAX_COUNT),
        Setting("Longest request, in tokens: prompt and answer together.", moves_memory=True),
    ]
    load_in_4bit: Annotated[
        bool,
        Setting("Quantization, for models of env/models.", "--load-in-4bit/--load-in-16bit", moves_memory=True),
    ]
    fast_inference: Annotated[
        bool, Setting("Load with or without vLLM.", "--fast-inference/--no-fast-inference", only_load=True)
    ]
    max_lora_rank: Annotated[
        int,
        Meta(ge=1, le=MAX_COUNT),
        Setting(
            "Largest rank that vLLM's LoRA slots hold. predict and fit also use it as the adapters' rank, unless --lora-r is "
            "given.",
            moves_memory=True,
        ),
    ]
    gpu_memory_utilization: Annotated[
        float,
        Meta(gt=0, le=1),
        Setting(
            "Share of the free memory that vLLM may use; with --loader vllm, of the whole card.",
            moves_memory=True,
            of_engine=True,
        ),
    ]
    loader: Annotated[
        Loader,
        Setting("unsloth (with vLLM inside), or vLLM alone, without adapters.", moves_memory=True),
    ] = "unsloth"
    conservativeness: Annotated[
        float,
        Meta(gt=0, le=1),
        Setting(
            "Scales unsloth's number of sequences; 0.1 means few.",
            moves_memory=True,
            of_engine=True,
            argument="conservativeness",
        ),
    ] = 1.0
    enforce_eager: Annotated[
        bool,
        Setting(
            "Run without CUDA graphs: less memory, slower.",
            "--enforce-eager/--cuda-graphs",
            moves_memory=True,
            of_engine=True,
            argument="enforce_eager",
            figure="enforce_eager",
            words="no CUDA graphs",
            costs="speed of every answer",
        ),
    ] = False

    float8_kv_cache: Annotated[
        bool,
        Setting(
            "8-bit KV cache: twice the tokens; needs compute capability 8.0 or higher.",
            "--float8-kv-cache/--16bit-kv-cache",
            moves_memory=True,
            of_engine=True,
            words="8-bit KV cache",
        ),
    ] = False
    prefix_caching: Annotated[
        Literal["default", "on", "off"],
        Setting(
            "Cache common beginnings of prompts; default: on with unsloth, off with vLLM alone.",
            moves_memory=True,
            of_engine=True,
        ),
    ] = "default"
    max_num_seqs: Annotated[
        Count | None,
        Setting(
            "Sequences at once; only with --loader vllm (default: 256).", moves_memory=True, argument="max_num_seqs"
        ),
    ] = None
    max_num_batched_tokens: Annotated[
        Count | None,
        Setting(
            "Tokens of a batch; only with --loader vllm (default: max_seq_length, at least 2048).",
            moves_memory=True,
            argument="max_num_batched_tokens",
        ),
    ] = None
    chunked_prefill: Annotated[
        Literal["default", "on", "off"],
        Setting(
            "Process long prompts in chunks; only with --loader vllm (default: on above 32768 tokens).",
            moves_memory=True,
        ),
    ] = "default"
    dtype: Annotated[
        Literal["auto", "half", "bfloat16"],
        Setting(
            "Data type of weights and activations; only with --loader vllm (default: the checkpoint's).",
            moves_memory=True,
            argument="dtype",
        ),
    ] = "auto"
    adapters: Adapters | None = Adapters()
    generation: Generation = Generation()
    training: Training = Training()

    @property
    def quantization(self) -> Quantization:
        """The one that is asked for; a local directory has its own."""
        return "nf4" if self.load_in_4bit else "16bit"

    @property
    def has_budget(self) -> bool:
        """Whether the load has an inference engine; without one there is no plan, no budget and no KV cache to predict."""
        return not self.on_cpu and self.fast_inference

    @property
    def on_cpu(self) -> bool:
        """Whether the load runs on the CPU, even if there is a card."""
        return self.engine != "gpu"

    @property
    def keeps_slots(self) -> bool:
        """Whether the engine allocates slots for adapters, even if there are none."""
        return self.has_budget and self.loader == "unsloth"

    @property
    def expected_word(self) -> str | None:
        """The word that the answer must contain; None for random weights, which know no answer."""
        return None if self.weights == "synthetic" else self.generation.expect

    @property
    def caches_prefixes(self) -> bool:
        """Whether the engine caches the common prefixes of prompts (unsloth_zoo/vllm_utils.py:811, vllm/engine/arg_utils.py:212)."""
        return self.prefix_caching == "on" or (self.prefix_caching == "default" and self.loader == "unsloth")

    def __post_init__(self) -> None:
        problem = next(_contradictions(self), None)
        if problem is not None:
            raise ValueError(problem)


VLLM_ALONE: dict[str, Any] = {"adapters": None, "conservativeness": 1.0}
"""Settings that vLLM alone does not support, with the values that they must have."""
OF_VLLM_ALONE: dict[str, Any] = {
    "max_num_seqs": None,
    "max_num_batched_tokens": None,
    "chunked_prefill": "default",
    "dtype": "auto",
}
"""Settings that unsloth's from_pretrained ignores or sets itself (unsloth_zoo/vllm_utils.py:794-814, 893-982), with their defaults."""


def _contradictions(profile: Profile) -> Iterator[str]:
    """Each problem of settings that do not go together, and of the name."""
    if re.fullmatch(NAME, profile.name) is None:
        yield "name: it becomes the name of a folder; take up to 100 letters, digits, spaces and ._+-"
    yield from _of_other_loader(profile)
    rank = profile.max_lora_rank
    if profile.fast_inference and rank not in VLLM_LORA_RANKS:
        yield f"max_lora_rank ({rank}) must be one of {VLLM_LORA_RANKS}; vLLM takes no other"
    if profile.training.steps and profile.adapters is None:
        yield "training.steps: training changes the adapters, and there are none; add [adapters], or set steps = 0"
    if profile.adapters is not None and profile.adapters.r > rank:
        remedy = "raise max_lora_rank or lower adapters.r"
        yield f"LoRA rank {profile.adapters.r} is greater than max_lora_rank {rank}; {remedy}"


def _of_other_loader(profile: Profile) -> Iterator[str]:
    """Each setting that the profile's loader does not support."""
    if profile.loader == "vllm":
        others, remedy = VLLM_ALONE, "leave it out (adapters = false), or set loader = 'unsloth'"
        if profile.on_cpu or not profile.fast_inference:
            yield "loader: vLLM alone loads on a GPU; set engine = 'gpu' and fast_inference = true"
    else:
        others = OF_VLLM_ALONE
        remedy = "leave it out, or set loader = 'vllm'; conservativeness scales unsloth's own number of sequences"
    for key, value in others.items():
        if getattr(profile, key) != value:
            yield f"{key}: {profile.loader} does not take it; {remedy}"
