"""Whether the amounts and times in our engine's events can all be true: within one event, and from one event to the next.

In WSL2 torch may have more than is in use on the card, as Windows moves the rest to the host's RAM. That is noted, and fails only what did not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from msgspec import structs

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status, run_failure
from loadcheck.logs.event import Event
from loadcheck.logs.events import Device, Imported, OnDevice, RamFound, TrainData, WeightsLoaded, WeightsReady

REMEDY = "the log was damaged or edited: load it again"
_AT_MOST = (
    ("allocated_bytes", "reserved_bytes"),
    ("allocated_bytes", "peak_allocated_bytes"),
    ("reserved_bytes", "peak_reserved_bytes"),
    ("peak_allocated_bytes", "peak_reserved_bytes"),
)
"""(smaller, larger): torch allocates from what it reserves, and a peak is at least the current amount."""
_ON_CARD = (
    ("reserved_bytes", "used_bytes"),
    ("peak_allocated_bytes", "device_used_bytes"),
    ("reserved_bytes", "device_used_bytes"),
)
"""(smaller, larger): the card's memory in use includes what torch reserves, unless a driver of Windows moves some to the host's RAM."""
PAGED = "Windows had moved some of the card's memory to the host's RAM, as it may in WSL2"
"""Seen in public: 30 GiB that torch had allocated on a card of 16 GiB (microsoft/WSL issue 11050)."""
PREVENT_PAGING = "choose settings that fit (`loadcheck fit`), close what else uses the card, or turn off `CUDA - Sysmem Fallback Policy` in NVIDIA's control panel"
_PEAKS = ("peak_allocated_bytes", "peak_reserved_bytes")
_OTHER_CLOCK = (WeightsReady, TrainData, Imported, RamFound)
"""Events of another process, which has its own clock (stacks/recorder.py), or possibly recorded ahead of this one's clock."""
_ROUNDED_S = 0.002
"""Tolerance: each of two times is rounded to a millisecond."""

Numbers = dict[str, int | float]


def check_contradictions(evidence: Evidence) -> Iterator[Finding]:
    """A failure for each event that contradicts itself or an earlier one."""
    peaks: Numbers = dict.fromkeys(_PEAKS, 0)
    total, clock = None, 0.0
    for logged in evidence.attempt.events:
        event = logged.event
        if event is None:
            continue
        numbers = _numbers(event)
        pairs = _AT_MOST if evidence.is_wsl else (*_AT_MOST, *_ON_CARD)
        why = [*_larger_parts(pairs, numbers), *_other_peak(numbers), *_durations(numbers)]
        if isinstance(event, Device):
            total = event.device_total_bytes
        if isinstance(event, WeightsLoaded):
            why += _parts(event)
        if isinstance(event, OnDevice):
            why += [*_over_total(numbers, total), *_fallen(numbers, peaks)]
            peaks |= {name: numbers[name] for name in _PEAKS if name in numbers}
        if not isinstance(event, _OTHER_CLOCK):
            at_s = numbers.get("at_s", clock)
            why += [f"at_s is {at_s} after {clock}"] if at_s < clock - _ROUNDED_S else []
            clock = at_s
        if why:
            yield Finding(figure=logged.name, check=Check.RUN, status=Status.FAIL, remedy=REMEDY, where=evidence.where(logged.line),
                          why=f"the engine's event {logged.name} contradicts itself or an earlier event: {why[0]}")  # fmt: skip
    yield from _paged(evidence)


def _paged(evidence: Evidence) -> Iterator[Finding]:
    """In WSL2: a note that memory was not on the card, and a failure if the card could not have held it."""
    if not evidence.is_wsl:
        return
    for event, why in islice(off_card(evidence), 1):
        yield Finding(figure=event, check=Check.RUN, status=Status.SKIPPED,
                      why=f"{why}: {PAGED}, so the card's peak is known only from below")  # fmt: skip
    reserved = (
        size
        for logged in evidence.attempt.events
        for name, size in _numbers(logged.event).items()
        if name.endswith("reserved_bytes")
    )
    yield from check_reserve(evidence, int(max(reserved, default=0)))


def off_card(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """In WSL2, the name of each event by which torch had reserved more than was in use on the card, with both amounts."""
    for logged in evidence.attempt.events if evidence.is_wsl else ():
        yield from ((logged.name, why) for why in _larger_parts(_ON_CARD, _numbers(logged.event)))


def check_reserve(evidence: Evidence, reserved_bytes: int) -> Iterator[Finding]:
    """A failure if torch had reserved more than the card has: the load ran, but it does not fit."""
    device = evidence.attempt.last(Device)
    total = None if device is None else device.device_total_bytes
    if total is not None and reserved_bytes > total:
        why = f"torch had reserved {reserved_bytes} bytes, and the card has {total}: {PAGED}"
        yield run_failure("device memory", why, PREVENT_PAGING)


def _numbers(event: Event | None) -> Numbers:
    fields = {} if event is None else structs.asdict(event)
    return {name: value for name, value in fields.items() if type(value) in (int, float)}


def _larger_parts(pairs: Sequence[tuple[str, str]], numbers: Numbers) -> Iterator[str]:
    for prefix in ("", "train_"):
        for part, whole in pairs:
            small, large = numbers.get(prefix + part), numbers.get(prefix + whole)
            if small is not None and large is not None and small > large:
                yield f"{prefix}{part} is {small}, more than {prefix}{whole}, {large}"


def _other_peak(numbers: Numbers) -> Iterator[str]:
    if {"peak_device_bytes", "used_bytes", "reserved_bytes", "peak_reserved_bytes"} <= numbers.keys():
        # stacks/unsloth_vllm/device.py: record_peak
        wanted = numbers["used_bytes"] - numbers["reserved_bytes"] + numbers["peak_reserved_bytes"]
        if numbers["peak_device_bytes"] != wanted:
            yield f"peak_device_bytes is {numbers['peak_device_bytes']}, and used - reserved + peak_reserved is {wanted}"


def _durations(numbers: Numbers) -> Iterator[str]:
    """A part of a process's work that took longer than the process had run."""
    at_s = numbers.get("at_s")
    for name, value in numbers.items():
        is_duration = name.endswith("_s") and name not in ("at_s", "first_token_unix_s")
        if is_duration and at_s is not None and value > at_s + _ROUNDED_S:
            yield f"{name} is {value}, {at_s} s after the process began"


def _parts(event: WeightsLoaded) -> Iterator[str]:
    if (
        event.by_kind
        and event.weights_bytes is not None
        and (parts := sum(event.by_kind.values())) != event.weights_bytes
    ):
        yield f"weights_bytes is {event.weights_bytes}, and the sum of by_kind is {parts}"


def _over_total(numbers: Numbers, total: int | None) -> Iterator[str]:
    used = numbers.get("used_bytes")
    if used is not None and total is not None and used > total:
        yield f"used_bytes is {used}, and the card has {total}"


def _fallen(numbers: Numbers, peaks: Numbers) -> Iterator[str]:
    for name, before in peaks.items():
        if name in numbers and numbers[name] < before:
            yield f"{name} is {numbers[name]} after {before}"
