"""Compares the settings that unsloth passes to its engine with those that the log shows."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.specs.profile import load_profile, profile_names
from loadcheck.specs.versions import is_release, load_versions
from loadcheck.stacks.unsloth_vllm.identities import fitting_ranks, pinned_unsloth_zoo
from loadcheck.stacks.unsloth_vllm.kv import kv_cache_dtype_of
from loadcheck.stacks.unsloth_vllm.names import SUFFIX_4BIT
from loadcheck.stacks.unsloth_vllm.refusals import FLASH_CAPABILITY

# The keyword arguments of vLLM's BitsAndBytesConfig that determine what is loaded, with the values that nf4 needs.
_NF4 = {
    "load_in_8bit": ("False",), "load_in_4bit": ("True",), "quant_type": ("nf4",), "double_quant": ("True",), "quant_storage": ("uint8",),
}  # fmt: skip
# unsloth_zoo/vllm_utils.py at 2025.2.4, load_vllm: by quantization
_LOADERS = {"nf4": ("bitsandbytes",), "16bit": ("auto", "safetensors")}


def check_engine(evidence: Evidence) -> Iterator[Finding]:
    """unsloth reads the weights from internals of vLLM's V0 engine (unsloth_zoo/vllm_utils.py, get_vllm_state_dict)."""
    reading, unsloth = evidence.attempt.reading("engine"), evidence.attempt.reading("unsloth")
    if reading is None or unsloth is None or not is_release(str(unsloth.value), load_versions().version("unsloth")):
        return
    yield evidence.finding(reading, Check.STACK, ok=reading.value == "V0", predicted="V0",
                             why=f"unsloth {unsloth.value} works only with vLLM's V0 engine",
                           remedy="unset VLLM_USE_V1, or set VLLM_USE_V1=0, before the load")  # fmt: skip


def check_load(evidence: Evidence) -> Iterator[Finding]:
    """How the checkpoint was loaded; other months of unsloth use other settings."""
    if evidence.strict_stack or pinned_unsloth_zoo(evidence.attempt):
        yield from _nf4(evidence)
        yield from _loader(evidence)
        yield from _settings(evidence)
        yield from _suffix(evidence)


def _nf4(evidence: Evidence) -> Iterator[Finding]:
    """vLLM's bitsandbytes settings in a 4-bit load: fp4 takes as many bytes as nf4, so no figure would show it."""
    for attribute, wanted in _NF4.items():
        if attribute == "double_quant" and evidence.config is None and evidence.profile is None:
            continue  # any kind of checkpoint is possible
        for reading in evidence.attempt.readings_of(attribute):
            yield evidence.finding(reading, Check.STACK, ok=reading.value in wanted, predicted=wanted[0],
                                   why="NF4 with double quantization is what was requested and predicted",
                                   remedy=f"load a checkpoint whose quantization_config has {reading.spec.name} {wanted[0].lower()}")  # fmt: skip


def _loader(evidence: Evidence) -> Iterator[Finding]:
    reading, quantization = evidence.attempt.reading("load_format"), evidence.attempt.reading("quantization")
    if reading is None:
        return
    wanted = _LOADERS.get(str(quantization.value), ()) if quantization is not None else ()
    if reading.value == "dummy":
        yield evidence.finding(reading, Check.STACK, ok=False, predicted=wanted[0] if wanted else None,
                               why="dummy weights are random numbers: no checkpoint was read",
                               remedy="load without load_format='dummy'")  # fmt: skip
    elif wanted:
        yield evidence.finding(reading, Check.STACK, ok=reading.value in wanted, predicted=wanted[0],
                               why=f"quantization {quantization.value if quantization else None} is read by the loader {wanted[0]}",
                               remedy="load with unsloth's own load_format, or give the raw output of one load")  # fmt: skip


