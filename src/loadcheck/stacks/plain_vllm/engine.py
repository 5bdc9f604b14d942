"""The load by vLLM alone: its LLM class, one answer, and events with the measurements."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from loadcheck.logs.events import Answered, Done, Loaded
from loadcheck.plan import LoadPlan
from loadcheck.specs.settings import engine_arguments
from loadcheck.stacks.engine_common import expectation, seconds_since
from loadcheck.stacks.plain_vllm import PACKAGES
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.unsloth_vllm import startup, vllm_start
from loadcheck.stacks.unsloth_vllm.device import memory_now, record_device, record_peak
from loadcheck.stacks.unsloth_vllm.engine import record_imports
from loadcheck.stacks.unsloth_vllm.environment import check_visible_devices, set_environment
from loadcheck.stacks.unsloth_vllm.kv import kv_cache_dtype_of
from loadcheck.stacks.unsloth_vllm.session import Generated
from loadcheck.stacks.unsloth_vllm.vllm_model import leave_process_group

SWITCH = {"default": None, "on": True, "off": False}


def run(plan: LoadPlan, directory: Path, recorder: Recorder) -> None:
    """Run the plan with the checkpoint in `directory`; UnsupportedMachine without a GPU that this stack can use."""
    check_visible_devices()
    startup.check_variables()
    set_environment()
    os.environ.pop("PYTORCH_CUDA_ALLOC_CONF", None)  # the prediction assumes torch's default
    startup.begin_reading(directory)
    _import_stack(recorder)
    record_device(recorder)
    llm = _load(plan, directory, recorder)
    _answer(plan, llm, recorder)
    record_peak(recorder)
    recorder.record(Done())
    leave_process_group()


def _import_stack(recorder: Recorder) -> None:
    start_s = time.monotonic()
    with startup.paused_collector():
        import vllm  # noqa: F401
    record_imports(start_s, PACKAGES, recorder)


def arguments(plan: LoadPlan, directory: Path) -> dict[str, Any]:
    """The arguments of `vllm.LLM` (vllm/engine/arg_utils.py:90-200); vLLM's defaults apply to those that are missing or None."""
    profile = plan.profile
    loader = "bitsandbytes" if plan.quantization == "nf4" else None
    return {
        "model": str(directory.resolve()),
        "quantization": loader,
        "load_format": loader or "auto",
        "max_model_len": profile.max_seq_length,
        "gpu_memory_utilization": profile.gpu_memory_utilization,
        "kv_cache_dtype": kv_cache_dtype_of(profile),
        "enable_chunked_prefill": SWITCH[profile.chunked_prefill],
        "enable_prefix_caching": profile.caches_prefixes,
        **engine_arguments(profile),
    }


def _load(plan: LoadPlan, directory: Path, recorder: Recorder) -> Any:
    from vllm import LLM

    start_s = time.monotonic()
    if startup.enabled("inspection"):
        vllm_start.inspect_in_process()
    if startup.enabled("loopback"):
        vllm_start.stay_on_this_machine()
    llm = LLM(**arguments(plan, directory))
    recorder.record(Loaded(load_s=seconds_since(start_s), **memory_now()))
    return llm


def _answer(plan: LoadPlan, llm: Any, recorder: Recorder) -> None:
    """One greedy answer to the profile's question."""
    from vllm import SamplingParams

    generation, tokenizer = plan.profile.generation, llm.get_tokenizer()
    messages = [{"role": "user", "content": generation.prompt}]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    start_s = time.monotonic()
    sampling = SamplingParams(temperature=0, max_tokens=generation.max_new_tokens)
    output = llm.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)[0]
    token_ids = list(output.outputs[0].token_ids)
    generated = Generated(token_ids, adapter_enabled=False, first_token_unix_s=output.metrics.first_token_time)
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    recorder.record(
        Answered(
            prompt=generation.prompt,
            text=text,
            num_prompt_tokens=len(ids),
            num_new_tokens=len(token_ids),
            token_ids_sha256=generated.sha256,
            generate_s=seconds_since(start_s),
            first_token_unix_s=generated.first_token_unix_s,
            adapter_enabled=False,
            **expectation(plan.profile, text),
            **memory_now(),
        )
    )
