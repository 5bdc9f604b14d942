"""An engine that prints what unsloth and vLLM would print on a T4, by the formulas.

Environment variables make it deviate: FAKE_NON_TORCH_BYTES is added to non_torch; FAKE_SPIKE_BYTES is added to the peak during graph
capture; FAKE_MOST_SEQUENCES is the most sequences that it can capture graphs for; FAKE_WORDS are printed and end the load.
"""

import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from loadcheck.logs.event import Event
from loadcheck.logs.event_lines import format_event
from loadcheck.logs.events import (
    Answered,
    AnsweredAfterTraining,
    Attached,
    Device,
    Done,
    Imported,
    Loaded,
    Peak,
    SavedAdapter,
    Slots,
    Stepped,
    Trained,
    WeightsReady,
)
from loadcheck.plan import LoadPlan, plan_from_json
from loadcheck.predict import Card, Case, Prediction, card_from_table
from loadcheck.specs.profile import Profile
from loadcheck.specs.versions import load_versions
from loadcheck.stacks.unsloth_vllm.graphs import capture_sizes
from loadcheck.stacks.unsloth_vllm.plan import EnginePlan
from loadcheck.stacks.unsloth_vllm.prediction import plan_of, predict_from_plan
from loadcheck.units import GIB, to_gib

RAM_BYTES = 11 * GIB
BANNER = """\
==((====))==  Unsloth 2025.2.5: Fast {family} patching. Transformers: 4.48.2.
   \\\\   /|    GPU: {gpu}. Max memory: {total:.3f} GB. Platform: Linux.
O^O/ \\_/ \\    Torch: 2.5.1+cu124. CUDA: {capability}. CUDA Toolkit: 12.4. Triton: 3.1.0
\\        /    Bfloat16 = {bfloat16}. FA [Xformers = 0.0.28.post3. FA2 = False]
"""
CUT = """\
Unsloth: Your GPU cannot handle sequence lengths of {cut} due to limited GPU memory.
Unsloth: Your GPU can only handle approximately the maximum sequence length of {cut}.
"""
PLAN = """\
Unsloth: vLLM loading {model} with actual GPU utilization = {utilization}%
Unsloth: Your GPU has CUDA compute capability {capability} with VRAM = {total:.2f} GB.
Unsloth: Using conservativeness = {conservativeness}. Chunked prefill tokens = {length}. Num Sequences = {sequences}.
Unsloth: vLLM's KV Cache can use up to {estimate} GB. Also swap space = {swap} GB.
"""
ENGINE = """\
INFO llm_engine.py:234] Initializing a V0 LLM engine (v0.7.2) with config: model='{model}', dtype=torch.{dtype}, max_seq_len={length}, \
download_dir=None, quantization={quantization}, enforce_eager={eager}, kv_cache_dtype={kv_dtype}, enable_prefix_caching={prefixes}, compilation_config={{"level":0,\
"cudagraph_capture_sizes":{sizes},"max_capture_size":{largest}}}, use_cached_outputs=False,
INFO model_runner.py:1110] Starting to load model {model}...
INFO model_runner.py:1115] Loading model weights took {weights:.4f} GB
INFO worker.py:267] Memory profiling takes 11.34 seconds
INFO worker.py:267] the current vLLM instance can use total_gpu_memory ({total:.2f}GiB) x gpu_memory_utilization ({share:.2f}) = {budget:.2f}GiB
INFO worker.py:267] model weights take {weights:.2f}GiB; non_torch_memory takes {non_torch:.2f}GiB; PyTorch activation peak memory \
takes {activation:.2f}GiB; the rest of the memory reserved for KV Cache is {kv:.2f}GiB.
INFO executor_base.py:110] # CUDA blocks: {blocks}, # CPU blocks: {cpu_blocks}
INFO executor_base.py:115] Maximum concurrency for {length} tokens per request: {concurrency:.2f}x
"""
CAPTURE = "INFO model_runner.py:1434] Capturing cudagraphs for decoding. Capturing CUDA graph shapes: 100%|██| {graphs}/{graphs}\n"
CAPTURED = "INFO model_runner.py:1562] Graph capturing finished in 41 secs, took {graph_gib:.2f} GiB\n"
READY = "INFO llm_engine.py:431] init engine (profile, create kv cache, warmup model) took 54.71 seconds\n"
PATCHED = "Unsloth 2025.2.5 patched {layers} layers with {qkv} QKV layers, {o} O layers and {mlp} MLP layers.\n"


