"""Write tests/training/traced.tsv: the memory of upstream's own training code, counted tensor by tensor, without a GPU.

    .venv/gpu/bin/python scripts/trace_training.py           (all cases, 2 to 5 minutes)
    .venv/gpu/bin/python scripts/trace_training.py 3 7       (some; prints, and writes nothing)

unsloth, peft, bitsandbytes and trl run unchanged at the pinned versions, on torch's meta device: a tensor has a size but no values. What needs
a GPU is replaced: CUDA's own queries, Triton's kernels (which make no tensors), calls of the 4-bit library, autocast (which meta tensors lack),
dropout's and attention's CUDA versions, and the copy to the host. A dispatch mode sees every tensor that is made, and counts it as torch's
CUDA allocator does until its storage is freed.

The meta device differs in two ways: two gradients for one tensor are never added in place, which no peak depends on; and a scalar of 512 bytes is
counted twice where a loss is detached.
"""

from __future__ import annotations

import csv
import gc
import inspect
import os
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tomllib
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
from loadcheck.stacks.unsloth_vllm.allocator import rounded  # noqa: E402

META = torch.device("meta")
BF16, FP32 = torch.bfloat16, torch.float32
NUM_SMS = 132
WORKSPACE_BYTES = 33_554_432
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
COLUMNS = ("model", "method", "quantization", "targets", "dropout", "gradient_checkpointing",
           "B", "T", "A", "G", "P", "C", "optim", "later_peak")  # fmt: skip
LLAMA, QWEN, MISTRAL = "llama-3.2-1b-instruct", "qwen2.5-1.5b-instruct", "mistral-7b-instruct-v0.3"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
CASES: list[dict[str, Any]] = [
    {"model": QWEN, "B": 2, "T": 1024},
    {"model": MISTRAL, "T": 2048},
    {"model": LLAMA, "T": 2048, "targets": ("q_proj", "v_proj")},
    {"model": LLAMA, "T": 2048, "targets": ATTENTION},
    {"model": LLAMA, "T": 2048, "targets": ATTENTION, "checkpointing": False},
    {"model": LLAMA, "T": 2048, "dropout": 0.1},
    {"model": LLAMA, "T": 2048, "dropout": 0.1, "checkpointing": False},
    {"model": LLAMA, "T": 2048, "quantized": False},
    {"model": LLAMA, "T": 2048, "quantized": False, "dropout": 0.1},
    {"model": LLAMA, "T": 2048, "quantized": False, "targets": ("q_proj", "v_proj", "down_proj"), "checkpointing": True},
    {"model": LLAMA, "B": 2, "T": 1024, "checkpointing": True},
    {"model": "qwen2.5-0.5b-instruct", "T": 256, "checkpointing": False},
    {"model": "smollm2-135m-instruct", "T": 300, "A": 2},
    {"model": QWEN, "B": 2, "T": 1024, "dropout": 0.05, "checkpointing": True},
    {"model": "llama-3.2-3b-instruct", "B": 3, "T": 777, "A": 2, "checkpointing": False},
    {"model": "qwen2.5-3b-instruct", "T": 1500, "targets": ("gate_proj", "up_proj", "down_proj")},
    {"model": "qwen2.5-7b-instruct", "T": 3000, "quantized": False, "checkpointing": False},
    {"model": MISTRAL, "B": 2, "T": 333, "optim": "adamw_torch", "targets": ("q_proj", "o_proj", "gate_proj")},
    {"model": LLAMA, "method": "grpo", "G": 4, "P": 100, "C": 60},
    {"model": QWEN, "method": "grpo", "G": 8, "P": 300, "C": 20, "A": 2},
    {"model": QWEN, "method": "grpo", "G": 3, "P": 30, "C": 200, "checkpointing": False},
    {"model": MISTRAL, "method": "grpo", "G": 2, "P": 128, "C": 300, "quantized": False, "dropout": 0.1},
    {"model": LLAMA, "method": "grpo", "B": 2, "G": 8, "P": 64, "C": 100, "targets": ("q_proj", "v_proj"), "checkpointing": True},
    {"model": "llama-3.2-3b-instruct", "method": "grpo", "B": 3, "G": 2, "P": 77, "C": 33, "quantized": False},
]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- no GPU at all


