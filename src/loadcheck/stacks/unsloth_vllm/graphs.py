"""CUDA graphs: which batch sizes vLLM captures, and the memory that they take."""

from __future__ import annotations

from loadcheck.logs import Attempt
from loadcheck.predict.terms import Term, total
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.activation import cublas_workspace, forward_peak
from loadcheck.stacks.unsloth_vllm.allocator import cached
from loadcheck.stacks.unsloth_vllm.quantization import MERGED_LINEARS, kinds_of_layers
from loadcheck.units import MIB, round_up

LARGEST_GRAPH = 8192


def captures_graphs(profile: Profile) -> bool:
    """Whether an engine with this profile captures graphs (vllm/worker/worker.py:336)."""
    return not profile.enforce_eager


def captured_in_log(attempt: Attempt) -> bool:
    """Whether the engine of a log captures graphs, by the configuration that it logs."""
    eager = attempt.reading("enforce_eager")
    return eager is None or eager.value != "True"


# Fitted together over ten runs on an H100 (driver 580.159, 2026-11-24, tests/runs/h100; largest residual 4.6 %): the capture's fixed cost
# besides a second cuBLAS workspace, the ratio of the pool's reserved memory to its peak, and the driver's memory per node.
BASE_BYTES = 76 * MIB
POOL_SHARE = 1.31
NODE_BYTES_HOPPER = 3_560
# With the same base and share, the T4 logs of Llama 3.1 8B, Phi-4 and Qwen2.5 3B leave 7.9 to 8.3 KiB per node.
NODE_BYTES = 8_200

# Kernels that one layer launches in a decode step, counted in the sources: norms, rope, cache and attention; each 4-bit linear
# dequantizes its absmax, adds the offset, dequantizes, multiplies and copies; LoRA fills 4 buffers, shrinks and expands 7 slices.
_NODES_BASE = 6.5
_NODES_LINEARS = {"nf4": 35, "16bit": 4}
_NODES_LORA = 18


def capture_sizes(max_num_seqs: int) -> list[int]:
    """The captured batch sizes, ascending: 1, 2, 4 and every multiple of 8 up to the smallest that holds all sequences.

    vllm/config.py:3286-3348 and 2981-3026 at 0.7.2; at most 8192.
    """
    smallest = next((size for size in (1, 2, 4) if size >= max_num_seqs), round_up(max_num_seqs, 8))
    largest = min(smallest, LARGEST_GRAPH)
    return [size for size in (1, 2, 4, *range(8, largest + 1, 8)) if size <= largest]


def graph_nodes(config: ModelConfig, max_num_seqs: int) -> int:
    """Kernel launches recorded in all graphs.

    The four linears of a layer launch about equally many kernels, so a dynamic quant's layer has those of 4-bit and of 16-bit linears in
    proportion. Not measured in a load of one.
    """
    launches = sum(_layer_nodes(config, quantized) * count for quantized, count in kinds_of_layers(config).items())
    return int(launches * len(capture_sizes(max_num_seqs)))


def _layer_nodes(config: ModelConfig, quantized: frozenset[str]) -> float:
    bias = 1 if "qkv_proj" in quantized and config.qkv_bias else 0
    share = len(quantized) / len(MERGED_LINEARS)
    linears = share * _NODES_LINEARS["nf4"] + (1 - share) * _NODES_LINEARS["16bit"]
    return _NODES_BASE + config.architecture.more_kernels + linears + bias + _NODES_LORA * config.lora


NO_GRAPHS = Term("cuda_graph", 0, "enforce_eager: none are captured (vllm/worker/worker.py:336)")


@cached(maxsize=1024)
def graph_memory(config: ModelConfig, max_num_seqs: int, compute_capability: float, node_bytes: int | None) -> Term:
    """The figure in "Graph capturing finished …, took X GiB": the pool, a workspace, and the driver's memory for the nodes.

    The pool holds the forward peak of the largest size; the second cuBLAS workspace belongs to the capture's stream
    (vllm/worker/model_runner.py:1419-1563 at 0.7.2). The bytes per node depend on the card and its driver (env/gpus.toml).
    """
    largest = capture_sizes(max_num_seqs)[-1]
    hopper = int(compute_capability) == 9
    each = node_bytes if node_bytes is not None else NODE_BYTES_HOPPER if hopper else NODE_BYTES
    nodes = graph_nodes(config, max_num_seqs)
    pool = forward_peak(config, largest, compute_capability).num_bytes
    return total(
        "cuda_graph",
        [
            Term("pool", int(POOL_SHARE * pool), f"as the forward peak of {largest} tokens"),
            cublas_workspace(compute_capability),
            Term("base", BASE_BYTES, "fitted: tests/runs/h100"),
            Term(f"{nodes} nodes", nodes * each, "env/gpus.toml: graph_node_bytes"),
        ],
    )