def command(step: str, run_dir: Path) -> list[str]:
    """A process that prints a step's output and exits with its code. The output is made here, as starting another Python is slow."""
    with redirect_stdout(StringIO()) as printed:
        exit_code = _run(step, run_dir)
    return ["/bin/sh", "-c", 'printf %s "$1"; exit "$2"', "engine", printed.getvalue(), str(exit_code)]


def _run(step: str, run_dir: Path) -> int:
    if step == "prepare":
        _event(WeightsReady(source=_plan(run_dir).profile.weights))
        return 0
    known = replace(card_from_table("T4"), name="Tesla T4")
    assert known.non_torch_bytes is not None
    card = replace(known, non_torch_bytes=known.non_torch_bytes + int(os.environ.get("FAKE_NON_TORCH_BYTES", "0")))
    return load(_plan(run_dir), card, RAM_BYTES)


def _plan(run_dir: Path) -> LoadPlan:
    return plan_from_json(json.loads((run_dir / "plan.json").read_text()))


def load(plan: LoadPlan, card: Card, ram_bytes: int) -> int:
    """Print a load on this card, and return its exit code."""
    profile, config = plan.profile, plan.config
    pins = load_versions()
    _event(
        Imported(
            import_s=1.0, versions={name: pin.version for name, pin in pins.pins.items()}, cuda=pins.version("cuda")
        )
    )
    _event(Device(gpu_name=card.name, compute_capability=str(card.compute_capability), device_total_bytes=card.total_bytes,
                  device_free_bytes=card.free_bytes, ram_available_bytes=ram_bytes))  # fmt: skip
    _say(BANNER, family=plan.config.model_type.capitalize(),
         gpu=card.name, total=to_gib(card.total_bytes), capability=card.compute_capability,
         bfloat16=str(card.compute_capability >= 8).upper())  # fmt: skip
    if "FAKE_WORDS" in os.environ:
        _say("{words}\n", words=os.environ["FAKE_WORDS"])
        return 1
    case = Case(config=config, profile=profile, card=card, ram_available_bytes=ram_bytes)
    decided = plan_of(case)
    model = f"unsloth/{plan.model_name}" + ("-bnb-4bit" if profile.load_in_4bit else "")
    if decided.cut_printed is not None:
        _say(CUT, cut=decided.cut_printed)
    _say(PLAN, model=model, utilization=round(100 * decided.utilization, 2), conservativeness=profile.conservativeness,
         length=decided.max_model_len, sequences=decided.max_num_seqs, estimate=round(to_gib(decided.kv_estimate_bytes), 2),
         capability=card.compute_capability, total=to_gib(card.total_bytes), swap=decided.swap_bytes // GIB)  # fmt: skip
    prediction = predict_from_plan(case, decided)
    error = _engine(model, profile, card, decided, prediction)
    if error is not None and "memory" in error:  # unsloth_zoo/vllm_utils.py:984-1016
        fewer = replace(decided, max_num_seqs=int(0.75 * decided.max_num_seqs))
        _say("Unsloth: Retrying vLLM to process {n} sequences and {length} tokens in tandem.\nError:\n{error}\n",
             n=fewer.max_num_seqs, length=fewer.max_model_len, error=error)  # fmt: skip
        prediction = predict_from_plan(case, fewer)
        error = _engine(model, profile, card, fewer, prediction)
    if error is not None:
        _say("Traceback (most recent call last):\nRuntimeError: {error}\n", error=error)
        return 1
    _finish(profile, prediction)
    return 0


def _engine(model: str, profile: Profile, card: Card, plan: EnginePlan, prediction: Prediction) -> str | None:
    """One start of vLLM: the error that ends it, or None."""
    figures = prediction.figures
    says: Any = {obstacle.short: obstacle.engine_says for obstacle in prediction.obstacles}
    if "batch" in says:
        return str(says["batch"])
    sizes = [] if profile.enforce_eager else capture_sizes(plan.max_num_seqs)[::-1]
    _say(ENGINE, model=model, total=to_gib(card.total_bytes), quantization="bitsandbytes" if profile.load_in_4bit else "None",
         dtype="bfloat16" if card.compute_capability >= 8 else "float16", length=plan.max_model_len, eager=profile.enforce_eager, sizes=str(sizes).replace(" ", ""),
         largest=max(sizes, default=0), kv_dtype="fp8" if profile.float8_kv_cache else "auto", prefixes=profile.caches_prefixes, weights=_gib(figures.weights_bytes), share=plan.utilization,
         budget=_gib(figures.budget_bytes), non_torch=_gib(figures.non_torch_bytes),
         activation=_gib(figures.activation_peak_bytes), kv=_gib(figures.kv_cache_bytes), blocks=figures.num_gpu_blocks,
         cpu_blocks=figures.num_cpu_blocks, concurrency=figures.max_concurrency)  # fmt: skip
    if "kv_cache" in says:
        return str(says["kv_cache"])
    if sizes:
        _say(CAPTURE, graphs=len(sizes))
    assert figures.peak_device_bytes is not None
    spiked = figures.peak_device_bytes + int(os.environ.get("FAKE_SPIKE_BYTES", "0")) > card.total_bytes
    if spiked or plan.max_num_seqs > int(os.environ.get("FAKE_MOST_SEQUENCES", "1000")):
        return f"CUDA out of memory. Tried to allocate 112.00 MiB. GPU 0 has a total capacity of {to_gib(card.total_bytes):.2f} GiB."
    if sizes:
        _say(CAPTURED, graph_gib=_gib(figures.cuda_graph_bytes))
    _say(READY)
    return None


def _finish(profile: Profile, prediction: Prediction) -> None:
    figures = prediction.figures
    _event(Loaded(load_s=1.0))
    if profile.adapters is not None:
        _say(
            PATCHED,
            layers=figures.patched_layers,
            qkv=figures.patched_qkv,
            o=figures.patched_o,
            mlp=figures.patched_mlp,
        )
        _event(Attached(trainable_params=figures.trainable_params, total_params=figures.total_params,
                        adapter_bytes=figures.adapter_bytes, adapter_sha256="a0" * 32))  # fmt: skip
    _event(Slots(lora_slots_bytes=figures.lora_slots_bytes))
    _event(Answered(prompt=profile.generation.prompt, text="Paris.", num_new_tokens=2, expected="Paris", found=True,
                    adapter_enabled=profile.adapters is not None, token_ids_sha256="b0" * 32))  # fmt: skip
    if profile.training.steps:
        losses = [2.0 - step / profile.training.steps for step in range(profile.training.steps)]
        for step, loss in enumerate(losses):
            _event(Stepped(step=step, loss=loss))
        _event(Trained(first_loss=losses[0], last_loss=losses[-1], adapter_changed=True, base_unchanged=True))
        _event(
            AnsweredAfterTraining(
                prompt=profile.generation.prompt, text="Paris.", num_new_tokens=2, expected=None, found=None,
                adapter_enabled=profile.adapters is not None, token_ids_sha256="b1" * 32,
            )
        )  # fmt: skip
        _event(SavedAdapter(same_weights=True, num_same_tokens=2, num_new_tokens=2))
    _event(Peak(peak_device_bytes=figures.peak_device_bytes))
    _event(Done())


def _gib(num_bytes: int | None) -> float:
    assert num_bytes is not None
    return to_gib(num_bytes)


def _say(text: str, **values: Any) -> None:
    sys.stdout.write(text.format(**values))


def _event(event: Event) -> None:
    print(format_event(event))
