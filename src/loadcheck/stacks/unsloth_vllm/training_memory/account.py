"""A training's memory as an account: torch's, the card's and the host's."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.predict import Case, Prediction
from loadcheck.predict.train_account import TrainAccount
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm.training_memory.attention import NUM_SMS_ASSUMED, num_sms
from loadcheck.stacks.unsloth_vllm.training_memory.device import GAPS, device_peak, host_peak, short_bytes
from loadcheck.stacks.unsloth_vllm.training_memory.prediction import train_memory


def predict_training(case: Case, settings: TrainSettings, engine: Prediction | None) -> TrainAccount:
    """What a training of the case's adapters takes.

    Args:
        engine: the load's prediction where vLLM is in the card, None where it is not.

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
        yield "without vLLM transformers generates the completions; what that holds is not counted, only the training on them"
    if num_sms(case.gpu.name) is None:
        yield (
            f"the multiprocessors of {case.gpu.name} are not known, {NUM_SMS_ASSUMED} are assumed: they decide only whether "
            "attention of short batches is split"
        )
    if case.gpu.compute_capability < 8:
        yield "before 8.0 attention is CUTLASS's kernel and gradients are scaled; both are counted as on 9.0, and no run has shown them"