def pretend_gpu() -> None:
    """Answer what unsloth asks of CUDA at its import, for a card of 9.0."""
    os.environ.update(UNSLOTH_DISABLE_STATISTICS="1", DO_NOT_TRACK="1", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1",
                      TRANSFORMERS_OFFLINE="1", CUDA_VISIBLE_DEVICES="0", CUDA_DEVICE_ORDER="PCI_BUS_ID")  # fmt: skip
    os.system = lambda command: 0  # noqa: ARG005  # unsloth/__init__.py:152-172 would run ldconfig
    card = SimpleNamespace(total_memory=80 << 30, multi_processor_count=NUM_SMS, name="H100", major=9, minor=0)
    answers = {
        "is_available": True, "device_count": 1, "get_device_capability": (9, 0), "get_device_name": "NVIDIA H100",
        "is_bf16_supported": True, "empty_cache": None, "mem_get_info": (80 << 30, 80 << 30), "current_device": 0,
        "get_device_properties": card, "current_stream": SimpleNamespace(cuda_stream=0), "manual_seed_all": None,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_args, _answer=answer, **_kwargs: _answer)
    torch.cuda.memory.mem_get_info = torch.cuda.mem_get_info
    torch.compile = lambda function=None, **_kwargs: function if function is not None else lambda inner: inner


class NoKernel:
    """A Triton kernel that does nothing."""

    def __getitem__(self, _grid: object) -> Any:
        return lambda *_args, **_kwargs: None


def replace_kernels() -> None:
    """Replace Triton's and bitsandbytes' kernels, which write into their callers' tensors."""
    import cut_cross_entropy.cce_backward as backward
    import cut_cross_entropy.cce_lse_forward as forward
    import cut_cross_entropy.indexed_dot as dot
    from unsloth.kernels import cross_entropy_loss, rms_layernorm, rope_embedding, swiglu, utils

    for module in (cross_entropy_loss, rms_layernorm, rope_embedding, swiglu):
        for name, value in list(vars(module).items()):
            if name.startswith("_") and type(value).__module__.startswith("triton"):
                setattr(module, name, NoKernel())
    backward._cce_backward_kernel = forward._cce_lse_forward_kernel = dot._indexed_neg_dot_forward_kernel = NoKernel()
    utils.get_ptr, utils.CUDA_STREAM = lambda _tensor: 0, 0
    for name in ("fp32", "fp16_nf4", "bf16_nf4"):
        setattr(utils, f"cdequantize_blockwise_{name}", lambda *_args: None)


def replace_operators() -> None:
    """Replace bitsandbytes' dequantize_4bit, CUDA's dropout, xformers' attention, and the copies to the host and back."""
    import bitsandbytes.functional
    import torch.utils.checkpoint
    import unsloth.models.llama
    import unsloth.models.mistral
    from unsloth_zoo import gradient_checkpointing

    bitsandbytes.functional.dequantize_4bit = dequantize_4bit
    functional.dropout = dropout
    unsloth.models.llama.xformers_attention = unsloth.models.mistral.xformers_attention = attention
    name = "Unsloth_Offloaded_Gradient_Checkpointer"
    source = textwrap.dedent(inspect.getsource(getattr(gradient_checkpointing, name)))
    source = source.replace('hidden_states.to("cpu", non_blocking = True)', "to_host(hidden_states)")
    source = source.replace('hidden_states.to("cuda:0", non_blocking = True)', "to_card(hidden_states)")
    scope = {**vars(gradient_checkpointing), "to_host": to_host, "to_card": to_card}
    exec(source, scope)
    setattr(unsloth.models.llama, name, scope[name])
    torch.utils.checkpoint._infer_device_type = lambda *_args: "cuda"


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape that takes no memory of the card."""
    return torch.empty((1,), dtype=tensor.dtype, device="cpu").expand(tensor.shape)


def to_card(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)


def dequantize_4bit(packed: torch.Tensor, quant_state: Any, **_kwargs: object) -> torch.Tensor:
    """bitsandbytes/functional.py: dequantize_4bit at 0.46.1: first the absmax in fp32, then the weight."""
    absmax = torch.empty(quant_state.absmax.numel(), dtype=FP32, device=META)
    absmax += quant_state.offset
    out = torch.empty(quant_state.shape, dtype=quant_state.dtype, device=META)
    return out.t() if packed.shape[0] == 1 else out


class NativeDropout(torch.autograd.Function):
    """aten::native_dropout, which CUDA uses: a mask of one byte per element."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        out, mask = torch.empty_like(x), torch.empty(x.shape, dtype=torch.bool, device=META)
        ctx.save_for_backward(mask)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (_mask,) = ctx.saved_tensors
        return torch.empty_like(gradient)


