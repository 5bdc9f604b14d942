"""Whether the log is of the pinned stack and has the profile's settings: runs that differ in them are not compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from loadcheck.figures import Reading, Value
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.logs.events import Imported, Started
from loadcheck.specs.model import find_model, is_dynamic
from loadcheck.specs.profile import Profile
from loadcheck.specs.settings import figures_of_settings, settings_of
from loadcheck.specs.versions import is_release, load_versions, release_of

FLAG_BY_FIGURE = {flag.setting.figure: flag for flag in settings_of(Profile) if flag.setting.figure}
SETTINGS = ("model", "max_model_len", "quantization", *FLAG_BY_FIGURE, "conservativeness", "gpu_memory_utilization_pct")
"""The figures that are settings, or follow from a single one."""
VERSION_FIGURES = ("unsloth", "vllm", "torch", "cuda", "triton", "transformers", "xformers")


def check_stack(evidence: Evidence) -> Iterator[Finding]:
    """The log's versions against the pins, and its settings against the profile's."""
    for package in VERSION_FIGURES:
        if (reading := evidence.attempt.reading(package)) is not None:
            yield _version(evidence, package, reading)
    yield from _installed(evidence)
    if evidence.profile is not None:
        yield from _settings(evidence, evidence.profile)


def _version(evidence: Evidence, package: str, reading: Reading) -> Finding:
    pinned = load_versions().version(package)
    value = str(reading.value)
    if is_release(value, pinned):
        return evidence.finding(reading, Check.STACK, ok=True, predicted=pinned, why="the pinned version")
    built, is_gpu = f"the pin is {pinned}", evidence.profile is None or not evidence.profile.on_cpu
    if release_of(value) == release_of(pinned) and value != release_of(value):
        built = f"a build of its own, and the pin is {pinned} for CUDA {load_versions().version('cuda')}"
    finding = evidence.finding(reading, Check.STACK, ok=False, predicted=pinned, why=built, remedy=_OTHER_STACK)
    # a build that cannot use an NVIDIA GPU is not another stack: such a load is impossible
    if is_gpu and _NO_CUDA.search(value):
        return finding
    if evidence.stack.note and not evidence.strict_stack:
        return replace(finding, status=Status.SKIPPED, remedy="", why=evidence.stack.note)
    return _refuse(finding, evidence.strict_stack)


_NO_CUDA = re.compile(r"\+(?:cpu|rocm|xpu|hip)", re.IGNORECASE)
_OTHER_STACK = (
    "figures of another stack are not judged by this one's: install env/requirements.lock, or judge this log with the loadcheck of its "
    "own stack"
)


def _refuse(finding: Finding, strict: bool) -> Finding:
    """In a run of ours drift is a failure; a log from elsewhere is only refused."""
    return finding if strict else replace(finding, status=Status.REFUSED)


def _installed(evidence: Evidence) -> Iterator[Finding]:
    """The packages that our own engine reports as installed."""
    event = evidence.attempt.last(Imported) or evidence.attempt.last(Started)
    if event is None or event.versions is None:
        return
    pins = load_versions().pins
    on_cpu = evidence.profile is not None and evidence.profile.on_cpu
    for package, value in event.versions.items():
        if package not in pins:
            continue
        pinned = pins[package].version
        same = value.partition("+")[0] == pinned if on_cpu else is_release(value, pinned)
        if not same or package not in VERSION_FIGURES:  # those are checked by the log's other lines
            yield Finding(figure=package, check=Check.STACK, status=Status.OK if same else Status.FAIL,
                          predicted=pinned, measured=value, why=pins[package].source,
                          remedy="" if same else "install from the lock again: make clean load")  # fmt: skip
    yield from _unreported(evidence, event)


UNREPORTED = ("setuptools",)
"""Packages that a load needs, and unsloth's engine does not report."""


