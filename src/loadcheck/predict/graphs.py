"""CUDA graphs: which batch sizes vLLM captures, and what they hold."""

from __future__ import annotations

from loadcheck.predict.activation import forward_peak
from loadcheck.predict.terms import Term, total
from loadcheck.specs.model import ModelConfig
from loadcheck.units import KIB, round_up

# Where a card was never measured: the middle of what was seen, 0.25 MiB (Hopper) to 0.62 MiB (T4) per layer and graph.
DEFAULT_LAYER_BYTES = 430 * KIB


def capture_sizes(max_num_seqs: int) -> list[int]:
    """The batch sizes captured, ascending: 1, 2, 4 and every multiple of 8 up to the smallest that holds all sequences.

    vllm/config.py:3286-3348 and 2981-3026 at 0.7.2.
    """
    largest = next((size for size in (1, 2, 4) if size >= max_num_seqs), round_up(max_num_seqs, 8))
    return [size for size in (1, 2, 4, *range(8, largest + 1, 8)) if size <= largest]


def graph_memory(config: ModelConfig, max_num_seqs: int, compute_capability: float, layer_bytes: int | None) -> Term:
    """ "Graph capturing finished …, took X GiB": the pool, which holds the forward peak of the largest size, and the graphs.

    The pool is derived; the bytes per layer and graph are fitted for each card (env/gpus.toml), as they are the driver's own.
    vllm/worker/model_runner.py:1419-1563 at 0.7.2.
    """
    sizes = capture_sizes(max_num_seqs)
    pool = forward_peak(config, sizes[-1], compute_capability)
    each = DEFAULT_LAYER_BYTES if layer_bytes is None else layer_bytes
    nodes = Term("graphs", len(sizes) * config.num_hidden_layers * each, "env/gpus.toml: graph_layer_bytes")
    return total("cuda_graph", [Term("pool", pool.num_bytes, "as the forward peak"), nodes])