def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:  # noqa: ARG001
    return NativeDropout.apply(x) if training and p else x


class FlashAttention(torch.autograd.Function):
    """aten::_flash_attention_forward and _backward (torch 2.5.1 flash_api.cpp: mha_fwd, mha_bwd), for batches that fill the card."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch, length, heads, _ = q.shape
        out, lse = torch.empty_like(q), torch.empty((batch, heads, length), dtype=FP32, device=META)
        ctx.save_for_backward(q, k, v, out, lse)
        return out, lse

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _lse: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, out, _ = ctx.saved_tensors
        gradient = gradient.reshape(out.shape).contiguous()
        gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        batch, length, heads, dim = q.shape
        rows = -(-length // 128) * 128
        softmax_d = torch.empty((batch, heads, rows), dtype=FP32, device=META)
        dq_accum = torch.empty((batch, rows, heads, -(-dim // 32) * 32), dtype=FP32, device=META)
        del softmax_d, dq_accum
        return gradients


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_bias: object = None) -> torch.Tensor:  # noqa: ARG001
    """xformers' memory_efficient_attention; without gradients it takes groups of heads unexpanded."""
    shape = q.shape
    if q.requires_grad or k.requires_grad or v.requires_grad:
        return FlashAttention.apply(q, k, v)[0].reshape(shape)
    if q.dim() == 5:
        q, k, v = q.reshape(*shape[:2], -1, shape[4]), k[:, :, :, 0], v[:, :, :, 0]
    out, _ = FlashAttention.forward(SimpleNamespace(save_for_backward=lambda *_args: None), q, k, v)
    return out.reshape(shape)


