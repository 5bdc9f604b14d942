"""Starts of vLLM's V1 engine from 0.8 to 0.33, printed by each release's own formulas from one set of exact bytes.

Which lines a release prints, and how it rounds, is from its source: v1/worker/gpu_worker.py, v1/worker/gpu_model_runner.py,
v1/core/kv_cache_utils.py and v1/engine/core.py of the releases below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from loadcheck.units import GIB, MIB

RELEASES = (
    "0.8.0",
    "0.8.5",
    "0.9.0",
    "0.9.2",
    "0.10.2",
    "0.11.0",
    "0.13.0",
    "0.16.0",
    "0.18.1",
    "0.20.0",
    "0.21.0",
    "0.25.0",
    "0.27.0",
    "0.33.0",
)
SUMMARY_AT_INFO = ("0.10.2", "0.27.0", "0.33.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start, in exact bytes: Llama 3.1 8B in bfloat16 on an H100, unless changed.

    Attributes:
        debug: started with VLLM_LOGGING_LEVEL=DEBUG, which prints the summary in 0.11 to 0.26 as well.
        counted: whether the graphs' estimate is taken from the cache; None for the release's default.
        fitted_length: the length that the engine reduces `length` to (max_model_len=auto, from 0.16).
    """

    release: str
    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    total: int = 85_024_112_640
    free: int = 84_476_624_896
    utilization: float = 0.9
    length: int = 8192
    weights: int = 16_094_207_488
    non_torch: int = 641_728_512
    activation: int = 1_653_604_352
    graphs: int = 583_008_256
    estimate: int = 524_288_000
    layer_bytes: int = 4096
    num_layers: int = 32
    debug: bool = False
    counted: bool | None = None
    fitted_length: int | None = None
    eager: bool = False
    cards: int = 1

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.release.split("."))

    @property
    def estimates(self) -> bool:
        return self.number >= (0, 18) and not self.eager

    @property
    def applied(self) -> int:
        counted = self.number >= (0, 21) if self.counted is None else self.counted
        return self.estimate if self.estimates and counted else 0

    @property
    def budget(self) -> int:
        return (
            math.ceil(self.total * self.utilization) if self.number >= (0, 16) else int(self.total * self.utilization)
        )

    @property
    def cache(self) -> int:
        return self.budget - self.weights - self.non_torch - self.activation - self.applied

    @property
    def served(self) -> int:
        return self.fitted_length or self.length

    @property
    def blocks(self) -> int:
        return self.cache // (self.layer_bytes * self.num_layers * 16)

    @property
    def concurrency(self) -> float:
        if self.number < (0, 9, 2):
            return self.blocks * 16 / self.served
        return self.blocks / math.ceil(self.served / 16)

    @property
    def tokens(self) -> int:
        return int(self.concurrency * self.served) if self.number >= (0, 21) else self.blocks * 16

    def gib(self, num_bytes: int) -> str:
        """As the release prints it."""
        return str(round(num_bytes / GIB, 2)) if self.number >= (0, 16) else f"{num_bytes / GIB:.2f}"


def text(start: Start, prefix: str = "") -> str:
    """The lines of a whole start, each with the stamp of vLLM's logger, after `prefix`."""
    return "".join(f"{prefix}INFO 06-01 10:00:{second % 60:02d} [{line}\n" for second, line in enumerate(lines(start)))


