"""The figures of a load: one frozen type for predicted, measured and expected values.

`None` means "not in the log", never 0. Memory is kept as a whole number of bytes and written as GiB with as many decimals
as the load log prints, under a name that ends in `_gib`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeGuard

from loadcheck.units import from_gib, to_gib

Value = str | int | float
MAX_NUMBER = 2**63
"""Above every figure, in any unit."""


class Kind(Enum):
    """What a figure measures, which decides how it is stored, printed and compared."""

    TEXT = "text"
    COUNT = "count"
    MEMORY = "GiB"
    PERCENT = "%"
    RATIO = "x"
    SECONDS = "s"


@dataclass(frozen=True, slots=True)
class FigureSpec:
    """The definition of a figure.

    Attributes:
        attribute: its name in `Figures` (memory ends in `_bytes`).
        name: its name in JSON, TOML and on screen (memory ends in `_gib`).
        decimals: how many the log prints; None if the value is not a decimal number.
        pattern: a regular expression for the whole text; None if any text is valid.
    """

    attribute: str
    name: str
    kind: Kind
    decimals: int | None
    pattern: str | None = None

    def holds(self, value: object) -> TypeGuard[Value]:
        """Whether `value` has this figure's type and form."""
        if self.kind is Kind.TEXT:
            return isinstance(value, str) and (
                self.pattern is None or re.fullmatch(self.pattern, value, re.ASCII) is not None
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, int):
            return abs(value) < MAX_NUMBER
        return math.isfinite(value) and self.kind not in (Kind.COUNT, Kind.MEMORY)

    def to_edge(self, value: Value, decimals: int | None = None) -> Value:
        """The value as it is written to JSON and TOML: memory in GiB, rounded as the log prints it (or to `decimals`)."""
        places = self.decimals if decimals is None else decimals
        if self.kind is Kind.TEXT or isinstance(value, str) or places is None:
            return value
        number = to_gib(value) if self.kind is Kind.MEMORY else value
        return round(number, places) if places else round(number)

    def from_edge(self, value: Value) -> Value:
        """The inverse of `to_edge`: GiB become bytes, everything else is unchanged."""
        return from_gib(float(value)) if self.kind is Kind.MEMORY else value

    def show(self, value: Value | None, decimals: int | None = None) -> str:
        """The value for people, with as many decimals as the log prints, without the unit."""
        if value is None:
            return "not in log"
        edge = self.to_edge(value, decimals)
        places = self.decimals if decimals is None else decimals
        if self.kind is Kind.COUNT and isinstance(edge, int):
            return f"{edge:,}"
        # a utilization printed as "0.6" is known to tens of percent only: a negative number of decimals
        return f"{edge:.{places}f}" if places and places > 0 and not isinstance(edge, str) else str(edge)


