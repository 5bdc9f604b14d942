"""Sample logs like those found in public, with our own figures: printed by the formulas, then reworded as other versions print them.

Each has the line formats of one public log, whose file name is in parentheses. Every identity holds, unless it does not in that public
log either.
"""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from loadcheck.logs.event_lines import PREFIX
from loadcheck.plan import make_plan
from loadcheck.predict import Card, Prediction, card_from_table
from loadcheck.specs.profile import load_profile
from loadcheck.stacks.unsloth_vllm.slots import slots_only
from loadcheck.units import GIB, to_gib
from tests import fake_engine
from tests.cases import predict
from tests.conftest import SHARED_LOGS

PROFILE = "llama31-8b-instruct-4bit"


def printed_load(card: Card, ram_bytes: int, changes: dict[str, Any]) -> str | None:
    """What a load prints, without the events of our own engine; None if the settings do not fit."""
    plan = make_plan(load_profile(PROFILE, changes | {"weights": "synthetic"}))
    if not predict(plan.config, plan.profile, card, ram_bytes).fits:
        return None
    out = io.StringIO()
    with redirect_stdout(out):
        assert fake_engine.load(plan, card, ram_bytes) == 0
    return "".join(line for line in out.getvalue().splitlines(keepends=True) if PREFIX not in line)


def _load(gpu: str, name: str, **changes: Any) -> str:
    card = card_from_table(gpu)
    text = printed_load(replace(card, name=name, non_torch_bytes=card.assumed_non_torch_bytes), 11 * GIB, changes)
    assert text is not None
    return text


def _edited(text: str, *changes: tuple[str, str]) -> str:
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    return text


def _up_to(text: str, words: str) -> str:
    """The lines up to the one with these words."""
    lines = text.splitlines(keepends=True)
    return "".join(lines[: next(number for number, line in enumerate(lines) if words in line) + 1])


# ------------------------------------------------------------------------------------------------------- loads that went well


def _vllm_0_7_1(**changes: Any) -> str:
    """unsloth 2025.2.4 with vLLM 0.7.1 on a T4, a week before the pinned stack (nb_2025-02-06_Kaggle_…)."""
    return _edited(_load("T4", "Tesla T4", **changes), ("2025.2.5", "2025.2.4"), ("v0.7.2", "v0.7.1"), (r"INFO (?=\w)", "INFO 02-06 14:27:55 "),
                   ("llm_engine.py:234", "llm_engine.py:232"), ("worker.py:267", "worker.py:266"), ("executor_base.py:110", "executor_base.py:108"),
                   ("executor_base.py:115", "executor_base.py:113"), ("model_runner.py:1115", "model_runner.py:1116"))  # fmt: skip


def _vllm_0_8(
    gpu: str = "T4", name: str = "Tesla T4", unsloth: str = "2025.5.3", vllm: str = "0.8.5.post1", **changes: Any
) -> str:
    """vLLM 0.8: sources in brackets, and other words for weights and blocks (nb_2025-05-…, nb_2025-09-15_…)."""
    text = _edited(_load(gpu, name, **changes), ("2025.2.5", unsloth), ("v0.7.2", f"v{vllm}"), ("4.48.2", "4.51.3"), ("2.5.1", "2.6.0"),
                   (r"INFO (\w+\.py:\d+)\]", r"INFO 05-13 07:11:02 [\1]"), ("# CUDA blocks", "# cuda blocks"),
                   (r"Loading model weights took ([\d.]+) GB", r"Model loading took \1 GiB and 61.204724 seconds"))  # fmt: skip
    return _edited(
        text,
        (r"Transformers: ([\d.]+\d)\.", rf"Transformers: \1. vLLM: {vllm}."),
        (r"GPU: (.+)\. Max memory", r"\1. Num GPUs = 1. Max memory"),
    )


def _with_slots_as_weights(text: str, gpu: str, **changes: Any) -> str:
    """vLLM 0.8 and later count the LoRA slots as weights, and have that much less KV cache."""
    plan = make_plan(load_profile(PROFILE, changes | {"weights": "synthetic"}))
    figures = predict(plan.config, plan.profile, card_from_table(gpu), 11 * GIB).figures
    assert figures.weights_bytes is not None and figures.kv_cache_bytes is not None and figures.num_gpu_blocks
    slots = slots_only(plan.config, plan.profile.max_lora_rank)
    weights, cache = figures.weights_bytes + slots, figures.kv_cache_bytes - slots
    blocks = figures.num_gpu_blocks * cache // figures.kv_cache_bytes
    return _edited(text, (r"Model loading took [\d.]+", f"Model loading took {to_gib(weights):.4f}"),
                   (r"model weights take [\d.]+GiB", f"model weights take {to_gib(weights):.2f}GiB"),
                   (r"KV Cache is [\d.]+GiB", f"KV Cache is {to_gib(cache):.2f}GiB"), (r"# cuda blocks: \d+", f"# cuda blocks: {blocks}"),
                   (r"per request: [\d.]+x", f"per request: {16 * blocks / plan.profile.max_seq_length:.2f}x"))  # fmt: skip


