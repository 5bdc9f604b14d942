"""Whether the events of a run of ours state what its checks look at. A check has nothing to find in an event that lost such a field, and would pass."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Finding, run_finding
from loadcheck.logs.event import Event, name_of
from loadcheck.logs.events import (
    Answered,
    AnsweredAfterTraining,
    Attached,
    Device,
    Imported,
    Peak,
    Slots,
    Started,
    TrainPeak,
    WeightsLoaded,
)

_NEEDED: dict[type[Event], tuple[str, ...]] = {
    Imported: ("versions",),
    Started: ("versions",),
    Device: ("gpu_name", "device_total_bytes", "device_free_bytes"),
    WeightsLoaded: ("weights_bytes",),
    Attached: ("trainable_params", "adapter_bytes"),
    Slots: ("lora_slots_bytes",),
    Peak: ("peak_device_bytes",),
    TrainPeak: ("train_peak_host_bytes",),
}
"""Every version of ours has written them (tests/runs, tests/training)."""
_NEEDED_ON_GPU: dict[type[Event], tuple[str, ...]] = {
    Answered: ("adapter_enabled",),
    AnsweredAfterTraining: ("adapter_enabled",),
}


def check_needed(evidence: Evidence) -> Iterator[Finding]:
    """A failure for each such field that the last event of its kind does not state; an invalid value is another finding (verdict/events.py)."""
    on_gpu = evidence.profile is not None and not evidence.profile.on_cpu
    for kind, names in (_NEEDED | _NEEDED_ON_GPU if on_gpu else _NEEDED).items():
        last = next((each for each in reversed(evidence.attempt.events) if isinstance(each.event, kind)), None)
        if last is None:
            continue
        for name in names:
            if name not in last.data:
                yield run_finding(name_of(kind), None, f"{name} of the engine's event {name_of(kind)}", "")
