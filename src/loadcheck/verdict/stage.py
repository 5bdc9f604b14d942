"""At which stage a load failed: by the frames of its traceback, or else by how far its log had come."""

from __future__ import annotations

import re

from loadcheck.logs import LogError, ParsedLog

UNKNOWN = "unknown"
"""No line of a load and no telling frame comes before the error."""
_SAMPLER = re.compile(r"warming up (?:the )?sampler")  # vllm 0.8 on, v1/worker/gpu_model_runner.py
# The innermost work that a frame names, most specific first. Files and functions of unsloth 2025.2.5, unsloth_zoo 2025.2.4, trl 0.14,
# transformers 4.48.2, vllm 0.7.2 and, for V1, vllm 0.8 to 0.13.
FRAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (stage, re.compile(pattern))
    for stage, pattern in (
        # unsloth_zoo/gradient_checkpointing.py: activations go to pinned host memory, which WSL2 has little of
        ("pinned", r"\.to\(\s*[\"']cpu[\"'],\s*non_blocking|\.pin_memory\(|pin_memory\s*=\s*True|cudaHostAlloc"),
        (
            "grpo",
            r"UnslothGRPOTrainer|grpo_trainer\.py|_get_per_token_logps|grpo_(?:accumulated|compute)_loss|rl_replacements\.py|_prepare_inputs.*completion",
        ),
        (
            "unknown",
            r"unsloth/save\.py|\bin (?:_merge_lora|merge_and_unload)\b",
        ),  # merging and saving have no stage
        (
            "training",
            r"\bin (?:training_step|_inner_training_loop|compute_loss|_fast_train|backward|_engine_run_backward|_init_group|init_state)\b|"
            r"(?:sft_)?trainer\.py\"|torch/optim/|bitsandbytes/optim/|cross_entropy",
        ),
        ("sampler", r"\bin _dummy_sampler_run\b"),
        (
            "capture",
            r"\bin (?:capture_model|_capture_cudagraphs|capture_graph|graph_capture|compile_or_warm_up_model)\b|with torch\.cuda\.graph\(",
        ),
        ("profile", r"\bin (?:determine_num_available_blocks|determine_available_memory|profile_run|_dummy_run)\b"),
        (
            "blocks",
            r"\bin (?:_allocate_kv_cache(?:_tensors)?|initialize_cache|initialize_kv_cache(?:_tensors)?|_init_cache_engine|_initialize_kv_caches)\b",
        ),
        ("adapters", r"\bin (?:get_peft_model|_create_and_replace|inject_adapter)\b|peft/tuners/"),
        (
            "loading",
            r"\bin (?:load_model|load_weights|_load_weights|create_weights|_initialize_model|_load_state_dict_into_meta_model|"
            r"set_module_tensor_to_device|create_quantized_param|_quantize)\b|transformers/modeling_utils\.py\"[^\n]{0,20} in from_pretrained",
        ),
        (
            "ready",
            r"\bin (?:fast_generate|unsloth_fast_generate|_generate|generate|execute_model)\b|transformers/generation/",
        ),
    )
)
_COMPILER = re.compile(r"/torch/_(?:inductor|dynamo|functorch)/")
"""Frames of torch.compile, whose functions are called generate and the like; it is called at any stage."""


def stage_of(error: LogError) -> str:
    """The stage of an error, as one of specs.trouble.StageName."""
    if _SAMPLER.search(error.text):
        return "sampler"
    for stage, pattern in FRAMES:
        if any(pattern.search(frame) and not _COMPILER.search(frame) for frame in error.frames):
            return stage
    return UNKNOWN if error.stage is None else error.stage.name.lower()


def stage_at(log: ParsedLog, line: int) -> str:
    """The stage of the error on a line; if the line is not an error itself, the stage that the log reached in the end."""
    for attempt in log.attempts:
        for error in attempt.errors:
            if error.line == line:
                return stage_of(error)
    return log.last.stage.name.lower() if log.last.formats else UNKNOWN
