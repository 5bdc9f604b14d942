"""The lines that vLLM's V1 engine prints during its start and V0's does not, 0.8 to 0.33, read in the source of 22 releases.

Files are of v1/ at the named release, else at 0.33. Before 0.16 GiB are printed with `%.2f`, later by round(x, 2)
(utils/mem_utils.py:30), so that 5.6 is 5.60 ± 0.005.
"""

from __future__ import annotations

from loadcheck.figures import Reading
from loadcheck.logs import Attempt, Dialect
from loadcheck.logs.formats import (
    COUNT,
    DIGITS,
    NUMBER,
    LineFormat,
    Stage,
    exact,
    line,
    memory,
    number,
    part,
    repeated,
    rounded,
    share,
    text,
)
from loadcheck.specs.versions import release_numbers

Release = tuple[int, ...]

_BYTES = r"(-?\d{1,20})"
_POOL = "CUDA graph pool memory"
_PROFILED = "CUDA graph memory profiling is"

FORMATS: tuple[LineFormat, ...] = (
    line("v1 kv cache", "worker/gpu_worker.py:772, from 0.9.1", Stage.PROFILED, "Available KV cache memory",
         rf"Available KV cache memory: {NUMBER} GiB", rounded("kv_cache_bytes")),
    line("v1 kv cache given", "worker/gpu_worker.py, from 0.10.2, with --kv-cache-memory-bytes", Stage.PROFILED, "memory for KV Cache as specified",
         rf"reserved {NUMBER} GiB memory for KV Cache as specified by kv_cache_memory_bytes", rounded("kv_cache_bytes")),
    part("v1 estimated graphs", "worker/gpu_model_runner.py:6410, from 0.18", Stage.PROFILE, "Estimated CUDA graph memory",
         rf"Estimated CUDA graph memory: {NUMBER} GiB total", memory("graph_estimate_bytes")),
    part("v1 graphs counted", "worker/gpu_worker.py:787-799; from 0.18", Stage.PROFILED, _PROFILED,
         rf"CUDA graph memory profiling is enabled .{{1,200}}?The current --gpu-memory-utilization={NUMBER} is equivalent to "
         rf"--gpu-memory-utilization={NUMBER} without CUDA graph memory profiling\..{{1,120}}?--gpu-memory-utilization to {NUMBER}\.",
         share("gpu_memory_utilization_pct"), share("utilization_without_graphs_pct"), share("utilization_with_graphs_pct")),
    part("v1 graphs not counted", "worker/gpu_worker.py:800-812, from 0.18", Stage.PROFILED, _PROFILED,
         r"CUDA graph memory profiling is (disabled)\b", text("graphs_counted")),
    part("v1 auto-fit", "core/kv_cache_planning.py:1405, from 0.16", Stage.BLOCKS, "Auto-fit max_model_len",
         rf"Auto-fit max_model_len: reduced from {DIGITS} to {DIGITS} to fit", exact("asked_length"), exact("fitted_length")),
    part("v1 tokens", "core/kv_cache_utils.py:1147", Stage.BLOCKS, "GPU KV cache size",
         rf"GPU KV cache size: {COUNT} tokens", exact("kv_cache_tokens")),
    part("v1 no capture", "worker/gpu_model_runner.py:6423", Stage.CAPTURE, "Skipping CUDA graph capture",
         r"Skipping CUDA graph capture\."),
    part("v1 graph pool", "worker/gpu_worker.py:1003, from 0.18", Stage.CAPTURE, _POOL,
         rf"CUDA graph pool memory: {NUMBER} GiB \(actual\), {NUMBER} GiB \(estimated\), difference: {NUMBER} GiB \({NUMBER}%\)",
         rounded("graph_pool_bytes"), rounded("graph_estimate_bytes"), rounded("graph_difference_bytes"),
         number("graph_difference_pct")),
    # one long line: at level INFO in 0.10.2 and from 0.27 on, at DEBUG in between
    part("v1 summary", "worker/gpu_worker.py:1042-1066, from 0.10.2", Stage.CAPTURE, "Free memory on device (",
         rf"Free memory on device \({NUMBER}/{NUMBER} GiB\) on startup\. Desired GPU memory utilization is \({NUMBER}, {NUMBER} GiB\)\.",
         rounded("free_on_start_bytes"), rounded("gpu_total_bytes"), share("gpu_memory_utilization_pct", least=2),
         rounded("budget_bytes")),
    part("v1 summary parts", "0.10.2 worker/gpu_worker.py:379, to 0.26", Stage.CAPTURE, "Actual usage is",
         rf"Actual usage is {NUMBER} GiB for weight, {NUMBER} GiB for peak activation, {NUMBER} GiB for non-torch memory",
         rounded("weights_bytes"), rounded("activation_peak_bytes"), rounded("non_torch_bytes")),
    part("v1 summary consumed", "worker/gpu_worker.py:1051, from 0.27", Stage.CAPTURE, "for consumed memory",
         rf"Actual usage is {NUMBER} GiB for consumed memory \(weights \+ non-torch\), {NUMBER} GiB for peak activation",
         rounded("consumed_bytes"), rounded("activation_peak_bytes")),
    part("v1 summary graphs", "worker/gpu_worker.py:1054", Stage.CAPTURE, "GiB for CUDAGraph memory",
         rf"and {NUMBER} GiB for CUDAGraph memory", rounded("cuda_graph_bytes")),
    part("v1 budget's cache", "worker/gpu_worker.py:1056", Stage.CAPTURE, "--kv-cache-memory=",
         rf"--kv-cache-memory={_BYTES}`(?: \([^)`]{{1,40}}\))? to fit", exact("budget_kv_bytes")),
    part("v1 budget's cache in GiB", "worker/gpu_worker.py:1058, from 0.11", Stage.CAPTURE, "--kv-cache-memory=",
         rf"--kv-cache-memory=-?\d{{1,20}}` \({NUMBER} GiB\) to fit", rounded("budget_kv_bytes")),
    part("v1 card's cache", "worker/gpu_worker.py:1059", Stage.CAPTURE, "--kv-cache-memory=",
         rf"--kv-cache-memory={_BYTES}`(?: \([^)`]{{1,40}}\))? to fully", exact("card_kv_bytes")),
    part("v1 card's cache in GiB", "worker/gpu_worker.py:1061, from 0.11", Stage.CAPTURE, "--kv-cache-memory=",
         rf"--kv-cache-memory=-?\d{{1,20}}` \({NUMBER} GiB\) to fully", rounded("card_kv_bytes")),
    part("v1 cache in use", "0.10.2 worker/gpu_worker.py:388", Stage.CAPTURE, "kv cache memory in use is",
         r"Current kv cache memory in use is (\d{1,20}) bytes", exact("kv_cache_bytes")),
    part("v1 cache in use in GiB", "worker/gpu_worker.py:1063, from 0.11", Stage.CAPTURE, "kv cache memory in use is",
         rf"Current kv cache memory in use is {NUMBER} GiB", rounded("kv_cache_bytes")),
    # how the lines above begin that not every start prints
    repeated("v1 begun estimate", "worker/gpu_model_runner.py:6410", Stage.PROFILE, "Estimated CUDA graph memory", r"Estimated CUDA graph memory: ?\S"),
    repeated("v1 begun pool", "worker/gpu_worker.py:1003", Stage.CAPTURE, _POOL, rf"{_POOL}: ?\S"),
    repeated("v1 begun summary", "worker/gpu_worker.py:1042", Stage.CAPTURE, "Free memory on device (",
             r"Free memory on device \([^()\n]{1,60}\) on startup\. Desired"),
    repeated("v1 begun parts", "worker/gpu_worker.py:1042", Stage.CAPTURE, "Actual usage is", r"Actual usage is [^\n]{1,60}for (?:weight|consumed)"),
    repeated("v1 begun graphs", "worker/gpu_worker.py:1054", Stage.CAPTURE, "for CUDAGraph memory", r"for CUDAGraph memory"),
    repeated("v1 begun cache", "worker/gpu_worker.py:1063", Stage.CAPTURE, "kv cache memory in use is", r"Current kv cache memory in use is \S"),
    # `cpu_offload_gb=8.0` of a Namespace, `'cpu_offload_gb': 8.0` of a dict
    repeated("v1 offload", "engine/arg_utils.py", Stage.BANNER, "cpu_offload_gb", r"cpu_offload_gb'?(?:=|: )\d{0,9}(?:[1-9]|\.\d{0,3}[1-9])"),
)  # fmt: skip