def _mistral() -> str:
    """A stack that counts the slots as weights (nb_2025-05-13_…_Mistral_v0_3_7B_…)."""
    changes: dict[str, Any] = {"model": "mistral-7b-instruct-v0.3", "max_seq_length": 1024}
    return _with_slots_as_weights(_vllm_0_8(**changes), "T4", **changes)


def _vision() -> str:
    """vLLM 0.9 (nb_2025-09-15_Qwen2_5_7B_VL_…)."""
    return _vllm_0_8(
        unsloth="2025.9.4", vllm="0.9.2", model="qwen2.5-7b-instruct", max_seq_length=2048, gpu_memory_utilization=0.9
    )


def _one_line() -> str:
    """Pasted with a space for each line break (web_2025-08-29_4090D_…)."""
    text = _vllm_0_8("RTX4090", "NVIDIA GeForce RTX 4090", unsloth="2025.8.6", model="qwen2.5-1.5b-instruct")
    return " ".join(text.replace("`", "").split()) + "\n"


# ------------------------------------------------------------------------------------------------- loads that failed, and no loads


def _wrong_model_name() -> str:
    """Llama's log with the model named gemma (nb_2025-03-18_…_Gemma3_1B_…)."""
    return _vllm_0_7_1().replace("llama-3.1-8b-instruct-bnb-4bit", "gemma-3-1b-it")


def _length_cut() -> str:
    """A card in use: unsloth cuts the length to what it already was, and no engine line follows (gh_unsloth-2298_…)."""
    text = _up_to(_vllm_0_8("L4", "NVIDIA L4"), "vLLM loading")
    return _edited(
        text, ("Unsloth: vLLM loading", fake_engine.CUT.format(cut=512).replace("\\", r"\\") + "Unsloth: vLLM loading")
    )


@cache
def _qwen_on_8_gib() -> Prediction:
    """A 7B model in 4-bit on an 8 GiB card: weights and activation peak leave no room."""
    plan = make_plan(
        load_profile(PROFILE, {"model": "qwen2.5-7b-instruct", "weights": "synthetic", "max_seq_length": 4096})
    )
    card = Card(
        name="NVIDIA GeForce RTX 4060 Laptop GPU", compute_capability=8.9, total_bytes=8 * GIB, free_bytes=8 * GIB
    )
    return predict(plan.config, plan.profile, card, 11 * GIB)


def _profile_lines(
    total_gib: float, share: float, weights_gib: float, non_torch_gib: float, activation_gib: float
) -> tuple[str, str, float]:
    """vLLM's two sentences about its profile run, and the KV cache left in GiB."""
    budget_gib = total_gib * share
    cache_gib = budget_gib - weights_gib - non_torch_gib - activation_gib
    use = f"the current vLLM instance can use total_gpu_memory ({total_gib:.2f}GiB) x gpu_memory_utilization ({share:.2f}) = {budget_gib:.2f}GiB"
    parts = (f"model weights take {weights_gib:.2f}GiB; non_torch_memory takes {non_torch_gib:.2f}GiB; PyTorch activation peak memory takes "
             f"{activation_gib:.2f}GiB; the rest of the memory reserved for KV Cache is {cache_gib:.2f}GiB.")  # fmt: skip
    return use, parts, cache_gib


def _qwen_amounts() -> tuple[float, float]:
    figures = _qwen_on_8_gib().figures
    assert figures.weights_bytes is not None and figures.activation_peak_bytes is not None
    return to_gib(figures.weights_bytes), to_gib(figures.activation_peak_bytes)


def _negative_cache() -> str:
    """Plain vLLM with a negative KV cache; the traceback is cut off (gh_vllm-13882_…)."""
    weights_gib, activation_gib = _qwen_amounts()
    use, parts, _ = _profile_lines(8.0, 0.70, weights_gib, 0.03, activation_gib)
    return (
        f"INFO 02-26 09:54:02 model_runner.py:1115] Loading model weights took {weights_gib:.4f} GB\n"
        "INFO 02-26 09:54:05 worker.py:267] Memory profiling takes 3.25 seconds\n"
        f"INFO 02-26 09:54:05 worker.py:267] {use}\nINFO 02-26 09:54:05 worker.py:267] {parts}\n"
        "INFO 02-26 09:54:05 executor_base.py:111] # cuda blocks: 0, # CPU blocks: 4681\n"
        "INFO 02-26 09:54:05 executor_base.py:116] Maximum concurrency for 4096 tokens per request: 0.00x\n"
        '[rank0]: Traceback (most recent call last):\n[rank0]:   File "<frozen runpy>", line 198, in _run_module_as_main\n'
    )


