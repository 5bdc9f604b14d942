"""The memory account of a training: of torch's allocator, the card and the host."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.predict import Case, Prediction
from loadcheck.predict.train_account import TrainAccount
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm.training_memory.attention import NUM_SMS_ASSUMED, num_sms
from loadcheck.stacks.unsloth_vllm.training_memory.device import GAPS, device_peak, host_peak, short_bytes
from loadcheck.stacks.unsloth_vllm.training_memory.prediction import train_memory


def predict_training(case: Case, settings: TrainSettings, engine: Prediction | None) -> TrainAccount:
    """The memory of training the case's adapters.

    Args:
        engine: the load's prediction where vLLM is on the card, else None.

    Raises:
        BadInput: an architecture whose training was never traced.
    """
    memory = train_memory(case, settings, engine)
    device = device_peak(case, settings, engine, memory)
    return TrainAccount(
        before=memory.before,
        check=memory.check,
        first_step=memory.first_step,
        later_step=memory.later_step,
        device=device,
        host=host_peak(case, settings, engine),
        gaps_bytes=sum(part.num_bytes for part in device.parts if part.name == GAPS),
        short_bytes=short_bytes(case, settings, engine, memory) if device.num_bytes > case.gpu.total_bytes else 0,
        paged_bytes=memory.paged_bytes,
        notes=tuple(_notes(case, settings, engine)),
    )


def _notes(case: Case, settings: TrainSettings, engine: Prediction | None) -> Iterator[str]:
    if settings.method == "grpo" and engine is None:
        yield "without vLLM transformers generates the completions; the memory of generating is not counted, only that of training"
    if num_sms(case.gpu.name) is None:
        yield (
            f"the number of multiprocessors of {case.gpu.name} is unknown, {NUM_SMS_ASSUMED} are assumed: it matters only for whether "
            "attention of short batches is split"
        )
    if case.gpu.compute_capability < 8:
        yield "before 8.0 attention uses CUTLASS's kernel and gradients are scaled; both are counted as on 9.0, and no run has confirmed it"
