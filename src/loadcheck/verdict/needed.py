"""Whether the events of a run of ours state what its checks look at. A check has nothing to find in an event that lost such a field, and would pass."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Finding, run_finding
from loadcheck.logs.event import Event, name_of
from loadcheck.logs.event_lines import LoggedEvent
from loadcheck.logs.events import (
    Answered,
    AnsweredAfterTraining,
    Attached,
    Device,
    Done,
    Imported,
    Peak,
    SavedAdapter,
    Slots,
    Started,
    TrainBegin,
    TrainPeak,
    WeightsLoaded,
    WeightsReady,
)

_NEEDED: dict[type[Event], tuple[str, ...]] = {
    WeightsReady: ("source",),
    Imported: ("versions", "cuda"),
    Started: ("versions", "model", "quantization", "max_model_len", "torch", "transformers"),
    Device: ("gpu_name", "compute_capability", "device_total_bytes", "device_free_bytes"),
    WeightsLoaded: ("weights_bytes",),
    Attached: ("trainable_params", "total_params", "adapter_bytes"),
    Slots: ("lora_slots_bytes",),
    Peak: ("peak_device_bytes",),
    TrainPeak: ("train_peak_host_bytes",),
}
"""Every version of ours has written them (tests/runs, tests/training)."""
_NEEDED_ON_GPU: dict[type[Event], tuple[str, ...]] = {
    Answered: ("adapter_enabled",),
    AnsweredAfterTraining: ("adapter_enabled",),
    TrainBegin: ("train_peak_allocated_bytes", "train_device_used_bytes"),
}
_NEEDED_ON_CPU: dict[type[Event], tuple[str, ...]] = {
    Attached: (*_NEEDED[Attached], "patched_layers", "patched_qkv", "patched_o", "patched_mlp"),
}
"""On a GPU, unsloth's own line states what it patched."""


def later_events(evidence: Evidence) -> Iterator[type[Event]]:
    """The events on a GPU that the first versions of ours (tests/runs/h100) did not write; the answer tells whether the run's version did.

    `first_token_unix_s` of the answer is as old as `saved_adapter` (7fa68f0), and `done` is older (786e505).
    """
    profile, answered = evidence.profile, _last(evidence, Answered)
    if profile is None or profile.on_cpu or answered is None or "first_token_unix_s" not in answered.data:
        return
    if profile.training.steps and profile.fast_inference:
        yield SavedAdapter
    yield Done


def check_needed(evidence: Evidence) -> Iterator[Finding]:
    """A failure for each such field that the last event of its kind does not state; an invalid value is another finding (verdict/events.py)."""
    profile = evidence.profile
    of_device = {} if profile is None else _NEEDED_ON_CPU if profile.on_cpu else _NEEDED_ON_GPU
    for kind, names in (_NEEDED | of_device).items():
        if (last := _last(evidence, kind)) is None:
            continue
        for name in names:
            if name not in last.data:
                yield run_finding(name_of(kind), None, f"{name} of the engine's event {name_of(kind)}", "")


def _last(evidence: Evidence, kind: type[Event]) -> LoggedEvent | None:
    """The last event of this kind as it is in the log."""
    return next((each for each in reversed(evidence.attempt.events) if isinstance(each.event, kind)), None)