def lines(start: Start) -> Iterator[str]:
    """The same without stamps."""
    eager = str(start.eager)
    yield (
        f"core.py:58] Initializing a V1 LLM engine (v{start.release}) with config: model='{start.model}', speculative_config=None, "
        f"dtype=torch.bfloat16, max_seq_len={start.length}, load_format=auto, tensor_parallel_size={start.cards}, pipeline_parallel_size=1, "
        f"quantization=None, enforce_eager={eager}, kv_cache_dtype=auto,  device_config=cuda"
    )
    yield f"gpu_model_runner.py:1] {_weights(start)}"
    if start.estimates:
        yield f"gpu_model_runner.py:2] Estimated CUDA graph memory: {start.estimate / GIB:.2f} GiB total"
    if start.number >= (0, 9, 1):
        yield f"gpu_worker.py:1] Available KV cache memory: {start.gib(start.cache)} GiB"
    if start.estimates:
        yield f"gpu_worker.py:2] {_as_utilization(start)}"
    if start.fitted_length:
        yield (
            f"kv_cache_utils.py:1] Auto-fit max_model_len: reduced from {start.length} to {start.fitted_length} to fit in available KV "
            f"cache memory ({start.gib(start.cache)} GiB GPU)"
        )
    size, most = (
        f"GPU KV cache size: {start.tokens:,} tokens",
        f"Maximum concurrency for {start.served:,} tokens per request: {start.concurrency:.2f}x",
    )
    yield from (
        [f"kv_cache_utils.py:2] {size}, {most}"]
        if start.number >= (0, 29)
        else [f"kv_cache_utils.py:2] {size}", f"kv_cache_utils.py:3] {most}"]
    )
    if not start.eager:
        if start.number >= (0, 33):  # its trial capture prints the same line
            yield f"model_runner.py:1163] Graph capturing finished in 1 secs, took {0.3 * start.graphs / GIB:.2f} GiB"
        yield f"gpu_model_runner.py:3] Graph capturing finished in 12 secs, took {start.graphs / GIB:.2f} GiB"
    if start.estimates:
        apart = abs(start.graphs - start.estimate)
        yield (
            f"gpu_worker.py:3] CUDA graph pool memory: {round(start.graphs / GIB, 2)} GiB (actual), {round(start.estimate / GIB, 2)} GiB "
            f"(estimated), difference: {round(apart / GIB, 2)} GiB ({100 * apart / start.graphs:.1f}%)."
        )
    if start.release in SUMMARY_AT_INFO or (start.debug and start.number >= (0, 10, 2)):
        yield f"gpu_worker.py:4] {_summary(start)}"
    took = "37.25 seconds" if start.number < (0, 21) else "37.25 s (compilation: 9.10 s)"
    yield f"core.py:159] init engine (profile, create kv cache, warmup model) took {took}"


def _weights(start: Start) -> str:
    if start.number < (0, 8, 1):
        return f"Model loading took {start.weights / GIB:.4f} GB and 3.652170 seconds"
    if start.number < (0, 13):
        return f"Model loading took {start.weights / GIB:.4f} GiB and 3.652170 seconds"
    size = f"{start.weights / GIB:.4f}" if start.number < (0, 16) else start.gib(start.weights)
    return f"Model loading took {size} GiB memory and 3.652170 seconds"


def _as_utilization(start: Start) -> str:
    share = start.estimate / start.total
    more = min(round(start.utilization + share, 4), 1.0)
    if not start.applied:
        return (
            "CUDA graph memory profiling is disabled (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0). Consider re-enabling it and increasing "
            f"--gpu-memory-utilization from {start.utilization:.4f} to {more:.4f}."
        )
    return (
        f"CUDA graph memory profiling is enabled (default since v0.21.0). The current --gpu-memory-utilization={start.utilization:.4f} is "
        f"equivalent to --gpu-memory-utilization={round(start.utilization - share, 4):.4f} without CUDA graph memory profiling. To maintain "
        f"the same effective KV cache size as before, increase --gpu-memory-utilization to {more:.4f}."
    )


def _summary(start: Start) -> str:
    gib = lambda num_bytes: str(round(num_bytes / GIB, 2))  # noqa: E731: as each release rounds here
    in_peak = start.applied if start.number[:2] == (0, 18) or start.number >= (0, 27) else 0
    graphs = 0 if start.eager else start.graphs
    less = start.weights + start.non_torch + start.activation + in_peak + graphs + 150 * MIB
    within, full = start.budget - less, start.free - less
    used = (
        f"{gib(start.weights + start.non_torch)} GiB for consumed memory (weights + non-torch), {gib(start.activation + in_peak)} GiB for peak activation,"
        if start.number >= (0, 27)
        else f"{gib(start.weights)} GiB for weight, {gib(start.activation + in_peak)} GiB for peak activation, "
        f"{gib(start.non_torch)} GiB for non-torch memory,"
    )
    in_gib = (lambda num_bytes: f" ({gib(num_bytes)} GiB)") if start.number >= (0, 11) else (lambda _: "")
    in_use = f"{gib(start.cache)} GiB" if start.number >= (0, 11) else f"{start.cache} bytes"
    return (
        f"Free memory on device ({gib(start.free)}/{gib(start.total)} GiB) on startup. Desired GPU memory utilization is "
        f"({start.utilization}, {gib(start.budget)} GiB). Actual usage is {used} and {gib(graphs)} GiB for CUDAGraph memory. Replace "
        f"gpu_memory_utilization config with `--kv-cache-memory={within}`{in_gib(within)} to fit into requested memory, or "
        f"`--kv-cache-memory={full}`{in_gib(full)} to fully utilize gpu memory. Current kv cache memory in use is {in_use}."
    )
