"""A linear layer in unsloth, peft and bitsandbytes: dequantized if it is in 4-bit, with its LoRA."""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.stacks.unsloth_vllm.training_memory.autograd import (
    FULL,
    HALF,
    Gradients,
    Tape,
    Tensor,
    creates,
    pass_through,
    to_both,
)
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label
from loadcheck.stacks.unsloth_vllm.weights import NF4_BLOCK

WEIGHT_BUFFER = Label("dequantized weight, kept", "unsloth/kernels/utils.py:161 (WEIGHT_BUFFER)", "dequantized weights")
ABSMAX_BUFFER = Label("dequantized absmax, kept", "unsloth/kernels/utils.py:162 (ABSMAX_BUFFER)", "dequantized weights")
WEIGHT = Label("dequantized weight", "unsloth/kernels/utils.py:171", "dequantized weights")
ABSMAX = Label("dequantized absmax", "unsloth/kernels/utils.py:175", "dequantized weights")
BNB_WEIGHT = Label("dequantized weight", "bitsandbytes/functional.py: dequantize_4bit", "dequantized weights")
BNB_ABSMAX = Label("dequantized absmax", "bitsandbytes/functional.py: dequantize_4bit", "dequantized weights")
LORA_PRODUCT = Label("product with LoRA's B", "unsloth/kernels/utils.py:464")
LORA_HIDDEN = Label("product with LoRA's A", "unsloth/kernels/utils.py:464")
LORA_CAST = Label("LoRA weight in 16 bits", "unsloth/kernels/utils.py:464")
GRADIENT = Label("gradient of a linear's input", "torch/csrc/autograd: MmBackward0")
LORA_GRADIENT = Label("gradient of a LoRA weight, 16-bit", "unsloth/kernels/fast_lora.py:116-132, 271-289", "gradients")


@dataclass(slots=True, eq=False)
class Lora:
    """LoRA's A [r, in] and B [out, r] of one linear, in fp32."""

    r: int
    a: Tensor
    b: Tensor
    dropout: bool


@dataclass(slots=True, eq=False)
class Linear:
    """One linear of the model. Its own weight is part of the loaded model."""

    num_in: int
    num_out: int
    quantized: bool
    lora: Lora | None = None

    @property
    def num_elements(self) -> int:
        return self.num_in * self.num_out


