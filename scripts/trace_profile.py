"""Write tests/traced_profile.tsv: the weights and the forward pass of vLLM's own model classes, without a GPU.

    .venv/gpu/bin/python scripts/trace_profile.py

vllm 0.7.2's models run unchanged on torch's meta device, where a tensor has a size but no values. What needs a GPU is replaced by code that
makes the same tensors: the attention (FlashAttention's output and log-sum-exp), vLLM's own kernels (which write into their callers'
tensors), bitsandbytes' product with a 4-bit weight (its absmax in fp32, the weight in 16 bits, the product), LoRA's buffers, and gemma's norm,
which torch.compile turns into one kernel. A dispatch mode counts each tensor as torch's CUDA allocator does.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
os.environ.update(VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

from trace_training import META, Count, rounded  # noqa: E402

BF16, FP32 = torch.bfloat16, torch.float32
DUMMY_RANK = 8
SHARDS = {"qkv_proj": 3, "o_proj": 1, "gate_up_proj": 2, "down_proj": 1}
MODELS = (
    "llama-3.2-1b-instruct",
    "qwen2.5-1.5b-instruct",
    "granite-3.1-2b-instruct",
    "granite-3.1-8b-instruct",
    "gemma-2b-it",
    "gemma-7b-it",
)
TOKENS = (512, 4096)
LAYERS = 3
COLUMNS = ("model", "quantization", "lora", "tokens", "forward_bytes", "outside_layers_bytes")


def empty(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


class Attention(torch.nn.Module):
    """vllm/attention/layer.py with FlashAttention: an output like the query, and a log-sum-exp in fp32."""

    def __init__(self, num_heads: int, head_size: int, *_args: object, **_kwargs: object) -> None:
        super().__init__()
        self.num_heads, self.head_size = num_heads, head_size

    def forward(self, query: torch.Tensor, *_args: object) -> torch.Tensor:
        out = torch.empty_like(query)
        lse = empty(self.num_heads, query.shape[0], dtype=FP32)
        del lse
        return out


def replace_kernels() -> None:
    """Replace kernels that write into existing tensors, and gemma's compiled norm, which only allocates its result."""
    from vllm import _custom_ops
    from vllm.model_executor.layers import activation, layernorm, rotary_embedding
    from vllm.model_executor.models import gemma, granite, llama, qwen2

    for name in ("rms_norm", "fused_add_rms_norm", "rotary_embedding"):
        setattr(_custom_ops, name, lambda *_args, **_kwargs: None)

    def gated(_self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.empty((*x.shape[:-1], x.shape[-1] // 2), dtype=x.dtype, device=x.device)

    for kind in (activation.SiluAndMul, activation.GeluAndMul):
        kind.__init__ = lambda self, *_args, **_kwargs: torch.nn.Module.__init__(self)
        kind.forward = gated

    def norm(_self: Any, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        variance = empty(x.shape[0], 1, dtype=FP32)
        if residual is None:
            out = torch.empty_like(x)
            del variance
            return out
        added, out = torch.empty_like(x), torch.empty_like(x)
        return out, added

    layernorm.GemmaRMSNorm.forward = norm
    layernorm.RMSNorm.forward = layernorm.RMSNorm.forward_cuda
    rotary_embedding.RotaryEmbedding.forward = rotary_embedding.RotaryEmbedding.forward_cuda
    for module in (gemma, granite, llama, qwen2):
        module.Attention = Attention


def nf4_product(x: torch.Tensor, num_out: int, num_in: int) -> torch.Tensor:
    """bitsandbytes' matmul_4bit (autograd/_functions.py: MatMul4Bit.forward; functional.py: dequantize_4bit)."""
    absmax = empty(-(-num_in * num_out // 64), dtype=FP32)
    weight = empty(num_out, num_in)
    del absmax
    return functional.linear(x, weight)


class Linears:
    """The quant_method of every linear: vLLM's own in 16 bits, unsloth's in 4; then LoRA's buffer (vllm/lora/layers.py:340-370)."""

    def __init__(self, own: Any, name: str, lora: bool, quantized: bool) -> None:
        self._own, self._name, self._lora, self._quantized = own, name, lora, quantized

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        out = self._in_4bit(layer, x, bias) if self._quantized else self._own.apply(layer, x, bias)
        if self._lora:
            buffer = empty(SHARDS[self._name], x.shape[0], DUMMY_RANK, dtype=FP32)
            del buffer
        return out

    def _in_4bit(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        sizes = getattr(layer, "output_sizes", None) or [layer.output_size]
        out = empty(x.shape[0], sum(sizes))
        at = 0
        for size in sizes:
            out[:, at : at + size] = nf4_product(x, size, layer.input_size)
            at += size
        if bias is not None:
            out += bias
        return out


def build(config: Any, lora: bool) -> Any:
    """The model as vLLM's loader makes it (vllm/model_executor/model_loader/loader.py:120-135)."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.models import ModelRegistry

    settings = SimpleNamespace(lora_extra_vocab_size=256, max_loras=1, lora_vocab_padding_size=256) if lora else None
    whole = VllmConfig()
    whole.model_config = SimpleNamespace(hf_config=config, dtype=BF16)
    whole.lora_config, whole.cache_config = settings, SimpleNamespace(sliding_window=None)
    kind, _ = ModelRegistry.resolve_model_cls(config.architectures)
    with set_current_vllm_config(whole), META:
        return kind(vllm_config=whole)


def trace(name: str, quantized: bool, lora: bool, num_tokens: int) -> dict[str, object]:
    """The peak of a forward pass above the memory before it, and the tensors outside the layers."""
    from transformers import AutoConfig
    from vllm.model_executor.layers import rotary_embedding

    rotary_embedding._ROPE_DICT.clear()
    data = tomllib.loads((ROOT / "env" / "models" / f"{name}.toml").read_text(encoding="utf-8"))["config"]
    config = AutoConfig.for_model(data.pop("model_type"), **{**data, "num_hidden_layers": LAYERS})
    model = build(config, lora)
    storages = {each.untyped_storage()._cdata: each for each in [*model.parameters(), *model.buffers()]}
    inside = {each.untyped_storage()._cdata for each in [*model.model.layers.parameters()]}
    for path, module in model.named_modules():
        if (short := path.rpartition(".")[2]) in SHARDS:
            module.quant_method = Linears(module.quant_method, short, lora, quantized)
    ids, positions = (torch.empty((num_tokens,), dtype=torch.int64, device=META) for _ in range(2))
    with torch.inference_mode(), Count() as count:
        for each in (*storages.values(), ids, positions):
            count._add(each, resized=False)
        count.keep()
        before = count.peak_bytes = count.held_bytes
        out = model(ids, positions, [None] * LAYERS, None)
        count.sweep()
        del out
    return {
        "model": name, "quantization": "nf4" if quantized else "16bit", "lora": int(lora), "tokens": num_tokens,
        "forward_bytes": count.peak_bytes - before,
        "outside_layers_bytes": sum(rounded(each.untyped_storage().nbytes()) for key, each in storages.items() if key not in inside),
    }  # fmt: skip


def start() -> None:
    """Initialize torch.distributed with this process alone, on the CPU."""
    from vllm.distributed.parallel_state import init_distributed_environment, initialize_model_parallel

    with tempfile.NamedTemporaryFile() as file:
        init_distributed_environment(1, 0, f"file://{file.name}", 0, "gloo")
    initialize_model_parallel()
    torch.set_default_dtype(BF16)
    replace_kernels()


def main() -> None:
    start()
    with (ROOT / "tests" / "traced_profile.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for name in MODELS:
            for quantized, lora in ((True, True), (False, True), (True, False), (False, False)):
                for num_tokens in TOKENS:
                    writer.writerow(trace(name, quantized, lora, num_tokens))


if __name__ == "__main__":
    main()