def _unreported(evidence: Evidence, event: Imported | Started) -> Iterator[Finding]:
    """A failure for each package that a run of ours must report and does not."""
    if evidence.process is None or evidence.profile is None or event.versions is None:
        return
    pins = load_versions().pins
    for package in evidence.stack.packages(evidence.profile):
        if package in pins and package not in event.versions and package not in UNREPORTED:
            yield Finding(figure=package, check=Check.STACK, status=Status.FAIL, predicted=pins[package].version,
                          why="the engine's event does not report its version", remedy="the log was damaged or edited: load it again",
                          where=evidence.where(None), missing=True)  # fmt: skip


def _settings(evidence: Evidence, profile: Profile) -> Iterator[Finding]:
    """The model, the length, the quantization, the graphs and the memory that the profile asks for."""
    wanted: dict[str, Value] = {
        "max_model_len": profile.max_seq_length,
        "quantization": profile.quantization,
        **figures_of_settings(profile),
        "conservativeness": profile.conservativeness,
    }
    for attribute, value in wanted.items():
        reading = evidence.attempt.reading(attribute)
        if reading is not None:
            yield evidence.finding(reading, Check.STACK, ok=reading.value == value, predicted=value,
                                   why=f"profile {profile.name} asks for {value}",
                                   remedy=_settings_remedy(evidence, _flag(reading)))  # fmt: skip
    if evidence.assumed:
        yield from _utilization(evidence, profile)
    reading = evidence.attempt.reading("model")
    requested = find_model(profile.model)
    if reading is not None and requested is not None:
        kept = evidence.config is not None and bool(evidence.config.kept_modules)
        dynamic, loaded = kept or is_dynamic(str(reading.value)), find_model(str(reading.value))
        same = loaded == requested and dynamic == is_dynamic(profile.model)
        wanted_words = f"{requested.name}, " + (
            "a dynamic quant" if is_dynamic(profile.model) else "all of it in 4 bits"
        )
        yield evidence.finding(reading, Check.STACK, ok=same, predicted=requested.name,
                               why=f"profile {profile.name} asks for {wanted_words if dynamic else requested.name}",
                               remedy=_settings_remedy(evidence, "the profile of this load"))  # fmt: skip


def _settings_remedy(evidence: Evidence, other: str) -> str:
    """A run of ours is judged only by its own settings; a log from elsewhere may be checked with others."""
    remedy = "load with this profile's model and settings"
    return remedy if evidence.process is not None else f"{remedy}, or check with {other}"


def _flag(reading: Reading) -> str:
    """The flag that makes `check` judge by the log's setting."""
    value = reading.value
    if (flag := FLAG_BY_FIGURE.get(reading.attribute)) is not None:
        return flag.set_to(value == "True" if flag.kind is bool else value)
    flags = {
        "max_model_len": f"--max-seq-length {value}",
        "quantization": "--load-in-4bit" if value == "nf4" else "--load-in-16bit",
        "conservativeness": f"--conservativeness {value}",
    }
    return flags[reading.attribute]


def _utilization(evidence: Evidence, profile: Profile) -> Iterator[Finding]:
    """A failure if the printed share of the card does not follow from the profile's share of the free memory: the load had another setting."""
    reading = evidence.attempt.reading("gpu_memory_utilization_pct")
    predicted = None if evidence.predicted is None else evidence.predicted.gpu_memory_utilization_pct
    if reading is None or not predicted or reading.agrees(predicted):
        return
    share = round(profile.gpu_memory_utilization * float(reading.value) / predicted, 2)
    if share != profile.gpu_memory_utilization:
        yield evidence.finding(reading, Check.STACK, ok=False, predicted=round(predicted, 2),
                               why=f"profile {profile.name} asks for {profile.gpu_memory_utilization} of the free memory, and this "
                               f"load was made with about {share}",
                               remedy=f"check with --gpu-memory-utilization {share}, or --profile FILE of this load's settings")  # fmt: skip