def _negative_non_torch() -> str:
    """Other processes freed memory during the profile run; copied without prefixes, and wrapped (web_2025_RTX3050-6GB_…)."""
    weights_gib, activation_gib = _qwen_amounts()
    use, parts, _ = _profile_lines(6.0, 0.80, weights_gib, -0.51, activation_gib)
    return f"{use}\n{parts}".replace("; the rest", ";\nthe rest") + (
        "\n# cuda blocks: 0, # CPU blocks: 4681\nMaximum concurrency for 4200 tokens per request: 0.00x\n"
    )


def _shared_device() -> str:
    """A device that other processes use, wrapped, in the log format of a service (web_2026_JetsonOrin_…)."""
    weights_gib, activation_gib = _qwen_amounts()
    _, parts, _ = _profile_lines(30.0, 0.40, weights_gib, 8.29, activation_gib)
    indent = " " * 31
    return (
        f"22:07:58  INFO [model_runner.py:1115] Model loading took {weights_gib:.4f} GiB and 7.243515 seconds\n"
        "22:12:16  INFO [worker.py:295] Memory profiling takes 257.11 seconds\n"
        f"22:12:16  INFO [worker.py:295] {parts}\n".replace("; PyTorch", f";\n{indent}PyTorch").replace(
            "; the rest", f";\n{indent}the rest"
        )
        + "22:12:16  INFO [executor_base.py:118] Maximum concurrency for 4096 tokens per request: 0.00x\n"
        "22:12:16.774710Z [error] vLLM model 'qwen2.5-7b-instruct' failed: No available memory\n"
        f"{indent}for the cache blocks. Try increasing `gpu_memory_utilization` when\n{indent}initializing the engine. [vllm_runtime.manager]\n"
    )


def _two_workers() -> str:
    """Two cards: each process prints its weights, and the requested length does not fit (gh_vllm-13061_…)."""
    weights_gib, _ = _qwen_amounts()
    took = f"INFO 02-11 07:40:45 model_runner.py:1115] Loading model weights took {weights_gib:.4f} GB\n"
    return (
        f"(VllmWorkerProcess pid=1786) {took}{took}"
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV cache (81536). "
        "Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.\n"
        "ERROR 02-11 07:40:49 multiproc_worker_utils.py:124] Worker VllmWorkerProcess pid 1786 died, exit code: -15\n"
    )


def _in_16_bits(length: int) -> str:
    """Plain vLLM in 16 bits on a 22 GiB card, up to the line of its blocks (web_2025-03-01_A10-22_…)."""
    plan = make_plan(
        load_profile(PROFILE, {"model": "llama-3.1-8b-instruct", "weights": "synthetic", "load_in_4bit": False})
    )
    figures = predict(plan.config, plan.profile, card_from_table("A10G"), 11 * GIB).figures
    assert figures.weights_bytes is not None
    weights_gib = to_gib(figures.weights_bytes)
    use, parts, cache_gib = _profile_lines(22.06, 0.90, weights_gib, 0.05, 0.22)
    blocks = int(cache_gib * 512)  # 2 MiB each
    return (
        f"INFO 03-25 21:32:47 model_runner.py:1115] Loading model weights took {weights_gib:.4f} GB\n"
        "INFO 03-25 21:32:48 worker.py:267] Memory profiling takes 0.71 seconds\n"
        f"INFO 03-25 21:32:48 worker.py:267] {use}\nINFO 03-25 21:32:48 worker.py:267] {parts}\n"
        f"INFO 03-25 21:32:48 executor_base.py:110] # CUDA blocks: {blocks}, # CPU blocks: 2048\n"
        f"INFO 03-25 21:32:48 executor_base.py:115] Maximum concurrency for {length} tokens per request: {16 * blocks / length:.2f}x\n"
    )


def _full_length() -> str:
    """The same with the model's full length, which does not fit (web_2025-03-25_A10G-22_…)."""
    text = _in_16_bits(131072)
    blocks = int(re.findall(r"CUDA blocks: (\d+)", text)[0])
    return text + (
        "ERROR 03-25 21:32:48 engine.py:387] The model's max seq len (131072) is larger than the maximum number of tokens that can be "
        f"stored in KV cache ({16 * blocks}). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing "
        "the engine.\nERROR 03-25 21:32:48 engine.py:387] Traceback (most recent call last):\n"
    )


