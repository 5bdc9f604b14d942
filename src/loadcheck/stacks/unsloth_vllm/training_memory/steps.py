"""Training as a sequence of steps: what each phase of a step holds, and the peaks of the first step and of a later one."""

from __future__ import annotations

from loadcheck.predict.terms import Term
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm.activation import cublas_workspace
from loadcheck.stacks.unsloth_vllm.outside_budget import sampling_tensors
from loadcheck.stacks.unsloth_vllm.training_memory import grpo, sft
from loadcheck.stacks.unsloth_vllm.training_memory.autograd import FULL, Tensor
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label, Storage
from loadcheck.stacks.unsloth_vllm.training_memory.loss import SCALAR
from loadcheck.stacks.unsloth_vllm.training_memory.model import Trainee
from loadcheck.stacks.unsloth_vllm.training_memory.optimizer import Optimizer

SAMPLING = Label("sampling tensors of the engine", "vllm/model_executor/sampling_metadata.py", "weights")


class Steps:
    """The trainer's loop (transformers/trainer.py: _inner_training_loop).

    `engine_num_seqs` is vLLM's number of sequences where it is on the card, else None.
    """

    def __init__(
        self, trainee: Trainee, settings: TrainSettings, compute_capability: float, engine_num_seqs: int | None
    ) -> None:
        self._trainee, self._settings, self._tape = trainee, settings, trainee.tape
        self._tape.workspace_bytes = cublas_workspace(compute_capability).num_bytes
        self._engine = engine_num_seqs is not None
        if self._engine:  # it has allocated the main thread's workspace
            self._tape.workspaces["main"] = None
        self._sampling = [] if engine_num_seqs is None else self._sampled(engine_num_seqs)
        sizes = [leaf.tensor.num_elements for leaf in trainee.leaves]
        self._optimizer = Optimizer(self._tape, settings.optim, sizes)
        self._total_loss: Tensor | None = None
        self._last_loss: Tensor | None = None
        self._norm: Tensor | None = None

    def _sampled(self, num_seqs: int) -> list[Storage]:
        return [self._tape.ledger.allocate(size, SAMPLING) for size in sampling_tensors(num_seqs)]

    @property
    def paged_bytes(self) -> int:
        """Optimizer states in CUDA's managed memory."""
        return self._optimizer.paged_bytes

    def step(self) -> Term:
        """Run one optimizer step; returns its peak."""
        self._tape.ledger.start_phase("batch", reset_peak=True)
        if self._total_loss is None:
            self._total_loss = self._tape.tensor(1, SCALAR, FULL)
        batches = sft.batches(self._tape, self._settings) if self._settings.method == "sft" else []
        for _ in range(self._settings.gradient_accumulation_steps):
            self._last_loss = self._training_step()
            self._total_loss = self._tape.tensor(1, SCALAR, FULL)
        self._tape.ledger.start_phase("optimizer step")
        self._norm = self._optimizer.clip()
        self._optimizer.step()
        for leaf in self._trainee.leaves:
            leaf.gradient = None
        del batches
        return self._tape.ledger.peak()

    def _training_step(self) -> Tensor:
        """training_step (transformers/trainer.py:3620-3690)."""
        workload = grpo if self._settings.method == "grpo" else sft
        if self._engine and self._settings.method == "grpo":
            self._sampling = self._sampled(self._settings.rows)
        loss = workload.forward(self._trainee, self._settings)
        workload.backward(self._trainee, loss)
        return Tensor(loss.storage, 1, FULL)
