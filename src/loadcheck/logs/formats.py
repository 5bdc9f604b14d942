"""Every line format that a load log says a figure in, as data.

Sources are the pinned packages: `vllm_utils.py` is that of unsloth_zoo 2025.2.4, `llama.py` is unsloth/models/llama.py at
2025.2.5, everything else is vllm 0.7.2; dialects of other versions name the version. A format is searched for anywhere in a
line, as progress bars, prefixes and one-line pastes put anything before and after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from loadcheck.figures import Value
from loadcheck.units import GIB


class Stage(IntEnum):
    """How far a load has come, in the order of its log. A line of an earlier stage begins a new attempt."""

    BANNER = 1
    PLAN = 2
    ENGINE = 3
    LOADING = 4
    WEIGHTS = 5
    PROFILE = 6
    PROFILED = 7
    BLOCKS = 8
    CAPTURE = 9
    READY = 10
    ADAPTERS = 11
    TRAINING = 12


# Printed once for the whole run, so it belongs to every attempt of it.
RUN_STAGES = frozenset({Stage.BANNER, Stage.PLAN, Stage.ADAPTERS})


@dataclass(frozen=True, slots=True)
class Capture:
    """What one group of a format's pattern says: which figure, how to read it, and with which precision.

    Attributes:
        decimals: count the printed decimals (the value stands for an interval); False where the value is exact.
        longest: characters that a group may have to be taken for the figure; no log prints a number of more than 20.
        least: decimals at least, where the engine rounds to so many and prints no trailing zeros (vLLM's V1: round(x, 2)).
        shift: added to the count of decimals, where the log prints the figure in another unit.
    """

    attribute: str
    convert: Callable[[str], Value]
    decimals: bool = False
    shift: int = 0
    least: int = 0
    longest: int = 20


@dataclass(frozen=True, slots=True)
class LineFormat:
    """One line format.

    Attributes:
        anchor: a literal that every such line holds; lines without any anchor are not looked at.
        stage: where in a load it stands.
        opens: whether it begins a new attempt when the present one is already past its stage.
        repeats: a progress bar, which is printed many times; otherwise a second time in one attempt is a finding.
        captures: one per group of the pattern, in order.
    """

    name: str
    source: str
    stage: Stage
    anchor: str
    pattern: re.Pattern[str]
    captures: tuple[Capture, ...]
    opens: bool = True
    repeats: bool = False


def _gib(text: str) -> Value:
    return round(float(text) * GIB)


def _count(text: str) -> Value:
    return int(text.replace(",", ""))


def _dtype(text: str) -> Value:
    return text.removeprefix("torch.")


def _quantization(text: str) -> Value:
    return "nf4" if text == "bitsandbytes" else "16bit" if text == "None" else text


def _percent(text: str) -> Value:
    return 100 * float(text)


def _length(text: str) -> Value:
    """How many sizes a list of CUDA graph sizes names."""
    return text.count(",") + 1


def _none(_text: str) -> Value:
    """An empty list of CUDA graph sizes."""
    return 0


def _memory(attribute: str) -> Capture:
    return Capture(attribute, _gib, decimals=True)


def _rounded(attribute: str) -> Capture:
    """GiB of vLLM's V1 engine (utils/mem_utils.py:30 at 0.33: round(x, 2)), so 5.6 is 5.60 ± 0.005."""
    return Capture(attribute, _gib, decimals=True, least=2)


def _number(attribute: str) -> Capture:
    return Capture(attribute, float, decimals=True)


def _exact(attribute: str) -> Capture:
    return Capture(attribute, _count)


def _text(attribute: str) -> Capture:
    return Capture(attribute, str, longest=4096)


def _line(name: str, source: str, stage: Stage, anchor: str, pattern: str, *captures: Capture) -> LineFormat:
    return LineFormat(name, source, stage, anchor, re.compile(pattern, re.ASCII), captures)


def _part(name: str, source: str, stage: Stage, anchor: str, pattern: str, *captures: Capture) -> LineFormat:
    """A further line of a stage that another line has begun."""
    return LineFormat(name, source, stage, anchor, re.compile(pattern, re.ASCII), captures, opens=False)


_WHOLE = r"(?![\d.,]*\d|[eE][+-]?\d)"  # a number that goes on is another number
_N = rf"(-?\d{{1,20}}(?:\.\d{{1,20}})?){_WHOLE}"  # as Python's round() or %.2f prints it
_INT = rf"(\d{{1,3}}(?:,\d{{3}}){{1,6}}|\d{{1,20}}){_WHOLE}"  # with separators, where they are printed, at every third digit
_DIGITS = rf"(\d{{1,20}}){_WHOLE}"  # without separators
_END = r"\.(?=\s|$)"  # a version's last full stop

FORMATS: tuple[LineFormat, ...] = (
    _line("banner", "llama.py:1661", Stage.BANNER, " patching",
          r"Unsloth (\d[\w.+]*): Fast (\w+) patching", _text("unsloth"), _text("family")),
    _part("banner transformers", "llama.py:1661", Stage.BANNER, " patching",
          rf"patching\. Transformers(?:: | = )([\w.]+?){_END}", _text("transformers")),
    _part("banner vllm", "unsloth 2025.3.8", Stage.BANNER, " patching",
          rf"patching\. Transformers: [\w.]+\. vLLM: ([\w.]+?){_END}", _text("vllm")),
    _part("banner gpu", "llama.py:1662; without `GPU:` from 2025.3.8", Stage.BANNER, "Max memory",
          rf"/\|\s+(?:GPU: )?([^|\\]{{1,200}}?)\. (?:Num GPUs = \d+\. )?Max memory: {_N} GB\.",
          _text("gpu_name"), _memory("gpu_total_bytes")),
    _part("banner torch", "llama.py:1663", Stage.BANNER, "CUDA Toolkit",
          rf"(?:Torch|Pytorch): ([\w.+]+)\. CUDA(?:: | = )(\d{{1,2}}\.\d)\. CUDA Toolkit(?:: | = )([\w.]+?){_END}",
          _text("torch"), _text("compute_capability"), _text("cuda")),
    _part("banner triton", "llama.py:1663", Stage.BANNER, "Triton: ", r"Triton: ([\w.+]+)", _text("triton")),
    _part("banner xformers", "llama.py:1664", Stage.BANNER, "FA [Xformers", r"FA \[Xformers = ([\w.+]+)\. ",
          _text("xformers")),
    _line("plan utilization", "vllm_utils.py:942", Stage.PLAN, "actual GPU utilization",
          rf"vLLM loading (\S+) with actual GPU utilization = {_N}%",
          _text("model"), _number("gpu_memory_utilization_pct")),
    _part("plan capability", "vllm_utils.py:943", Stage.PLAN, "with VRAM = ",
          rf"compute capability (\d{{1,2}}\.\d) with VRAM = {_N} GB",
          _text("compute_capability"), _memory("gpu_total_bytes")),
    _part("plan sequences", "vllm_utils.py:944-945", Stage.PLAN, "conservativeness = ",
          rf"conservativeness = {_N}\. Chunked prefill tokens = {_DIGITS}\. Num Sequences = {_DIGITS}",
          _number("conservativeness"), _exact("chunked_prefill_tokens"), _exact("max_num_seqs")),
    _part("plan kv", "vllm_utils.py:946-947", Stage.PLAN, "KV Cache can use up to",
          rf"KV Cache can use up to {_N} GB\. Also swap space = {_N} GB",
          _memory("kv_estimate_bytes"), _memory("swap_bytes")),
    *(LineFormat(f"plan {key}", "vllm_utils.py:157-169, printed whenever vLLM makes its bitsandbytes settings", Stage.PLAN,
                 "Bitsandbytes config using kwargs", re.compile(rf"config using kwargs = \{{.{{0,400}}?'{key}': '?(\w+)'?[,}}]"),
                 (_text(attribute),), opens=False, repeats=True)
      for key, attribute in (("load_in_8bit", "load_in_8bit"), ("load_in_4bit", "load_in_4bit"),
                             ("bnb_4bit_compute_dtype", "compute_dtype"), ("bnb_4bit_quant_storage", "quant_storage"),
                             ("bnb_4bit_quant_type", "quant_type"), ("bnb_4bit_use_double_quant", "double_quant"))),
    LineFormat("plan skip_modules", "vllm_utils.py:167", Stage.PLAN, "Bitsandbytes config using kwargs",
               re.compile(r"config using kwargs = \{.{0,600}?'llm_int8_skip_modules': \[([^\]]{0,65536})\]"),
               (Capture("skip_modules", str, longest=65536),), opens=False, repeats=True),
    _part("cut length", "vllm_utils.py:847-850", Stage.PLAN, "cannot handle sequence lengths of",
          rf"cannot handle sequence lengths of {_DIGITS} due to limited GPU memory", _exact("cut_length")),
    _line("engine", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r"Initializing a (V\d) LLM engine \(v([^)\s]{1,100})\)", _text("engine"), _text("vllm")),
    _part("engine model", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r"with config: model='([^']{0,4096})'", _text("model")),
    _part("engine dtype", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" dtype=(torch\.\w+), max_seq_len=(\d+)", Capture("dtype", _dtype), _exact("max_model_len")),
    _part("engine quantization", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" quantization=(\w+),", Capture("quantization", _quantization)),
    # printed as LoadFormat.AUTO by Python 3.11, as auto by 3.10
    _part("engine load format", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" load_format=(?:LoadFormat\.)?(\w+), ", Capture("load_format", str.lower)),
    _part("engine KV dtype", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" kv_cache_dtype=(\w+), ", _text("kv_cache_dtype")),
    _part("engine device", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" device_config=(\w+)(?::\d+)?, ", _text("device")),
    _part("engine parallel", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" tensor_parallel_size=([^,\s]{1,40}),", _text("tensor_parallel_size")),
    _part("engine pipeline", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" pipeline_parallel_size=([^,\s]{1,40}),", _text("pipeline_parallel_size")),
    _part("engine speculative", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" speculative_config=(\w{1,40})", _text("speculative_config")),
    _part("engine prefix caching", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" enable_prefix_caching=(\w{1,40}),", _text("prefix_caching")),
    _part("engine eager", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r" enforce_eager=(True|False), ", _text("enforce_eager")),
    _part("engine no graphs", "llm_engine.py:234, config.py:3318-3350", Stage.ENGINE, "LLM engine (v",
          r'"cudagraph_capture_sizes":(\[\]),"max_capture_size":(0)\b',
          Capture("num_cuda_graphs", _none), _exact("largest_graph")),
    _part("engine graph sizes", "llm_engine.py:234", Stage.ENGINE, "LLM engine (v",
          r'"cudagraph_capture_sizes":\[(([\d,]+))\],"max_capture_size":(\d+)',
          Capture("num_cuda_graphs", _length, longest=4096), _text("graph_sizes"), _exact("largest_graph")),
    _line("loading", "model_runner.py:1110", Stage.LOADING, "Starting to load model",
          r"Starting to load model (\S+?)\.\.\.", _text("model")),
    _line("weights", "model_runner.py:1115", Stage.WEIGHTS, "Loading model weights took",
          rf"Loading model weights took {_N} GB", _memory("weights_bytes")),
    _line("weights 0.8", "vllm 0.8.2 model_runner.py:1146", Stage.WEIGHTS, "Model loading took",
          rf"Model loading took {_N} Gi?B(?: memory)? and {_N} seconds",
          _memory("weights_bytes"), _number("weights_load_s")),
    _line("profile time", "worker.py:251", Stage.PROFILE, "Memory profiling takes",
          rf"Memory profiling takes {_N} seconds", _number("profile_s")),
    _line("profile budget", "worker.py:252-257", Stage.PROFILE, "gpu_memory_utilization (",
          rf"total_gpu_memory \({_N}GiB\) x gpu_memory_utilization \({_N}\) = {_N}GiB",
          _memory("gpu_total_bytes"), Capture("gpu_memory_utilization_pct", _percent, decimals=True, shift=-2),
          _memory("budget_bytes")),
    _line("profile weights", "worker.py:258-267", Stage.PROFILE, "model weights take",
          rf"model weights take\s+{_N}GiB", _memory("weights_bytes")),
    _part("profile non_torch", "worker.py:258-267", Stage.PROFILE, "non_torch_memory",
          rf"non_torch_memory(?: takes)?\s+{_N}GiB", _memory("non_torch_bytes")),
    _part("profile activation", "worker.py:258-267", Stage.PROFILE, "activation peak memory",
          rf"activation peak memory(?: takes)?\s+{_N}GiB", _memory("activation_peak_bytes")),
    _line("profile kv", "worker.py:258-267", Stage.PROFILED, "reserved for KV Cache is",
          rf"reserved for KV Cache is {_N}GiB", _memory("kv_cache_bytes")),
    _line("blocks", "executor_base.py:110-112; `GPU` in 0.6, `cuda` from 0.7.3", Stage.BLOCKS, "# CPU blocks",
          rf"(?:# ?)?(?:CUDA|cuda|GPU) blocks: {_DIGITS}, # CPU blocks: {_DIGITS}",
          _exact("num_gpu_blocks"), _exact("num_cpu_blocks")),
    # vLLM's V1 engine, 0.8 to 0.33 (v1/worker/gpu_worker.py, v1/core/kv_cache_utils.py)
    _line("v1 kv cache", "0.33 gpu_worker.py:772", Stage.PROFILED, "Available KV cache memory",
          rf"Available KV cache memory: {_N} GiB", _rounded("kv_cache_bytes")),
    _part("v1 tokens", "0.33 kv_cache_utils.py:1147", Stage.BLOCKS, "GPU KV cache size",
          rf"GPU KV cache size: {_INT} tokens", _exact("kv_cache_tokens")),
    _part("v1 summary", "0.33 gpu_worker.py:1042-1066; 0.11 to 0.20 without `consumed`", Stage.CAPTURE, "Free memory on device (",
          rf"Free memory on device \(\d+(?:\.\d+)?/{_N} GiB\) on startup\. Desired GPU memory utilization is \({_N}, {_N} GiB\)\.",
          _rounded("gpu_total_bytes"), Capture("gpu_memory_utilization_pct", _percent, decimals=True, shift=-2, least=2),
          _rounded("budget_bytes")),
    _part("v1 summary parts", "0.11 to 0.20 gpu_worker.py", Stage.CAPTURE, "Actual usage is",
          rf"Actual usage is {_N} GiB for weight, {_N} GiB for peak activation, {_N} GiB for non-torch memory",
          _rounded("weights_bytes"), _rounded("activation_peak_bytes"), _rounded("non_torch_bytes")),
    _part("v1 summary graphs", "0.11 gpu_worker.py", Stage.CAPTURE, "GiB for CUDAGraph memory",
          rf"and {_N} GiB for CUDAGraph memory", _rounded("cuda_graph_bytes")),
    _part("v1 summary consumed", "0.33 gpu_worker.py:1042-1066", Stage.CAPTURE, "for consumed memory",
          rf"Actual usage is {_N} GiB for consumed memory \(weights \+ non-torch\), {_N} GiB for peak activation",
          _rounded("consumed_bytes"), _rounded("activation_peak_bytes")),
    _part("v1 graph estimate", "0.33 gpu_worker.py:1003", Stage.CAPTURE, "CUDA graph pool memory",
          rf"CUDA graph pool memory: -?[\d.]{{1,20}} GiB \(actual\), {_N} GiB \(estimated\)", _rounded("graph_estimate_bytes")),
    _part("v1 kv in use", "0.11 gpu_worker.py", Stage.CAPTURE, "kv cache memory in use is",
          r"Current kv cache memory in use is (\d{1,20}) bytes", _exact("kv_cache_bytes")),
    # the same breakdown, one figure a line, as 0.6.5 printed it before its release (vllm pull request 10511)
    _part("table time", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILE, "duration",
          rf"(?:\] |^)duration\s+{_N} seconds", _number("profile_s")),
    _part("table total", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILE, "total_gpu_memory",
          rf"(?:\] |^)total_gpu_memory\s+{_N}GiB", _memory("gpu_total_bytes")),
    _part("table utilization", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILE, "gpu_memory_utilization",
          rf"(?:\] |^)gpu_memory_utilization\s+{_N}\s*$", Capture("gpu_memory_utilization_pct", _percent, decimals=True, shift=-2)),
    _part("table budget", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILE, "vLLM instance can use",
          rf"the current vLLM instance can use\s+{_N}GiB", _memory("budget_bytes")),
    _part("table kv", "vllm 0.6.5 development builds, worker.py:243", Stage.PROFILED, "available_kv_cache_memory",
          rf"(?:\] |^)available_kv_cache_memory\s+{_N}GiB", _memory("kv_cache_bytes")),
    # vLLM 0.6.4 (worker.py): one line
    _line("profile 0.6.4", "vllm 0.6.4 worker.py", Stage.PROFILE, "total_gpu_memory=",
          rf"total_gpu_memory={_N}GiB", _memory("gpu_total_bytes")),
    _part("profile 0.6.4 activation", "vllm 0.6.4 worker.py", Stage.PROFILE, "peak_torch_memory=",
          rf"peak_torch_memory={_N}GiB", _memory("peak_torch_bytes")),
    _part("profile 0.6.4 non_torch", "vllm 0.6.4 worker.py", Stage.PROFILE, "non_torch_memory=",
          rf"non_torch_memory={_N}GiB", _memory("non_torch_bytes")),
    _part("profile 0.6.4 kv", "vllm 0.6.4 worker.py", Stage.PROFILED, "kv_cache_size=",
          rf"kv_cache_size={_N}GiB", _memory("kv_cache_bytes")),
    _part("profile 0.6.4 utilization", "vllm 0.6.4 worker.py", Stage.PROFILE, "gpu_memory_utilization=",
          rf"gpu_memory_utilization={_N}", Capture("gpu_memory_utilization_pct", _percent, decimals=True, shift=-2)),
    _line("concurrency", "executor_base.py:115-116", Stage.BLOCKS, "Maximum concurrency",
          rf"Maximum concurrency for {_INT} tokens per request: {_N}x",
          _exact("max_model_len"), _number("max_concurrency")),
    LineFormat("capturing", "model_runner.py:1437; 0.7.2 of other dialects: `Capturing the model for CUDA graphs`", Stage.CAPTURE,
               "Capturing ", re.compile(r"Capturing (?:the model for CUDA graphs|cudagraphs for decoding)"), (), opens=False,
               repeats=True),
    LineFormat("capture progress", "model_runner.py:1484", Stage.CAPTURE, "graph shapes",
               re.compile(r"graph shapes:\s{1,9}\d+%[^\r\n]{0,200}?\| \d+/(\d+)"),
               (_exact("num_cuda_graphs"),), opens=False, repeats=True),
    _line("captured", "model_runner.py:1562", Stage.CAPTURE, "Graph capturing finished",
          rf"Graph capturing finished in {_DIGITS} secs, took {_N} GiB",
          _exact("graph_capture_s"), _memory("cuda_graph_bytes")),
    _line("ready", "llm_engine.py:431", Stage.READY, "init engine (profile",
          rf"init engine \(profile, create kv cache, warmup model\) took {_N} s(?:econds)?", _number("engine_init_s")),
    # why a group of linears is patched in no layer
    *(LineFormat(f"unpatched {group}", "llama.py:2541-2597", Stage.ADAPTERS, "Unsloth cannot patch",
                 re.compile(rf"Unsloth cannot patch ({words})"), (_text(f"unpatched_{group}"),), opens=False, repeats=True)
      for group, words in (("qkv", "Attention"), ("o", "O projection"), ("mlp", "MLP"))),
    LineFormat("not patched at all", "llama.py:2154-2161", Stage.ADAPTERS, "is supported for fast patching",
               re.compile(r"(Dropout = 0|bias = `none`) is supported for fast patching"), (_text("unpatched_all"),), opens=False,
               repeats=True),
    _line("patched", "llama.py:2600-2603", Stage.ADAPTERS, "QKV layers",
          rf"Unsloth (\d[\w.+]*) patched {_DIGITS} layers with {_DIGITS} QKV layers, {_DIGITS} O layers and {_DIGITS} MLP layers",
          _text("unsloth"), _exact("patched_layers"), _exact("patched_qkv"), _exact("patched_o"),
          _exact("patched_mlp")),
    _part("trainable", "peft 0.14.0 peft_model.py:784", Stage.ADAPTERS, "trainable params: ",
          rf"trainable params: {_INT} \|\| all params: {_INT}", _exact("trainable_params"), _exact("total_params")),
    LineFormat("trainer", "unsloth/models/llama.py and its trainer's banner: `Num GPUs = 1 | Num examples = 7,473`", Stage.TRAINING,
               "Num examples = ", re.compile(r"Num examples = [\d,]+ \| Num Epochs = "), (), opens=False, repeats=True),
    # The tokens that it names are those of its estimate of the KV cache; vLLM gets as many as before (vllm_utils.py:1007-1009).
    _line("retry", "vllm_utils.py:1010-1013", Stage.PLAN, "Retrying vLLM",
          rf"Retrying vLLM to process {_DIGITS} sequences and \d+ tokens in tandem", _exact("max_num_seqs")),
)  # fmt: skip

RETRY = "retry"

# Words that end a load, beside Python's exceptions (logs/endings.py). Each is the engine's own; the text after the pattern is kept as the error.
ERRORS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (anchor, re.compile(pattern))
    for anchor, pattern in (
        ("out of memory", r"(?:torch\.(?:cuda\.)?\w+Error: )?CUDA (?:driver )?(?:error: )?out of memory.*"),
        ("out of memory", r"Cuda failure \d+ 'out of memory'.*"),
        ("cudaErrorMemoryAllocation", r"cudaErrorMemoryAllocation.*"),
        ("CUBLAS_STATUS_ALLOC_FAILED", r"CUBLAS_STATUS_ALLOC_FAILED.*"),
        ("No available memory", r"No available memory\b.*"),
        ("max seq len", r"The model's max seq len \(\d+\) is larger than the maximum number of tokens.*"),
        ("max_num_batched_tokens (", r"max_num_batched_tokens \(\d+\) must be greater than or equal to max_num_seqs.*"),
        ("Error in memory profiling", r"Error in memory profiling\..*"),
        ("Too large swap space", r"Too large swap space.*"),
        ("is greater than max_lora_rank", r"LoRA rank \d+ is greater than max_lora_rank.*"),
        # before there is a load: Docker, the linker, the system, and our own engine that refuses
        ("unsatisfied condition", r"requirement error: unsatisfied condition:.*"),
        ("could not select device driver", r"could not select device driver.*"),
        ("cannot find -lcuda", r"cannot find -lcuda.*"),
        ("fatal error: Python.h", r"fatal error: Python\.h.*"),
        ("CUDA Setup failed", r"CUDA Setup failed.*"),
        ("Bus error", r"Bus error\b.*"),
        ("fallen off the bus", r"GPU has fallen off the bus.*"),
        ("GPU is lost", r"GPU is lost.*"),
        ("uncorrectable ECC", r"uncorrectable ECC error encountered.*"),
        ("Error: ", r"^Error: .*"),
    )
)