def _settings(evidence: Evidence) -> Iterator[Finding]:
    """The settings that unsloth leaves at their defaults, and on which every figure depends (unsloth_zoo/vllm_utils.py at 2025.2.4, load_vllm)."""
    passed_on = _passed_on(evidence)
    wanted_of = {
        "kv_cache_dtype": passed_on.pop("kv_cache_dtype"),
        "device": "cuda",
        "pipeline_parallel_size": "1",
        "speculative_config": "None",
        "scheduler_steps": "1",
        "chunked_prefill": "False",  # above 32768 tokens, too: not with LoRA (vllm/engine/arg_utils.py:1126-1132 at 0.7.2)
        "remote_code": "False",
        **passed_on,
    }
    if (dtype := evidence.attempt.reading("dtype")) is not None:
        wanted_of["compute_dtype"] = str(dtype.value)
    why = "unsloth loads with {figure} {wanted}"
    yield from evidence.setting_findings(
        wanted_of, why, "load with unsloth's own settings, or give the raw output of one load"
    )
    yield from check_tokenizer(evidence)


def check_tokenizer(evidence: Evidence) -> Iterator[Finding]:
    """A failure if the engine has another tokenizer than the model's own, which neither stack requests."""
    reading, models = evidence.attempt.reading("tokenizer"), evidence.attempt.readings_of("model")
    if reading is not None and models and all(reading.value != model.value for model in models):
        yield evidence.finding(reading, Check.STACK, ok=False, predicted=str(models[-1].value),
                               why="the engine must have the model's own tokenizer: another one produces different tokens",
                               remedy="load the model with its own tokenizer, or give the raw output of one load")  # fmt: skip


def _passed_on(evidence: Evidence) -> dict[str, str]:
    """The user's settings that unsloth passes on to the engine; without a profile, any value that the card supports."""
    profile, dtype = evidence.profile, evidence.attempt.reading("kv_cache_dtype")
    if profile is None:
        capability = evidence.attempt.reading("compute_capability")
        has_8_bits = capability is not None and float(capability.value) >= FLASH_CAPABILITY
        return {"kv_cache_dtype": "fp8" if has_8_bits and dtype is not None and dtype.value == "fp8" else "auto"}
    return {
        "kv_cache_dtype": kv_cache_dtype_of(profile),
        "prefix_caching": str(profile.caches_prefixes),
    }


def _suffix(evidence: Evidence) -> Iterator[Finding]:
    """A checkpoint with a 4-bit name that was loaded in 16 bits: nothing else in the log would look wrong."""
    model, quantization = evidence.attempt.reading("model"), evidence.attempt.reading("quantization")
    if model is None or quantization is None or not str(model.value).lower().rstrip("/").endswith(SUFFIX_4BIT):
        return
    yield evidence.finding(quantization, Check.STACK, ok=quantization.value == "nf4", predicted="nf4",
                           why=f"{model.value} is a 4-bit checkpoint by its name",
                           remedy="the weights were loaded without quantization: load with load_in_4bit=True, and check that the "
                           "checkpoint's config.json has its quantization_config")  # fmt: skip


def check_rank(evidence: Evidence) -> Iterator[Finding]:
    """The KV estimate belongs to another max_lora_rank than the profile's; the remedy names the flags to check with."""
    reading, config, profile = evidence.attempt.reading("kv_estimate_bytes"), evidence.config, evidence.profile
    if reading is None or config is None or profile is None or evidence.process is not None:
        return
    if not profile.has_budget or not pinned_unsloth_zoo(evidence.attempt):
        return
    ranks = fitting_ranks(evidence.attempt, config) or [profile.max_lora_rank]
    if profile.max_lora_rank not in ranks:
        yield evidence.finding(reading, Check.STACK, ok=False, why=f"profile {profile.name} has max_lora_rank {profile.max_lora_rank}, "
                               f"but unsloth's estimate is for {ranks[0]}",
                               remedy=f"check with --max-lora-rank {ranks[0]} --lora-r {ranks[0]}")  # fmt: skip
    elif (
        evidence.assumed
        and profile.name in profile_names()
        and profile.max_lora_rank != load_profile(profile.name).max_lora_rank
    ):
        yield Finding(figure="max_lora_rank", check=Check.STACK, status=Status.SKIPPED,
                      why=f"unsloth's estimate of the KV cache is for max_lora_rank {profile.max_lora_rank}: judged as with "
                      f"--max-lora-rank {profile.max_lora_rank}")  # fmt: skip


CHECKS = (check_engine, check_load, check_rank)