def _figure(kind: Kind, decimals: int | None = None, pattern: str | None = None) -> Any:
    return dataclasses.field(default=None, metadata={"kind": kind, "decimals": decimals, "pattern": pattern})


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Every figure of a load log, in the log's order."""

    # the machine and the stack: unsloth's banner
    gpu_name: str | None = _figure(Kind.TEXT)
    gpu_total_bytes: int | None = _figure(Kind.MEMORY, 3)
    compute_capability: str | None = _figure(Kind.TEXT, pattern=r"\d{1,2}\.\d")
    unsloth: str | None = _figure(Kind.TEXT)
    vllm: str | None = _figure(Kind.TEXT)
    torch: str | None = _figure(Kind.TEXT)
    cuda: str | None = _figure(Kind.TEXT)
    triton: str | None = _figure(Kind.TEXT)
    transformers: str | None = _figure(Kind.TEXT)
    xformers: str | None = _figure(Kind.TEXT)
    # what is loaded, and unsloth's plan for it
    model: str | None = _figure(Kind.TEXT)
    dtype: str | None = _figure(Kind.TEXT)
    quantization: str | None = _figure(Kind.TEXT)
    max_model_len: int | None = _figure(Kind.COUNT)
    gpu_memory_utilization_pct: float | None = _figure(Kind.PERCENT, 2)
    chunked_prefill_tokens: int | None = _figure(Kind.COUNT)
    max_num_seqs: int | None = _figure(Kind.COUNT)
    kv_estimate_bytes: int | None = _figure(Kind.MEMORY, 2)
    swap_bytes: int | None = _figure(Kind.MEMORY, 0)
    # vLLM's load and memory profile
    weights_bytes: int | None = _figure(Kind.MEMORY, 4)
    budget_bytes: int | None = _figure(Kind.MEMORY, 2)
    non_torch_bytes: int | None = _figure(Kind.MEMORY, 2)
    activation_peak_bytes: int | None = _figure(Kind.MEMORY, 2)
    kv_cache_bytes: int | None = _figure(Kind.MEMORY, 2)
    num_gpu_blocks: int | None = _figure(Kind.COUNT)
    num_cpu_blocks: int | None = _figure(Kind.COUNT)
    max_concurrency: float | None = _figure(Kind.RATIO, 2)
    num_cuda_graphs: int | None = _figure(Kind.COUNT)
    cuda_graph_bytes: int | None = _figure(Kind.MEMORY, 2)
    weights_load_s: float | None = _figure(Kind.SECONDS, 2)
    profile_s: float | None = _figure(Kind.SECONDS, 2)
    graph_capture_s: int | None = _figure(Kind.SECONDS, 0)
    engine_init_s: float | None = _figure(Kind.SECONDS, 2)
    # the adapters
    patched_layers: int | None = _figure(Kind.COUNT)
    patched_qkv: int | None = _figure(Kind.COUNT)
    patched_o: int | None = _figure(Kind.COUNT)
    patched_mlp: int | None = _figure(Kind.COUNT)
    trainable_params: int | None = _figure(Kind.COUNT)
    total_params: int | None = _figure(Kind.COUNT)
    adapter_bytes: int | None = _figure(Kind.MEMORY, 4)
    lora_slots_bytes: int | None = _figure(Kind.MEMORY, 4)
    peak_device_bytes: int | None = _figure(Kind.MEMORY, 2)

    def items(self) -> Iterator[tuple[FigureSpec, Value | None]]:
        for spec in figure_specs().values():
            yield spec, getattr(self, spec.attribute)

    def known(self) -> dict[str, Value]:
        """The known figures, by attribute."""
        return {spec.attribute: value for spec, value in self.items() if value is not None}

    def to_json(self) -> dict[str, Value | None]:
        """By JSON name, rounded as the log prints them; null if unknown."""
        return {spec.name: None if value is None else spec.to_edge(value) for spec, value in self.items()}

    def bytes_json(self) -> dict[str, int]:
        """The known memory figures in bytes, by attribute."""
        return {
            spec.attribute: int(value) for spec, value in self.items() if spec.kind is Kind.MEMORY and value is not None
        }


@cache
def figure_specs() -> dict[str, FigureSpec]:
    """Every figure's spec by attribute, in the order of `Figures`."""
    specs = {}
    for field in dataclasses.fields(Figures):
        kind: Kind = field.metadata["kind"]
        name = field.name.removesuffix("_bytes") + "_gib" if kind is Kind.MEMORY else field.name
        specs[field.name] = FigureSpec(field.name, name, kind, field.metadata["decimals"], field.metadata["pattern"])
    return specs


