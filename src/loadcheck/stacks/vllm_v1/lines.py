"""The lines that vLLM's V1 engine prints of a start and V0's does not: 0.8 to 0.33 (v1/worker/gpu_worker.py, v1/core/kv_cache_utils.py)."""

from __future__ import annotations

from loadcheck.logs.dialect import Dialect
from loadcheck.logs.formats import (
    COUNT,
    NUMBER,
    LineFormat,
    Stage,
    exact,
    line,
    part,
    rounded,
    share,
)

FORMATS: tuple[LineFormat, ...] = (
    line("v1 kv cache", "0.33 gpu_worker.py:772", Stage.PROFILED, "Available KV cache memory",
          rf"Available KV cache memory: {NUMBER} GiB", rounded("kv_cache_bytes")),
    part("v1 tokens", "0.33 kv_cache_utils.py:1147", Stage.BLOCKS, "GPU KV cache size",
          rf"GPU KV cache size: {COUNT} tokens", exact("kv_cache_tokens")),
    part("v1 summary", "0.33 gpu_worker.py:1042-1066; 0.11 to 0.20 without `consumed`", Stage.CAPTURE, "Free memory on device (",
          rf"Free memory on device \(\d+(?:\.\d+)?/{NUMBER} GiB\) on startup\. Desired GPU memory utilization is \({NUMBER}, {NUMBER} GiB\)\.",
          rounded("gpu_total_bytes"), share("gpu_memory_utilization_pct", least=2),
          rounded("budget_bytes")),
    part("v1 summary parts", "0.11 to 0.20 gpu_worker.py", Stage.CAPTURE, "Actual usage is",
          rf"Actual usage is {NUMBER} GiB for weight, {NUMBER} GiB for peak activation, {NUMBER} GiB for non-torch memory",
          rounded("weights_bytes"), rounded("activation_peak_bytes"), rounded("non_torch_bytes")),
    part("v1 summary graphs", "0.11 gpu_worker.py", Stage.CAPTURE, "GiB for CUDAGraph memory",
          rf"and {NUMBER} GiB for CUDAGraph memory", rounded("cuda_graph_bytes")),
    part("v1 summary consumed", "0.33 gpu_worker.py:1042-1066", Stage.CAPTURE, "for consumed memory",
          rf"Actual usage is {NUMBER} GiB for consumed memory \(weights \+ non-torch\), {NUMBER} GiB for peak activation",
          rounded("consumed_bytes"), rounded("activation_peak_bytes")),
    part("v1 graph estimate", "0.33 gpu_worker.py:1003", Stage.CAPTURE, "CUDA graph pool memory",
          rf"CUDA graph pool memory: -?[\d.]{{1,20}} GiB \(actual\), {NUMBER} GiB \(estimated\)", rounded("graph_estimate_bytes")),
    part("v1 kv in use", "0.11 gpu_worker.py", Stage.CAPTURE, "kv cache memory in use is",
          r"Current kv cache memory in use is (\d{1,20}) bytes", exact("kv_cache_bytes")),
)  # fmt: skip

DIALECT = Dialect(FORMATS, leads=("Free memory on device",), heads=("GPU KV cache", "Available KV cache"))