@dataclass(slots=True)
class WeightBuffer:
    """unsloth's buffers for a dequantized weight, which grow to the largest and stay allocated (unsloth/kernels/utils.py:152-168)."""

    weight: Tensor | None = None
    absmax: Tensor | None = None

    def hold(self, tape: Tape, linear: Linear) -> None:
        """Make room for the linear's weight; a larger block is allocated before the smaller one is freed (Tensor.resize_)."""
        if self.weight is None or linear.num_elements > self.weight.num_elements:
            self.weight = tape.tensor(linear.num_elements, WEIGHT_BUFFER)
        num_absmax = -(-linear.num_elements // NF4_BLOCK)
        if self.absmax is None or num_absmax > self.absmax.num_elements:
            self.absmax = tape.tensor(num_absmax, ABSMAX_BUFFER, FULL)


def fast_dequantize(tape: Tape, linear: Linear) -> Tensor | None:
    """A new copy of the weight in 16 bits; None if the weight is in 16 bits already (unsloth/kernels/utils.py:129-195)."""
    if not linear.quantized:
        return None
    out = tape.tensor(linear.num_elements, WEIGHT)
    tape.tensor(-(-linear.num_elements // NF4_BLOCK), ABSMAX, FULL)
    return out


def bnb_dequantize(tape: Tape, linear: Linear) -> Tensor | None:
    """The same in bitsandbytes, which allocates absmax first (bitsandbytes/functional.py: dequantize_4bit)."""
    if not linear.quantized:
        return None
    absmax = tape.tensor(-(-linear.num_elements // NF4_BLOCK), BNB_ABSMAX, FULL)
    out = tape.tensor(linear.num_elements, BNB_WEIGHT)
    del absmax
    return out


def matmul_lora(
    tape: Tape, buffer: WeightBuffer, linear: Linear, num_tokens: int, label: Label, *, back: bool = False
) -> Tensor:
    """X W + X A B for `num_tokens` rows (unsloth/kernels/utils.py:446-468); `back` multiplies by the transposed weights.

    The caller holds X.
    """
    num_in, num_out = (linear.num_out, linear.num_in) if back else (linear.num_in, linear.num_out)
    if linear.quantized:
        buffer.hold(tape, linear)
    out = tape.product(num_tokens * num_out, label)
    if linear.lora is not None:
        lora_product(tape, linear.lora.r, num_tokens, num_in, num_out)
    return out


def lora_product(tape: Tape, r: int, num_tokens: int, num_in: int, num_out: int) -> None:
    """(X @ A.to(dtype)) @ (s * B.to(dtype)), added in place (unsloth/kernels/utils.py:464)."""
    cast = tape.tensor(r * num_in, LORA_CAST)
    hidden = tape.product(num_tokens * r, LORA_HIDDEN)
    del cast
    cast = tape.tensor(r * num_out, LORA_CAST)
    cast = tape.tensor(r * num_out, LORA_CAST)  # s *
    product = tape.product(num_tokens * num_out, LORA_PRODUCT)
    del cast, hidden, product


def lora_gradients(tape: Tape, r: int, num_tokens: int, num_in: int, num_out: int) -> tuple[Tensor, Tensor]:
    """The gradients of A and B, from X and the gradient of the output (unsloth/kernels/fast_lora.py:116-119).

    d_A = X.t() @ (dY @ B.t()); d_B = (A.t() @ X.t()) @ dY, where autocast copies A and B to 16 bits. Both are returned transposed.
    """
    cast = tape.tensor(r * num_out, LORA_CAST)
    hidden = tape.product(num_tokens * r, LORA_HIDDEN)
    del cast
    d_a = tape.product(r * num_in, LORA_GRADIENT)
    del hidden
    cast = tape.tensor(r * num_in, LORA_CAST)
    hidden = tape.product(num_tokens * r, LORA_HIDDEN)
    del cast
    d_b = tape.product(r * num_out, LORA_GRADIENT)
    del hidden
    d_a.transposed = d_b.transposed = True
    return d_a, d_b


# ------------------------------------------------------------------------------------------------------ unpatched, by peft


def peft_linear(tape: Tape, linear: Linear, x: Tensor, num_tokens: int) -> Tensor:
    """A linear that unsloth has not patched, as computed by peft (peft/tuners/lora/bnb.py:483-541, layer.py:596-640).

    torch.nn.Module holds the arguments of a call until it returns, so `x` stays alive throughout.
    """
    lora, result = linear.lora, base_linear(tape, linear, x, num_tokens)
    if lora is None:
        return result
    if linear.quantized:
        result = _clone(tape, result)
    lora_input = x if linear.quantized else _to_fp32(tape, x)
    dropped = _dropout(tape, lora_input) if lora.dropout else lora_input
    hidden = _trained(tape, dropped, lora.a, num_tokens, linear.num_in, lora.r, PEFT_HIDDEN)
    del dropped
    output = _trained(tape, hidden, lora.b, num_tokens, lora.r, linear.num_out, PEFT_OUTPUT)
    del hidden
    output = _scaled(tape, output)
    return add(tape, result, output, PEFT_SUM)


BASE_OUTPUT = Label("output of a linear", "bitsandbytes/autograd/_functions.py:322")
CLONE = Label("output of a linear, cloned", "peft/tuners/lora/bnb.py:502")
CAST_INPUT = Label("input of LoRA in fp32", "peft/tuners/lora/layer.py: _cast_input_dtype")
DROPOUT = Label("input of LoRA after dropout", "peft/tuners/lora/bnb.py:518")
DROPOUT_MASK = Label("mask of dropout", "torch: native_dropout")
PEFT_HIDDEN = Label("output of lora_A", "peft/tuners/lora/bnb.py:518")
PEFT_OUTPUT = Label("output of lora_B", "peft/tuners/lora/bnb.py:518")
PEFT_SCALED = Label("output of lora_B, scaled", "peft/tuners/lora/bnb.py:518")
PEFT_SUM = Label("output of a linear with LoRA", "peft/tuners/lora/bnb.py:541")
AUTOCAST = Label("LoRA weights in 16 bits, kept by autocast", "torch: at::autocast::cached_cast")
SUM = Label("gradient", "torch/csrc/autograd")


def base_linear(tape: Tape, linear: Linear, x: Tensor, num_tokens: int) -> Tensor:
    """The frozen weight alone, which saves nothing but the weight (bitsandbytes/autograd/_functions.py:305-355)."""
    weight = bnb_dequantize(tape, linear)
    out = tape.product(num_tokens * linear.num_out, BASE_OUTPUT)
    del weight

    def run(tape: Tape, _saved: tuple[Tensor, ...], _gradients: Gradients) -> Gradients:
        weight = bnb_dequantize(tape, linear)
        d_x = tape.product(num_tokens * linear.num_in, GRADIENT)
        del weight
        return [d_x]

    out.node = tape.record([x], run)
    return out


def _clone(tape: Tape, x: Tensor) -> Tensor:
    out = tape.tensor(x.num_elements, CLONE, x.item_bytes)
    out.node = tape.record([x], pass_through)
    return out


def _to_fp32(tape: Tape, x: Tensor) -> Tensor:
    out = tape.tensor(x.num_elements, CAST_INPUT, FULL)
    out.node = tape.record([x], creates(x.num_elements, SUM))
    return out


def _dropout(tape: Tape, x: Tensor) -> Tensor:
    """native_dropout: the output, and a mask of one byte per element, which is saved."""
    out = tape.tensor(x.num_elements, DROPOUT, x.item_bytes)
    mask = tape.tensor(x.num_elements, DROPOUT_MASK, 1)
    out.node = tape.record([x], _like, [mask])
    return out


def _like(tape: Tape, _saved: tuple[Tensor, ...], gradients: Gradients) -> Gradients:
    """A new gradient of the output gradient's size."""
    gradient = gradients[0]
    assert gradient is not None
    return [tape.tensor(gradient.num_elements, SUM, gradient.item_bytes)]


def _trained(tape: Tape, x: Tensor, weight: Tensor, num_tokens: int, num_in: int, num_out: int, label: Label) -> Tensor:
    """A product with a trained weight under autocast, which saves its input for the weight's gradient."""
    half = _autocast(tape, x)
    cast = _cast_weight(tape, weight)
    out = tape.product(num_tokens * num_out, label)

    def run(tape: Tape, _saved: tuple[Tensor, ...], _gradients: Gradients) -> Gradients:
        # MmBackward0: grad_self first, then grad_mat2, each only if needed
        d_x = tape.product(num_tokens * num_in, GRADIENT) if x_needs else None
        return [d_x, tape.product(num_in * num_out, LORA_GRADIENT)]

    x_needs = half.node is not None
    out.node = tape.record([half, cast], run, [half, cast] if x_needs else [half])
    return out


def _autocast(tape: Tape, x: Tensor) -> Tensor:
    """Copies an fp32 activation to 16 bits for a product."""
    if x.item_bytes == HALF:
        return x
    out = tape.tensor(x.num_elements, SUM, HALF)
    out.node = tape.record([x], creates(x.num_elements, SUM, FULL))
    return out


def _cast_weight(tape: Tape, weight: Tensor) -> Tensor:
    """autocast's copy of a trained weight, created once per autocast block (aten/src/ATen/autocast_mode.cpp: cached_cast)."""
    assert tape.casts is not None
    if id(weight) not in tape.casts:
        cast = tape.tensor(weight.num_elements, AUTOCAST)
        cast.node = tape.record([weight], creates(weight.num_elements, SUM, FULL))
        tape.casts[id(weight)] = cast
    return tape.casts[id(weight)]


def _scaled(tape: Tape, x: Tensor) -> Tensor:
    out = tape.tensor(x.num_elements, PEFT_SCALED, x.item_bytes)
    out.node = tape.record([x], _like)
    return out


def add(tape: Tape, x: Tensor, y: Tensor, label: Label) -> Tensor:
    out = tape.tensor(x.num_elements, label, x.item_bytes)
    out.node = tape.record([x, y], to_both)
    return out