WHOLE_LINES = {
    "v1 begun estimate": ("v1 estimated graphs",),
    "v1 begun pool": ("v1 graph pool",),
    "v1 begun summary": ("v1 summary",),
    "v1 begun parts": ("v1 summary parts", "v1 summary consumed"),
    "v1 begun graphs": ("v1 summary graphs",),
    "v1 begun cache": ("v1 cache in use", "v1 cache in use in GiB"),
}
"""For each line's beginning, the lines that may begin so."""

DIALECT = Dialect(FORMATS, leads=("Free memory on device",), heads=("GPU KV cache", "Available KV cache"))

REQUIRED = ("engine", "weights", "v1 tokens", "concurrency", "captured", "ready")
"""What every release prints during its start, apart from lines that are not judged."""
KV_CACHE_LINE = "v1 kv cache"
_KV_CACHE_SINCE: Release = (0, 9, 1)
_GRAPH_LINES = ("captured",)


def required_lines(attempt: Attempt) -> tuple[str, ...]:
    """The lines of a complete start of this release, with or without graphs."""
    found = release(attempt.reading("vllm"))
    names = (*REQUIRED, KV_CACHE_LINE) if found is not None and found >= _KV_CACHE_SINCE else REQUIRED
    eager = attempt.reading("enforce_eager")
    without_graphs = attempt.formats["v1 no capture"] or (eager is not None and eager.value == "True")
    return tuple(name for name in names if not (without_graphs and name in _GRAPH_LINES))


def release(reading: Reading | None) -> Release | None:
    """A version's numbers, such as (0, 8, 5) for 0.8.5.post1; None where there are none."""
    return None if reading is None else release_numbers(str(reading.value))
