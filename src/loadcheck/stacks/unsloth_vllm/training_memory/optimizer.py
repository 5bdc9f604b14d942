"""An optimizer's states for the adapters, and the temporaries of its step."""

from __future__ import annotations

from collections.abc import Sequence

from loadcheck.stacks.unsloth_vllm.training_memory.autograd import FULL, Tape, Tensor
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label

MIN_8BIT_ELEMENTS = 4096
"""The states of smaller tensors are in fp32 (bitsandbytes/optim/optimizer.py:358, 454)."""
MIN_PAGED_ELEMENTS = 100_000
"""Smaller tensors are never paged (bitsandbytes/optim/optimizer.py:326-333)."""
BLOCK = 256
"""Elements per absmax (bitsandbytes/optim/optimizer.py:479)."""

STATES = Label("optimizer states", "bitsandbytes/optim/optimizer.py:444-494; torch/optim/adamw.py:169-199", "optimizer")
ABSMAX = Label("absmax of 8-bit states", "bitsandbytes/optim/optimizer.py:483-484", "optimizer")
MAPS = Label("quantization maps of 8-bit states", "bitsandbytes/optim/optimizer.py:467-468", "optimizer")
SQUARE_ROOTS = Label(
    "optimizer's temporaries", "torch/optim/adamw.py: _multi_tensor_adamw, one square root of every state", "optimizer"
)

STEPS = Label("step counts", "torch/optim/adamw.py: fused, one on the card for each tensor", "optimizer")
NORMS = Label("norms of the gradients", "torch/nn/utils/clip_grad.py:25-90; ForeachReduceOp.cu", "gradients")
NORM = Label("losses", "transformers/trainer.py:2540-2560 (grad_norm)")
FOREACH_CHUNK = 65_536
"""Elements per block of a foreach kernel (torch 2.5.1 aten/src/ATen/native/cuda/MultiTensorApply.cuh)."""


class Optimizer:
    """An optimizer for trained tensors of `sizes` elements; its first step creates the states.

    Attributes:
        paged_bytes: states in CUDA's managed memory, which torch does not count (bitsandbytes/functional.py: get_paged).
    """

    def __init__(self, tape: Tape, name: str, sizes: Sequence[int]) -> None:
        self._tape, self._name, self._sizes = tape, name, sizes
        self._kept: list[Tensor] = []
        self.paged_bytes = 0

    @property
    def _eight_bit(self) -> bool:
        return self._name.endswith("8bit")

    def clip(self) -> Tensor:
        """clip_grad_norm_: a norm per tensor, and the total norm, which the trainer keeps."""
        tape = self._tape
        norms = [tape.tensor(1, NORMS, FULL) for _ in self._sizes]
        chunks = -(-max(self._sizes) // FOREACH_CHUNK)
        tape.tensor(len(self._sizes) * chunks, NORMS, FULL)
        tape.tensor(len(norms), NORMS, FULL)
        return tape.tensor(1, NORM, FULL)

    def step(self) -> None:
        if not self._kept:
            self._make_states()
        tape = self._tape
        if self._name == "adamw_torch":
            roots = [tape.tensor(size, SQUARE_ROOTS, FULL) for size in self._sizes]
            del roots
        elif self._name == "adamw_hf":
            for size in self._sizes:
                tape.tensor(size, SQUARE_ROOTS, FULL)

    def _make_states(self) -> None:
        """Two states per tensor; in 8 bits with an absmax per block, and two maps shared by all (optimizer.py:444-494)."""
        for size in self._sizes:
            small = size < MIN_8BIT_ELEMENTS
            item_bytes = 1 if self._eight_bit and not small else FULL
            if self._name.startswith("paged") and size >= MIN_PAGED_ELEMENTS:
                self.paged_bytes += 2 * size * item_bytes
            else:
                self._kept += [self._tape.tensor(size, STATES, item_bytes) for _ in range(2)]
            if self._eight_bit and not small:
                self._kept += [self._tape.tensor(-(-size // BLOCK), ABSMAX, FULL) for _ in range(2)]
        if self._eight_bit:
            self._kept += [self._tape.tensor(256, MAPS, FULL) for _ in range(2)]
        if self._name == "adamw_torch_fused":
            self._kept += [self._tape.tensor(1, STEPS, FULL) for _ in self._sizes]
