"""The activation peak of vLLM's memory profile: the largest of several moments, most often the sampler's sort.

The profile runs N = max_num_seqs prompts that share T = max_num_batched_tokens tokens (vllm/worker/model_runner.py:1231-1352
at 0.7.2). The live tensors of each moment were traced with vLLM's own classes under FakeTensorMode, for llama, mistral and qwen2, in
4-bit and 16-bit, for 400 to 32768 tokens and 16 to 288 sequences, and for granite and gemma on torch's meta device
(scripts/trace_profile.py, tests/traced_profile.tsv); the formulas give the same bytes. Buffers inside kernels (torch.sort, cuBLAS) are
taken from their sources.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.predict.terms import Term, total
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.allocator import cached, rounded
from loadcheck.stacks.unsloth_vllm.quantization import MERGED_LINEARS, kinds_of_layers
from loadcheck.stacks.unsloth_vllm.weights import DTYPE_BYTES, extended_vocab, head_rows
from loadcheck.units import round_up

# cuBLAS allocates its workspace on first use and keeps it: torch 2.5.1, aten/src/ATen/cuda/CublasHandlePool.cpp
CUBLAS_WORKSPACE_BYTES = 8_519_680
CUBLAS_WORKSPACE_HOPPER_BYTES = 33_554_432
SEGMENTED_SORT_ROWS = 128
"""With at least this many rows torch uses a segmented sort, with less scratch: aten/src/ATen/native/cuda/SortStable.cu."""
CUB_ALIGNMENT = 256
# Elements per tile of CUB's radix sort, by major compute capability: DispatchRadixSort's onesweep policies. The one of 9.0 is unknown;
# an H100 run of 113 sequences (tests/runs/h100) is consistent with 4,600 to 13,900. It changes the peak by less than 0.2 %.
_SORT_TILE = {7: 2816, 9: 5120}
_SORT_TILE_BEYOND = 3840
DUMMY_LORA_RANK = 8
"""The rank of the adapters that the profile runs with (vllm/worker/model_runner.py:67)."""


@cached(maxsize=1024)
def activation_peak(config: ModelConfig, num_tokens: int, num_seqs: int, compute_capability: float) -> Term:
    """Peak of torch's allocated bytes during the profile, above what was allocated before it; cached, like `weights`."""
    moments = [
        sampler_peak(config, num_tokens, num_seqs, compute_capability),
        forward_peak(config, num_tokens, compute_capability),
    ]
    largest = max(moments, key=lambda term: term.num_bytes)
    parts = [
        *largest.parts,
        cublas_workspace(compute_capability),
        lora_pointers(config),
        step_inputs(num_tokens, num_seqs),
    ]
    return total(f"activation_peak ({largest.name})", parts, largest.source)


def cublas_workspace(compute_capability: float) -> Term:
    """Allocated at the first matrix product and kept; a second load in the same process does not allocate it again."""
    size = CUBLAS_WORKSPACE_HOPPER_BYTES if int(compute_capability) == 9 else CUBLAS_WORKSPACE_BYTES
    return Term("cuBLAS workspace", size, "torch 2.5.1 aten/src/ATen/cuda/CublasHandlePool.cpp")


def lora_pointers(config: ModelConfig) -> Term:
    """Small tensors of pointers to the slots, created at the first forward pass and kept; more where q, k and v differ in size."""
    if not config.lora:
        return Term("LoRA pointers", 0)
    strides = 2048 if config.q_size != config.kv_size else 0
    each = 512 + 1024 + strides + 512 + 1024
    return Term("LoRA pointers", each * config.num_hidden_layers, "vllm/lora/ops/triton_ops/utils.py:56-190")


def step_inputs(num_tokens: int, num_seqs: int) -> Term:
    """Token ids, positions and sampling tensors: tens of kilobytes, the only part that was not traced to the byte."""
    size = 3 * rounded(8 * num_tokens) + 6 * rounded(4 * num_seqs)
    return Term("inputs", size, "vllm/worker/model_runner.py:1231-1352")


def sampler_peak(config: ModelConfig, num_tokens: int, num_seqs: int, compute_capability: float) -> Term:
    """The live tensors while the logits of all sequences are sorted for top-k and top-p.

    The 16-bit logits are as wide as the padded head, and a view of them keeps the whole tensor alive.
    """
    n = num_seqs * extended_vocab(config)
    source = "vllm/model_executor/layers/sampler.py:271, 393"
    tensors = {
        "hidden states": DTYPE_BYTES * num_tokens * config.hidden_size,
        "logits, 16-bit": DTYPE_BYTES * num_seqs * head_rows(config),
        "logits, fp32": 4 * n,
        "sorted logits": 4 * n,
        "sorted indices": 8 * n,
    }
    parts = [Term(name, rounded(size), source) for name, size in tensors.items()]
    return total("sampler", [*parts, *_sort_scratch(n, num_seqs, compute_capability)], source)


def _sort_scratch(n: int, rows: int, compute_capability: float) -> Iterator[Term]:
    """torch.sort's own buffers for n fp32 keys in `rows` rows: torch 2.5.1 aten/src/ATen/native/cuda/SortStable.cu."""
    source = "torch 2.5.1 aten/src/ATen/native/cuda/SortStable.cu"
    if rows >= SEGMENTED_SORT_ROWS:
        yield Term("sort: reverse indices", rounded(8 * n), source)
        scratch = round_up(4 * n, CUB_ALIGNMENT) + round_up(8 * n, CUB_ALIGNMENT) + CUB_ALIGNMENT - 1
        yield Term("sort: scratch", rounded(scratch), "torch 2.5.1 aten/src/ATen/cuda/cub.cuh:124-158")
        return
    yield Term("sort: indices", rounded(8 * n), source)
    if rows > 1:
        yield Term("sort: segments and keys", rounded(8 * n) + rounded(4 * n), source)
    yield Term("sort: scratch", rounded(_onesweep_scratch(n, compute_capability)), "CUB DispatchRadixSort, onesweep")