# What else a log states, used only to check the figures against each other; and the peaks of a training, which a load does not have.
SIDE_SPECS = {
    spec.attribute: spec
    for spec in (
        FigureSpec("train_peak_allocated_bytes", "train_peak_allocated_gib", Kind.MEMORY, 2),
        FigureSpec("train_peak_device_bytes", "train_peak_device_gib", Kind.MEMORY, 2),
        FigureSpec("train_peak_host_bytes", "train_peak_host_gib", Kind.MEMORY, 2),
        FigureSpec("family", "family", Kind.TEXT, None),
        FigureSpec("engine", "engine", Kind.TEXT, None),
        FigureSpec("conservativeness", "conservativeness", Kind.RATIO, 2),
        FigureSpec("unpatched_qkv", "unpatched_qkv", Kind.TEXT, None),
        FigureSpec("unpatched_o", "unpatched_o", Kind.TEXT, None),
        FigureSpec("unpatched_mlp", "unpatched_mlp", Kind.TEXT, None),
        FigureSpec("unpatched_all", "unpatched_all", Kind.TEXT, None),
        FigureSpec("kv_cache_dtype", "kv_cache_dtype", Kind.TEXT, None),
        FigureSpec("device", "device_config", Kind.TEXT, None),
        FigureSpec("load_format", "load_format", Kind.TEXT, None),
        FigureSpec("load_in_8bit", "load_in_8bit", Kind.TEXT, None),
        FigureSpec("load_in_4bit", "load_in_4bit", Kind.TEXT, None),
        FigureSpec("quant_type", "bnb_4bit_quant_type", Kind.TEXT, None),
        FigureSpec("compute_dtype", "bnb_4bit_compute_dtype", Kind.TEXT, None),
        FigureSpec("quant_storage", "bnb_4bit_quant_storage", Kind.TEXT, None),
        FigureSpec("pipeline_parallel_size", "pipeline_parallel_size", Kind.TEXT, None),
        FigureSpec("speculative_config", "speculative_config", Kind.TEXT, None),
        FigureSpec("draft_model", "draft_model", Kind.TEXT, None),
        FigureSpec("draft_method", "draft_method", Kind.TEXT, None),
        FigureSpec("prefix_caching", "enable_prefix_caching", Kind.TEXT, None),
        FigureSpec("tokenizer", "tokenizer", Kind.TEXT, None),
        FigureSpec("chunked_prefill", "chunked_prefill_enabled", Kind.TEXT, None),
        FigureSpec("scheduler_steps", "num_scheduler_steps", Kind.TEXT, None),
        FigureSpec("remote_code", "trust_remote_code", Kind.TEXT, None),
        FigureSpec("bfloat16", "bfloat16", Kind.TEXT, None),
        FigureSpec("flash_attention_2", "flash_attention_2", Kind.TEXT, None),
        FigureSpec("attention_backend", "attention_backend", Kind.TEXT, None),
        FigureSpec("no_flash_attention", "no_flash_attention", Kind.TEXT, None),
        FigureSpec("double_quant", "bnb_4bit_use_double_quant", Kind.TEXT, None),
        FigureSpec("skip_modules", "llm_int8_skip_modules", Kind.TEXT, None),
        FigureSpec("enforce_eager", "enforce_eager", Kind.TEXT, None),
        FigureSpec("graph_sizes", "graph_sizes", Kind.TEXT, None),
        FigureSpec("largest_graph", "largest_graph", Kind.COUNT, None),
        FigureSpec("tensor_parallel_size", "tensor_parallel_size", Kind.TEXT, None),
        FigureSpec("kv_cache_tokens", "kv_cache_tokens", Kind.COUNT, None),
        FigureSpec("peak_torch_bytes", "peak_torch_gib", Kind.MEMORY, 2),
        FigureSpec("consumed_bytes", "consumed_gib", Kind.MEMORY, 2),
        FigureSpec("graph_estimate_bytes", "graph_estimate_gib", Kind.MEMORY, 2),
        FigureSpec("graph_pool_bytes", "graph_pool_gib", Kind.MEMORY, 2),
        FigureSpec("graph_difference_bytes", "graph_difference_gib", Kind.MEMORY, 2),
        FigureSpec("graph_difference_pct", "graph_difference_pct", Kind.PERCENT, 1),
        FigureSpec("graphs_counted", "graphs_counted", Kind.TEXT, None),
        FigureSpec("utilization_without_graphs_pct", "utilization_without_graphs_pct", Kind.PERCENT, 2),
        FigureSpec("utilization_with_graphs_pct", "utilization_with_graphs_pct", Kind.PERCENT, 2),
        FigureSpec("free_on_start_bytes", "free_on_start_gib", Kind.MEMORY, 2),
        FigureSpec("budget_kv_bytes", "budget_kv_gib", Kind.MEMORY, 2),
        FigureSpec("card_kv_bytes", "card_kv_gib", Kind.MEMORY, 2),
        FigureSpec("asked_length", "asked_length", Kind.COUNT, None),
        FigureSpec("fitted_length", "fitted_length", Kind.COUNT, None),
        FigureSpec("cut_length", "cut_length", Kind.COUNT, None),
    )
}


@cache
def specs_by_name() -> dict[str, FigureSpec]:
    """Every figure's spec by its JSON name."""
    return {spec.name: spec for spec in figure_specs().values()}


@dataclass(frozen=True, slots=True)
class Reading:
    """One place where a log states a figure.

    Attributes:
        attribute: which figure, by its name in `Figures` or `SIDE_SPECS`.
        value: in the figure's own unit (bytes for memory).
        decimals: how many decimals were printed; None for exact values, such as counts and our own byte counts.
        line: number of the line, from 1.
    """

    attribute: str
    value: Value
    decimals: int | None
    line: int

    @property
    def spec(self) -> FigureSpec:
        return figure_specs().get(self.attribute) or SIDE_SPECS[self.attribute]

    @property
    def tolerance(self) -> float:
        """Half a unit of the last printed digit, in the figure's own unit: the true value is within ± this."""
        if self.decimals is None:
            return 0.0
        half = 0.5 * 10.0**-self.decimals
        return from_gib(half) if self.spec.kind is Kind.MEMORY else half

    def agrees(self, value: Value) -> bool:
        """Whether `value`, printed with this reading's decimals, looks the same (a tie may round either way)."""
        if isinstance(self.value, str) or isinstance(value, str):
            return self.value == value
        slack = 1 if self.spec.kind is Kind.MEMORY else 1e-9
        return abs(self.value - value) <= self.tolerance + slack

    def show(self) -> str:
        return self.spec.show(self.value, self.decimals)