class OnMeta(TorchFunctionMode):
    """Calls for the card go to the meta device; autocast casts what CUDA's would, and keeps its copies of weights as long."""

    LOWER = (
        functional.linear,
        torch.matmul,
        torch.Tensor.matmul,
        torch.Tensor.__matmul__,
        torch.mm,
        torch.Tensor.mm,
        torch.bmm,
    )

    def __init__(self) -> None:
        super().__init__()
        self._casts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        clear = torch.clear_autocast_cache
        torch.clear_autocast_cache = lambda: (self._casts.clear(), clear())  # type: ignore[func-returns-value]

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(function, "__name__", "") == "nonzero":  # every label counts
            return torch.empty((args[0].numel(), args[0].dim()), dtype=torch.int64, device=META)
        if function is not torch.device:
            args = tuple(_moved(value) for value in args)
        if "device" in kwargs:
            kwargs["device"] = _moved(kwargs["device"])
        if function in self.LOWER and torch.is_autocast_enabled("cuda"):
            args = tuple(self._cast(value) for value in args)
        return function(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        """at::autocast::cached_cast: only copies of trained weights are kept."""
        if not isinstance(value, torch.Tensor) or value.dtype != FP32:
            return value
        if not (value.requires_grad and value.is_leaf and not value._is_view()):
            return value.to(BF16)
        if id(value) not in self._casts:
            self._casts[id(value)] = value, value.to(BF16)
        return self._casts[id(value)][1]


def _moved(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("cuda"):
        return "meta"
    return META if isinstance(value, torch.device) and value.type == "cuda" else value


# ----------------------------------------------------------------------------------------------------------------- the count


class Count(TorchDispatchMode):
    """Bytes of every storage on the meta device while it is alive, as the CUDA allocator rounds them."""

    def __init__(self) -> None:
        super().__init__()
        self.held_bytes = self.peak_bytes = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._kept: set[int] = set()

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.sweep()
        out = function(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._add(tensor, resized="resize_" in str(function))
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return out

    def sweep(self) -> None:
        """Stop counting freed storages."""
        for key in [key for key, (reference, _) in self._live.items() if reference.expired()]:
            self.held_bytes -= self._live.pop(key)[1]

    def keep(self) -> None:
        """Keep the present storages for good and stop checking them, except for the rotary tables, which the first pass makes again."""
        self.sweep()
        self._kept = {key for key, (_, num_bytes) in self._live.items() if num_bytes not in self.moving}
        self._live = {key: value for key, value in self._live.items() if key not in self._kept}

    moving: frozenset[int] = frozenset()

    def _add(self, tensor: torch.Tensor, resized: bool) -> None:
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, rounded(storage.nbytes())
        if tensor.device != META or key in self._kept or not num_bytes:
            return
        before = self._live[key][1] if key in self._live else 0
        if before and not resized:
            return
        self.held_bytes += num_bytes
        self.peak_bytes = max(
            self.peak_bytes, self.held_bytes
        )  # a larger block is allocated before the smaller one is freed
        self.held_bytes -= before
        self._live[key] = StorageWeakRef(storage), num_bytes


def _tensors(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


# ----------------------------------------------------------------------------------------------------------------- the model


def build(case: dict[str, Any]) -> Any:
    """The model of two layers with its adapters, as FastLanguageModel makes it (unsloth/models/llama.py:1624-1993)."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.trainer import Trainer
    from unsloth.models import llama
    from unsloth.models.mistral import FastMistralModel
    from unsloth.models.qwen2 import FastQwen2Model

    data = tomllib.loads((ROOT / "env" / "models" / f"{case['model']}.toml").read_text(encoding="utf-8"))["config"]
    kind = data.pop("model_type")
    config = AutoConfig.for_model(kind, **{**data, "num_hidden_layers": 2})
    config.torch_dtype = BF16
    {"llama": llama.FastLlamaModel, "mistral": FastMistralModel, "qwen2": FastQwen2Model}[kind].pre_patch()
    torch.set_default_dtype(BF16)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    torch.set_default_dtype(FP32)
    model.config.torch_dtype = BF16
    if case.get("quantized", True):
        _quantize(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    rotary = model.model.rotary_emb
    rotary.cos_cached, rotary.sin_cached = rotary.cos_cached.to(BF16), rotary.sin_cached.to(BF16)
    for layer in model.model.layers:
        layer.self_attn.apply_qkv, layer.self_attn.apply_o = llama.original_apply_qkv, llama.original_apply_o
        layer.self_attn.rotary_emb = rotary
    model.max_seq_length = model.model.max_seq_length = config.max_position_embeddings
    model._saved_temp_tokenizer = model.model._saved_temp_tokenizer = SimpleNamespace(padding_side="left")
    Trainer._inner_training_loop = _named("_fast_inner_training_loop")
    llama.patch_saving_functions = lambda saved: saved
    return llama.FastLlamaModel.get_peft_model(
        model, r=16, lora_alpha=16, lora_dropout=case.get("dropout", 0.0), target_modules=list(case.get("targets", ALL)),
        use_gradient_checkpointing=case.get("checkpointing", "unsloth"), random_state=1,
    )  # fmt: skip


def _named(name: str) -> Any:
    def function() -> None: ...

    function.__name__ = name
    return function


def _quantize(model: Any) -> None:
    """Replace every linear of a layer by bitsandbytes' 4-bit one, with the state that double quantization keeps."""
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name in ALL:
                if hasattr(block, name):
                    setattr(block, name, _linear4bit(getattr(block, name)))
    model.is_loaded_in_4bit = True


def _linear4bit(linear: Any) -> Any:
    import bitsandbytes as bnb
    from bitsandbytes.functional import QuantState

    def empty(*shape: int, dtype: torch.dtype = FP32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=META)

    num_out, num_in, bias = linear.out_features, linear.in_features, linear.bias is not None
    n = num_out * num_in
    made = bnb.nn.Linear4bit(num_in, num_out, bias=bias, compute_dtype=BF16, quant_type="nf4", device="meta")
    weight = bnb.nn.Params4bit(
        empty(n // 2, 1, dtype=torch.uint8), requires_grad=False, quant_type="nf4", bnb_quantized=True
    )
    nested = QuantState(absmax=empty(-(-n // 64 // 256)), code=empty(256), blocksize=256, dtype=FP32)
    weight.quant_state = QuantState(
        absmax=empty(n // 64, dtype=torch.uint8), shape=torch.Size((num_out, num_in)), code=empty(16), blocksize=64,
        quant_type="nf4", dtype=BF16, offset=empty(), state2=nested,
    )  # fmt: skip
    made.weight, made.quant_state = weight, weight.quant_state
    if bias:
        made.bias = torch.nn.Parameter(empty(num_out, dtype=BF16), requires_grad=False)
    return made


# -------------------------------------------------------------------------------------------------------------- the trainers


class Sft:
    """transformers' Trainer at 4.48.2, as used by SFTTrainer: training_step, compute_loss, and what the loop holds between steps."""

    engine = False

    def __init__(self, model: Any, case: dict[str, Any]) -> None:
        from accelerate.utils.operations import convert_to_fp32

        self.model, self.case = model, case
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.workspaces: list[torch.Tensor] = []
        self.states: list[torch.Tensor] = []
        self.norm: torch.Tensor | None = None
        forward = torch.autocast("cuda", dtype=BF16)(model.forward)
        model.forward = lambda *args, **kwargs: convert_to_fp32(forward(*args, **kwargs))

    def step(self, total: torch.Tensor) -> torch.Tensor:
        """One optimizer step; returns the total loss so far."""
        batches = self.batches()
        for inputs in batches:
            self.last = self.training_step(inputs)
            total = total + self.last
        self.norm = torch.empty((), dtype=FP32, device=META)
        self.optimize()
        return total

    def batches(self) -> list[Any]:
        shape = self.case.get("B", 1), self.case["T"]
        names = ("input_ids", "attention_mask", "labels")
        return [
            {name: torch.ones(shape, dtype=torch.int64, device=META) for name in names}
            for _ in range(self.case.get("A", 1))
        ]

    def training_step(self, inputs: Any) -> torch.Tensor:
        self.workspace(0 if self.engine else 1)
        loss = self.compute_loss(inputs)
        del inputs
        self.workspace(1 if self.engine else 2)
        self.backward(loss)
        return loss.detach()

    def workspace(self, wanted: int) -> None:
        """cuBLAS's workspaces, of the main thread and of autograd's."""
        while len(self.workspaces) < wanted:
            self.workspaces.append(torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=META))

    def compute_loss(self, inputs: Any) -> torch.Tensor:
        outputs = self.model(**{**inputs, "num_items_in_batch": self.case.get("B", 1) * (self.case["T"] - 1)})
        return outputs["loss"]

    def backward(self, loss: torch.Tensor) -> None:
        """accelerator.backward divides once more."""
        loss = loss / self.case.get("A", 1)
        torch.autograd.backward(loss)

    def optimize(self) -> None:
        """bitsandbytes/optim/optimizer.py:444-494; torch/optim/adamw.py."""
        optim = self.case.get("optim", self.case["default_optim"])
        if not self.states:
            for parameter in self.trained:
                self.states += _states(optim, parameter.numel())
            if "8bit" in optim:
                self.states += [torch.empty(256, dtype=FP32, device=META) for _ in range(2)]
        if optim == "adamw_torch":
            roots = [torch.empty(parameter.numel(), dtype=FP32, device=META) for parameter in self.trained]
            del roots
        for parameter in self.trained:
            parameter.grad = None


def _states(optim: str, n: int) -> list[torch.Tensor]:
    def two(size: int, dtype: torch.dtype) -> list[torch.Tensor]:
        return [torch.empty(size, dtype=dtype, device=META) for _ in range(2)]

    if "8bit" not in optim or n < 4096:
        return two(n, FP32)
    absmax = two(-(-n // 256), FP32)
    return absmax if optim.startswith("paged") and n >= 100_000 else two(n, torch.uint8) + absmax


class Grpo(Sft):
    """trl's GRPOTrainer at 0.14.0: compute_loss from the completions on (grpo_trainer.py:376-533), all of full length."""

    engine = True

    def batches(self) -> list[Any]:
        return [None] * self.case.get("A", 1)

    def training_step(self, inputs: Any) -> torch.Tensor:
        loss = self.compute_loss(inputs)
        self.workspace(1)
        loss = loss / self.case.get("A", 1)
        self.backward(loss)
        return loss.detach()

    def compute_loss(self, _inputs: Any) -> torch.Tensor:
        rows, generations = self.case.get("B", 1) * self.case["G"], self.case["G"]
        prompts = [
            torch.ones((self.case.get("B", 1), self.case["P"]), dtype=torch.int64, device=META) for _ in range(2)
        ]
        completions = torch.ones((rows, self.case["C"]), dtype=torch.int64, device=META)
        repeated = torch.repeat_interleave(prompts[0], generations, dim=0)
        ids = torch.cat([repeated, completions], dim=1)
        completions = ids[:, self.case["P"] :]
        kept = completions.size(1)
        log_probs = self.log_probs(ids, kept)
        with torch.inference_mode(), self.model.disable_adapter():
            reference = self.log_probs(ids, kept)
        kl = torch.exp(reference - log_probs) - (reference - log_probs) - 1
        mask = torch.ones((rows, kept), dtype=torch.int32, device=META)
        advantages = torch.zeros(rows, device=META)
        per_token = torch.exp(log_probs - log_probs.detach()) * advantages.unsqueeze(1)
        per_token = -(per_token - 0.04 * kl)
        return ((per_token * mask).sum(dim=1) / mask.sum(dim=1)).mean()

    def log_probs(self, ids: torch.Tensor, kept: int) -> torch.Tensor:
        logits = self.model(ids, num_logits_to_keep=kept + 1).logits
        logits = logits[:, :-1, :]
        per_token = []
        for row, row_ids in zip(logits, ids[:, -kept:], strict=True):
            log_probs = row.log_softmax(dim=-1)
            per_token.append(torch.gather(log_probs, dim=1, index=row_ids.unsqueeze(1)).squeeze(1))
        return torch.stack(per_token)


def trace(case: dict[str, Any]) -> int:
    """The peak of the second step, in bytes above the memory before the trainer."""
    from unsloth.kernels import utils

    utils.WEIGHT_BUFFER = utils.ABSMAX_BUFFER = None
    count = Count()
    with OnMeta(), META, count:
        model = build(case)
        model.train()
        tables = model.model.model.rotary_emb
        count.moving = frozenset({rounded(tables.cos_cached.untyped_storage().nbytes())})
        trainer = (Grpo if case.get("method") == "grpo" else Sft)(model, case)
        gc.collect()
        count.keep()
        before = count.held_bytes
        total = torch.zeros((), device=META)
        for _ in range(2):
            count.peak_bytes = 0
            total = trainer.step(total)
    return count.peak_bytes - before


def row(case: dict[str, Any]) -> dict[str, str]:
    sizes = {name: str(case.get(name, "")) for name in "TGPC"}
    values = {
        "model": case["model"],
        "method": case.get("method", "sft"),
        "quantization": "nf4" if case.get("quantized", True) else "16bit",
        "targets": "+".join(case["targets"]) if "targets" in case else "all",
        "dropout": str(case.get("dropout", 0.0)),
        "gradient_checkpointing": str(case.get("checkpointing", "unsloth")),
        "B": str(case.get("B", 1)),
        "A": str(case.get("A", 1)),
        "optim": case.get("optim", case["default_optim"]),
        "later_peak": str(trace(case)),
    }
    return values | sizes


def main() -> None:
    chosen = [int(argument) for argument in sys.argv[1:]]
    pretend_gpu()
    import unsloth  # noqa: F401

    replace_kernels()
    replace_operators()
    rows = []
    for number, case in enumerate(CASES):
        if chosen and number not in chosen:
            continue
        case["default_optim"] = "paged_adamw_8bit" if case.get("method") == "grpo" else "adamw_8bit"
        rows.append(row(case))
        print(number, rows[-1], flush=True)
    if not chosen:
        with (ROOT / "tests" / "training" / "traced.tsv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
