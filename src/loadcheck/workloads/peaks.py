"""The peaks of a training on any device, which a run is compared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from loadcheck.predict import Case
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.transformers_cpu.train_peak import SLACK, cpu_train_peak


@dataclass(frozen=True, slots=True)
class Peaks:
    """Predicted peaks in bytes; None where they are not predicted.

    Attributes:
        allocated_bytes: of torch's allocator.
        device_bytes: of the card; more than the card has where torch must release gaps to stay within it.
        least_device_bytes: the same without those gaps; None where none must be released.
        host_bytes: of the process on a CPU; on a GPU only pinned memory, which is not compared with a process's size.
        host_slack: half of the host's band, as a share; None where it is not compared.
        fits: whether the machine has enough memory.
        note: why something is not predicted; empty where all is.
        first_step_bytes: of torch's allocator up to the end of the first step, which has no optimizer states yet.
        paged_bytes: optimizer states in managed memory; after a resume from a checkpoint, torch's allocator holds them.
    """

    allocated_bytes: int | None = None
    device_bytes: int | None = None
    host_bytes: int | None = None
    host_slack: float | None = None
    fits: bool = True
    note: str = ""
    least_device_bytes: int | None = None
    first_step_bytes: int | None = None
    paged_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def predict_peaks(case: Case, settings: TrainSettings) -> Peaks:
    """The peaks of training the case's adapters, on its card or on a CPU."""
    if case.profile.on_cpu:
        return _cpu_peaks(case, settings)
    from loadcheck.workloads.training import predict_training

    found = predict_training(case, settings)
    return Peaks(
        allocated_bytes=found.memory.peak.num_bytes,
        device_bytes=found.device.num_bytes,
        host_bytes=found.host.num_bytes,
        fits=found.fits,
        note="; ".join(found.notes),
        least_device_bytes=None if found.fits_with_gaps else found.least_bytes,
        first_step_bytes=max(found.memory.check.num_bytes, found.memory.first_step.num_bytes),
        paged_bytes=found.memory.paged_bytes,
    )


def _cpu_peaks(case: Case, settings: TrainSettings) -> Peaks:
    peak = cpu_train_peak(case.config, case.profile, settings)
    if peak is None:
        return Peaks(note="the peak of a training on a CPU was measured only for SFT of SmolLM2 135M in 4-bit")
    fits = case.ram_available_bytes is None or peak.num_bytes <= case.ram_available_bytes
    return Peaks(host_bytes=peak.num_bytes, host_slack=SLACK, fits=fits)
