"""CUDA graphs: which batch sizes vLLM captures, and what they hold."""

from __future__ import annotations

from loadcheck.predict.activation import cublas_workspace, forward_peak
from loadcheck.predict.terms import Term, total
from loadcheck.specs.model import ModelConfig
from loadcheck.units import KIB, round_up

# The driver's memory for one node of a graph, where a card was never measured: fitted over the public logs of T4 and
# RTX 4090 D (9.4 to 11.0 KiB), and on the H100 (5.4 KiB).
NODE_BYTES = 10 * KIB + 205
NODE_BYTES_HOPPER = 5 * KIB + 410

# Kernels that one layer launches in a decode step, counted in the sources: norms, rope, cache and attention; each 4-bit linear
# dequantizes its absmax, adds the offset, dequantizes, multiplies and copies; LoRA fills 4 buffers, shrinks and expands 7 slices.
_NODES_BASE = 6.5
_NODES_LINEARS = {"nf4": 35, "16bit": 4}
_NODES_LORA = 18


def capture_sizes(max_num_seqs: int) -> list[int]:
    """The batch sizes captured, ascending: 1, 2, 4 and every multiple of 8 up to the smallest that holds all sequences.

    vllm/config.py:3286-3348 and 2981-3026 at 0.7.2.
    """
    largest = next((size for size in (1, 2, 4) if size >= max_num_seqs), round_up(max_num_seqs, 8))
    return [size for size in (1, 2, 4, *range(8, largest + 1, 8)) if size <= largest]


def graph_nodes(config: ModelConfig, max_num_seqs: int) -> int:
    """Kernel launches recorded in all graphs."""
    bias = 1 if config.quantization == "nf4" and config.qkv_bias else 0
    per_layer = _NODES_BASE + _NODES_LINEARS[config.quantization] + bias + _NODES_LORA
    return int(per_layer * config.num_hidden_layers * len(capture_sizes(max_num_seqs)))


def graph_memory(config: ModelConfig, max_num_seqs: int, compute_capability: float, node_bytes: int | None) -> Term:
    """What "Graph capturing finished …, took X GiB" says: the pool, a workspace, and the driver's memory for the nodes.

    The pool holds the forward peak of the largest size; the second cuBLAS workspace is that of the capture's stream
    (vllm/worker/model_runner.py:1419-1563 at 0.7.2). Bytes of a node are the driver's own and fitted (env/gpus.toml).
    """
    largest = capture_sizes(max_num_seqs)[-1]
    hopper = int(compute_capability) == 9
    each = node_bytes if node_bytes is not None else NODE_BYTES_HOPPER if hopper else NODE_BYTES
    nodes = graph_nodes(config, max_num_seqs)
    return total(
        "cuda_graph",
        [
            Term("pool", forward_peak(config, largest, compute_capability).num_bytes, "as the forward peak"),
            cublas_workspace(compute_capability),
            Term(f"{nodes} nodes", nodes * each, "env/gpus.toml: graph_node_bytes"),
        ],
    )
