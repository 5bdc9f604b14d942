"""The lines that vLLM's V0 engine prints during its start: those of 0.7.2 and, where a line names a release, of others.

Files without a release are those of vllm 0.7.2.
"""

from __future__ import annotations

import re

from loadcheck.figures import Value
from loadcheck.logs.dialect import EndingWords
from loadcheck.logs.formats import (
    COUNT,
    DIGITS,
    NUMBER,
    Capture,
    LineFormat,
    Stage,
    exact,
    line,
    memory,
    number,
    of_model,
    part,
    repeated,
    rounded,
    share,
    text,
)
from loadcheck.units import GIB


def _dtype(text: str) -> Value:
    return text.removeprefix("torch.")


def _quantization(text: str) -> Value:
    return "nf4" if text == "bitsandbytes" else "16bit" if text == "None" else text


def _v0(_text: str) -> Value:
    """The only engine of releases that do not name it."""
    return "V0"


def _length(text: str) -> Value:
    """The number of sizes in a list of CUDA graph sizes."""
    return text.count(",") + 1


def _gib(text: str) -> Value:
    return round(float(text) * GIB)


def _pct(text: str) -> Value:
    """An argument of the server's, exact: not rounded to its decimals."""
    return 100 * float(text)


def _none(_text: str) -> Value:
    """An empty list of CUDA graph sizes."""
    return 0