def _v1() -> str:
    """vLLM's V1 engine, which prints no breakdown, cut off before it is ready (gh_vllm-17122_…)."""
    blocks = 9916
    return (
        "INFO 04-24 16:32:59 [loader.py:458] Loading weights took 2.95 seconds\n"
        "INFO 04-24 16:33:00 [gpu_model_runner.py:1316] Model loading took 14.9889 GiB and 3.652170 seconds\n"
        "INFO 04-24 16:33:06 [backends.py:430] Dynamo bytecode transform time: 6.41 s\n"
        "INFO 04-24 16:33:12 [monitor.py:33] torch.compile takes 6.41 s in total\n"
        f"INFO 04-24 16:33:13 [kv_cache_utils.py:634] GPU KV cache size: {16 * blocks:,} tokens\n"
        f"INFO 04-24 16:33:13 [kv_cache_utils.py:637] Maximum concurrency for 32,768 tokens per request: {16 * blocks / 32768:.2f}x\n"
    )


def _repeated() -> str:
    """A notebook that shows the last lines of a server again and again (nb_2025-04-29_…)."""
    weights = "INFO 04-29 18:43:35 [gpu_model_runner.py:1347] Model loading took 5.5859 GiB and 20.094828 seconds\n"
    concurrency = (
        "INFO 04-29 18:44:51 [kv_cache_utils.py:637] Maximum concurrency for 10,000 tokens per request: 16.71x\n"
    )
    return (
        3 * weights
        + "INFO 04-29 18:43:49 [backends.py:430] Dynamo bytecode transform time: 13.67 s\n"
        + 9 * concurrency
    )


def _handwritten() -> str:
    """Not a run: lines as people quote them, with round numbers (neg_fabricated_…)."""
    return (
        fake_engine.BANNER.format(
            family="Qwen2", gpu="NVIDIA A100-SXM4-40GB", total=39.564, capability="8.0", bfloat16="TRUE"
        )
        + "Unsloth: vLLM loading unsloth/Qwen2.5-3B-Instruct with actual GPU utilization = 60%\n"
        "Loading checkpoint shards: 100%|████████████████| 2/2 [00:08<00:00,  4.30s/it]\n"
        "trainable params: 17,838,080 || all params: 3,103,549,440 || trainable%: 0.5749\n"
    )


def _notes() -> str:
    """Two loads in the comments of a script (web_V100-16_opt6.7b_…)."""
    loads = [_profile_lines(15.77, 0.90, *amounts)[1] for amounts in ((10.43, 0.07, 0.85), (12.40, 0.07, 0.38))]
    return "".join(f"    # example {load}\n\n".replace("; ", "; \n    # ") for load in loads).replace(
        "# example ", "# example\n    # "
    )


SAMPLES: dict[str, Callable[[], str]] = {
    "vllm 0.7.1 llama": _vllm_0_7_1,
    "vllm 0.7.1 phi-4": lambda: _vllm_0_7_1(model="phi-4", gpu_memory_utilization=0.8),
    "vllm 0.7.1 qwen": lambda: _vllm_0_7_1(model="qwen2.5-7b-instruct"),
    "vllm 0.8 llama": lambda: _vllm_0_8(model="llama-3.2-3b-instruct", max_seq_length=2048),
    "vllm 0.8 mistral": _mistral,
    "vllm 0.9 vision": _vision,
    "one line": _one_line,
    "wrong model name": _wrong_model_name,
    "length cut": _length_cut,
    "negative cache": _negative_cache,
    "negative non_torch": _negative_non_torch,
    "shared device": _shared_device,
    "two workers": _two_workers,
    "ends after blocks": lambda: _in_16_bits(4096),
    "full length": _full_length,
    "v1": _v1,
    "repeated": _repeated,
    "handwritten": _handwritten,
    "notes": _notes,
}


sample_text = cache(lambda name: SAMPLES[name]())


def with_public_logs(ours: Sequence[Any], public: Sequence[Any]) -> list[Any]:
    """Our cases, and those of the public logs if they are on this machine (they are not ours to commit)."""
    return [*ours, *public] if SHARED_LOGS.is_dir() else [*ours]


def sample_log(name: str, folder: Path) -> Path:
    """The path of a sample, written into the folder, or of the public log with this file name."""
    if name not in SAMPLES:
        return SHARED_LOGS / name
    path = folder / f"{name.replace(' ', '-')}.txt"
    path.write_text(sample_text(name), encoding="utf-8")
    return path