def _onesweep_scratch(n: int, compute_capability: float) -> int:
    """CUB's radix sort of n 4-byte keys with 8-byte values in 4 passes: a copy of both, histograms and look-back."""
    tile = _SORT_TILE.get(int(compute_capability), _SORT_TILE_BEYOND)
    passes, digits = 4, 256
    portion = ((1 << 28) - 1) // tile * tile
    num_portions = -(-n // portion)
    blocks = -(-min(n, portion) // tile)
    sizes = (num_portions * passes * digits * 4, blocks * digits * 4, 4 * n, 8 * n, num_portions * passes * 4)
    return sum(round_up(size, CUB_ALIGNMENT) for size in sizes) + CUB_ALIGNMENT - 1


@cached(maxsize=1024)
def forward_peak(config: ModelConfig, num_tokens: int, compute_capability: float) -> Term:
    """The peak within a layer: the largest of its four linears, its attention and its activation function.

    Several `hidden` tensors of the residual stream are alive beside each: the model's frame, the residual and the attention's output; how
    many depends on the architecture. For a dynamic quant it is the peak over all kinds of layers; a 16-bit layer dequantizes nothing.
    """
    moments: dict[str, int] = {}
    for quantized in kinds_of_layers(config):
        for name, size in _moments(_Layer(config, num_tokens, quantized), compute_capability).items():
            moments[name] = max(size, moments.get(name, 0))
    widest = max(moments, key=lambda name: moments[name])
    source = config.architecture.source
    return total(f"forward: {widest}", [Term(f"layer at {widest}", moments[widest], source)], source)


def _moments(sizes: _Layer, compute_capability: float) -> dict[str, int]:
    """The bytes that a layer holds at each of its steps."""
    first, second = sizes.residual
    return {
        "qkv_proj": first + sizes.linear("qkv_proj"),
        "attention": first + sizes.qkv + sizes.attention(compute_capability),
        "o_proj": first + sizes.qkv + sizes.q + sizes.linear("o_proj"),
        "gate_up_proj": second + sizes.linear("gate_up_proj"),
        "activation function": second + sizes.gate_up + sizes.inner,
        "down_proj": second + sizes.inner + sizes.kept_gate_up + sizes.linear("down_proj"),
    }


class _Layer:
    """Rounded sizes in bytes of a layer's tensors for `num_tokens` tokens. `quantized` names its 4-bit linears."""

    def __init__(self, config: ModelConfig, num_tokens: int, quantized: frozenset[str]) -> None:
        self._config, self._quantized = config, quantized
        self._num_tokens = num_tokens
        hidden = self._tensor(config.hidden_size)
        attention, mlp = config.architecture.hidden_copies
        self.residual = attention * hidden, mlp * hidden
        self.q = self._tensor(config.q_size)
        self.qkv = self._tensor(config.q_size + 2 * config.kv_size)
        self.inner = self._tensor(config.intermediate_size)
        self.gate_up = self._tensor(2 * config.intermediate_size)
        self.kept_gate_up = self.gate_up if config.architecture.keeps_gate_up else 0

    def _tensor(self, width: int) -> int:
        return rounded(DTYPE_BYTES * self._num_tokens * width)

    def linear(self, name: str) -> int:
        """A linear's output plus its largest temporary.

        In 4-bit each shard is dequantized to 16 bits, then multiplied; its fp32 absmax is freed before the product is allocated
        (unsloth_zoo/vllm_utils.py:81-132, bitsandbytes/functional.py:1351-1358). LoRA adds in fp32 buffers
        (vllm/lora/punica_wrapper/punica_gpu.py).
        """
        num_in, shards = self._shards(name)
        output = self._tensor(sum(shards))
        lora = rounded(4 * len(shards) * self._num_tokens * DUMMY_LORA_RANK) if self._config.lora else 0
        quantized = [self._dequantized(num_in, shard) for shard in shards] if name in self._quantized else []
        return output + max([lora, *quantized])

    def _dequantized(self, num_in: int, num_out: int) -> int:
        absmax = rounded(4 * -(-num_in * num_out // 64))
        return rounded(DTYPE_BYTES * num_in * num_out) + max(self._tensor(num_out), absmax)

    def _shards(self, name: str) -> tuple[int, list[int]]:
        linears, names = self._config.linears, MERGED_LINEARS[name]
        return linears[names[0]][0], [linears[name][1] for name in names]

    def attention(self, compute_capability: float) -> int:
        """flash-attn's output and log-sum-exp; below 8.0 xformers' output, one part for each group of heads, and their stack.

        With an 8-bit KV cache xFormers uses the same kernel, and vLLM copies its output (vllm/platforms/cuda.py:190-199,
        vllm/attention/backends/xformers.py:534-566; not observed in a load, because the sampler is the peak).
        """
        config = self._config
        if compute_capability >= 8:
            copies = 2 if config.kv_number_bytes == 1 else 1
            return copies * self.q + rounded(4 * config.num_attention_heads * self._num_tokens)
        groups = config.num_key_value_heads
        if groups == config.num_attention_heads:
            return 2 * self.q
        return self.q + groups * self._tensor(config.q_size // groups) + self.q