FORMATS: tuple[LineFormat, ...] = (
    line("engine", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r"Initializing a (V\d) LLM engine \(v([^)\s]{1,100})\)", text("engine"), text("vllm")),
    line("engine 0.6", "vllm 0.6.6 engine/llm_engine.py:234", Stage.ENGINE, "Initializing an LLM engine",
          r"Initializing an (LLM engine) \(v([^)\s]{1,100})\)", Capture("engine", _v0), text("vllm")),
    part("engine model", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r"with config: model='([^']{0,4096})'", text("model")),
    part("engine dtype", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" dtype=(torch\.\w+), max_seq_len=(\d+)", Capture("dtype", _dtype), exact("max_model_len")),
    part("engine quantization", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" quantization=(\w+),", Capture("quantization", _quantization)),
    # LoadFormat.AUTO in Python 3.11, auto in 3.10
    part("engine load format", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" load_format=(?:LoadFormat\.)?(\w+), ", Capture("load_format", str.lower)),
    part("engine KV dtype", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r"\skv_cache_dtype=(\w+),\s", text("kv_cache_dtype")),
    part("engine device", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r"\sdevice_config=(\w+)(?::\d+)?,\s", text("device")),
    part("engine parallel", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" tensor_parallel_size=([^,\s]{1,40}),", text("tensor_parallel_size")),
    part("engine pipeline", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" pipeline_parallel_size=([^,\s]{1,40}),", text("pipeline_parallel_size")),
    part("engine speculative", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" speculative_config=(\w{1,40})", text("speculative_config")),
    part("engine draft model", "llm_engine.py:234, config.py:2079-2085", Stage.ENGINE, "Initializing a",
          r" speculative_config=SpeculativeConfig\(draft_model='([^']{1,4096})'", text("draft_model")),
    part("engine draft method", "vllm 0.9.0 config.py, to 0.33", Stage.ENGINE, "Initializing a",
          r" speculative_config=SpeculativeConfig\(method='(\w{1,40})', model='?([^',]{1,4096})'?,", text("draft_method"), text("draft_model")),
    part("engine prefix caching", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" enable_prefix_caching=(\w{1,40}),", text("prefix_caching")),
    part("engine tokenizer", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" tokenizer='([^']{0,4096})', ", text("tokenizer")),
    part("engine chunked prefill", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" chunked_prefill_enabled=(\w{1,40}),", text("chunked_prefill")),
    part("engine scheduler steps", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" num_scheduler_steps=(\w{1,40}),", text("scheduler_steps")),
    part("engine remote code", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" trust_remote_code=(\w{1,40}),", text("remote_code")),
    part("engine eager", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r" enforce_eager=(True|False), ", text("enforce_eager")),
    part("engine no graphs", "llm_engine.py:234, config.py:3318-3350", Stage.ENGINE, "Initializing a",
          r'"cudagraph_capture_sizes":(\[\]),"max_capture_size":(0)\b',
          Capture("num_cuda_graphs", _none), exact("largest_graph")),
    part("engine graph sizes", "llm_engine.py:234", Stage.ENGINE, "Initializing a",
          r'"cudagraph_capture_sizes":\[(([\d,]+))\],"max_capture_size":(\d+)',
          Capture("num_cuda_graphs", _length, longest=4096), text("graph_sizes"), exact("largest_graph")),
    repeated("API server", "entrypoints/openai/api_server.py:840", Stage.BANNER, "API server version", r"vLLM API server version \d"),
    # The server prints all its arguments; None stands for a default. No match goes on into another Namespace, or a line of many would take minutes.
    *(repeated(f"API server {key}", "entrypoints/openai/api_server.py:841", Stage.BANNER, "args: Namespace(",
               rf"args: Namespace\((?:[^N\n]|N(?!amespace\()){{0,8192}}?(?<=[ (]){key}={pattern},", capture)
      for key, pattern, capture in (("max_model_len", r"(\d{1,9})", exact("max_model_len")),
                                    ("max_num_seqs", r"(\d{1,9})", exact("max_num_seqs")),
                                    ("swap_space", r"(\d{1,5}(?:\.\d{1,3})?)", Capture("swap_bytes", _gib)),
                                    ("gpu_memory_utilization", r"([01](?:\.\d{1,6})?)", Capture("gpu_memory_utilization_pct", _pct)))),
    repeated("API server's banner", "vllm 0.25.1 entrypoints/serve/utils/api_utils.py:339", Stage.BANNER, "█  version ", r"█  version \d"),
    repeated("LoRA kernels", "punica_selector.py:18", Stage.LOADING, "Using PunicaWrapper", r"Using PunicaWrapper(?:GPU)?\b"),
    repeated("cast dtype", "config.py:2386", Stage.ENGINE, "Casting torch.", r"Casting torch\.\w{1,40} to (torch\.\w{1,40})\.",
               Capture("dtype", _dtype)),
    repeated("no FlashAttention", "platforms/cuda.py:178-185", Stage.ENGINE, "Cannot use FlashAttention-2",
               r"Cannot use FlashAttention-2 backend for (Volta and Turing) GPUs\.", text("no_flash_attention")),
    repeated("FlashAttention", "platforms/cuda.py:230", Stage.ENGINE, "Using Flash Attention backend",
               r"Using (Flash Attention) backend\.", text("attention_backend")),
    of_model("loading", "model_runner.py:1110", Stage.LOADING, "Starting to load model",
          r"Starting to load model (\S+?)\.\.\.", text("model")),
    of_model("weights", "model_runner.py:1115", Stage.WEIGHTS, "Loading model weights took",
          rf"Loading model weights took {NUMBER} GB", memory("weights_bytes")),
    of_model("weights 0.8", "vllm 0.8.2 model_runner.py:1146", Stage.WEIGHTS, "Model loading took",
          rf"Model loading took {NUMBER} Gi?B(?: memory)? and {NUMBER} seconds",
          rounded("weights_bytes"), number("weights_load_s")),
    line("profile time", "worker.py:251", Stage.PROFILE, "Memory profiling takes",
          rf"Memory profiling takes {NUMBER} seconds", number("profile_s")),
    line("profile budget", "worker.py:252-257", Stage.PROFILE, "gpu_memory_utilization (",
          rf"total_gpu_memory \({NUMBER}GiB\) x gpu_memory_utilization \({NUMBER}\) = {NUMBER}GiB",
          memory("gpu_total_bytes"), share("gpu_memory_utilization_pct"),
          memory("budget_bytes")),
    line("profile weights", "worker.py:258-267", Stage.PROFILE, "model weights take",
          rf"model weights take\s+{NUMBER}GiB", memory("weights_bytes")),
    part("profile non_torch", "worker.py:258-267", Stage.PROFILE, "non_torch_memory",
          rf"non_torch_memory(?: takes)?\s+{NUMBER}GiB", memory("non_torch_bytes")),
    part("profile activation", "worker.py:258-267", Stage.PROFILE, "activation peak memory",
          rf"activation peak memory(?: takes)?\s+{NUMBER}GiB", memory("activation_peak_bytes")),
    line("profile kv", "worker.py:258-267", Stage.PROFILED, "reserved for KV Cache is",
          rf"reserved for KV Cache is {NUMBER}GiB", memory("kv_cache_bytes")),
    line("blocks", "executor_base.py:110-112; `GPU` in 0.6, `cuda` from 0.7.3", Stage.BLOCKS, "# CPU blocks",
          rf"(?:# ?)?(?:CUDA|cuda|GPU) blocks: {DIGITS}, # CPU blocks: {DIGITS}",
          exact("num_gpu_blocks"), exact("num_cpu_blocks")),
    line("concurrency", "executor_base.py:115-116", Stage.BLOCKS, "Maximum concurrency",
          rf"Maximum concurrency for {COUNT} tokens per request: {NUMBER}x",
          exact("max_model_len"), number("max_concurrency")),
    repeated("capturing", "model_runner.py:1437; 0.7.2 of other dialects: `Capturing the model for CUDA graphs`", Stage.CAPTURE,
               "Capturing ", r"Capturing (?:the model for CUDA graphs|cudagraphs for decoding)"),
    repeated("capture progress", "model_runner.py:1484", Stage.CAPTURE, "graph shapes",
               r"graph shapes:\s{1,9}\d+%[^\r\n]{0,200}?\| \d+/(\d+)", exact("num_cuda_graphs")),
    of_model("captured", "model_runner.py:1562", Stage.CAPTURE, "Graph capturing finished",
          rf"Graph capturing finished in {DIGITS} secs, took {NUMBER} GiB",
          exact("graph_capture_s"), memory("cuda_graph_bytes")),
    line("ready", "llm_engine.py:431", Stage.READY, "init engine (profile",
          rf"init engine \(profile, create kv cache, warmup model\) took {NUMBER} s(?:econds)?(?: \(compilation: [\d.]{{1,12}} s\))?",
          number("engine_init_s")),
    # the same breakdown with one figure per line, as printed by 0.6.5 before its release (vllm pull request 10511)
    part("table time", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILE, "duration",
          rf"(?:\] |^)duration\s+{NUMBER} seconds", number("profile_s")),
    part("table total", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILE, "total_gpu_memory",
          rf"(?:\] |^)total_gpu_memory\s+{NUMBER}GiB", memory("gpu_total_bytes")),
    part("table utilization", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILE, "gpu_memory_utilization",
          rf"(?:\] |^)gpu_memory_utilization\s+{NUMBER}\s*$", share("gpu_memory_utilization_pct")),
    part("table budget", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILE, "vLLM instance can use",
          rf"the current vLLM instance can use\s+{NUMBER}GiB", memory("budget_bytes")),
    part("table kv", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILED, "available_kv_cache_memory",
          rf"(?:\] |^)available_kv_cache_memory\s+{NUMBER}GiB", memory("kv_cache_bytes")),
    # vLLM 0.6.4 (worker.py): one line
    line("profile 0.6.4", "vllm 0.6.4 worker.py", Stage.PROFILE, "total_gpu_memory=",
          rf"total_gpu_memory={NUMBER}GiB", memory("gpu_total_bytes")),
    part("profile 0.6.4 activation", "vllm 0.6.4 worker.py", Stage.PROFILE, "peak_torch_memory=",
          rf"peak_torch_memory={NUMBER}GiB", memory("peak_torch_bytes")),
    part("profile 0.6.4 non_torch", "vllm 0.6.4 worker.py", Stage.PROFILE, "non_torch_memory=",
          rf"non_torch_memory={NUMBER}GiB", memory("non_torch_bytes")),
    part("profile 0.6.4 kv", "vllm 0.6.4 worker.py", Stage.PROFILED, "kv_cache_size=",
          rf"kv_cache_size={NUMBER}GiB", memory("kv_cache_bytes")),
    # only after a size: a server also prints its arguments (api_server.py:841), which are settings, not measurements
    part("profile 0.6.4 utilization", "vllm 0.6.4 worker.py", Stage.PROFILE, "gpu_memory_utilization=",
          rf"GiB,? {{0,9}}gpu_memory_utilization={NUMBER}", share("gpu_memory_utilization_pct")),
)  # fmt: skip

ENDINGS: tuple[EndingWords, ...] = tuple(
    (literal, re.compile(pattern))
    for literal, pattern in (
        ("No available memory", r"No available memory\b.*"),
        ("max seq len", r"The model's max seq len \(\d+\) is larger than the maximum number of tokens.*"),
        ("max_num_batched_tokens (", r"max_num_batched_tokens \(\d+\) must be greater than or equal to max_num_seqs.*"),
        ("Error in memory profiling", r"Error in memory profiling\..*"),
        ("Too large swap space", r"Too large swap space.*"),
        ("is greater than max_lora_rank", r"LoRA rank \d+ is greater than max_lora_rank.*"),
    )
)

LEADS = ("the current vLLM instance", "Initializing a V", "Capturing", "Memory profiling results")
HEADS = (
    "Processed prompts", "(?:# ?)?(?:CUDA|cuda|GPU) blocks", "Maximum concurrency", "Model loading took", "Loading ", "Starting to load",
    "Memory profiling", "model weights take", "Graph capturing", "init engine",
)  # fmt: skip
