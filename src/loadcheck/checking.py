"""Gathers the evidence for judging a log or a run folder: its model, its card, its profile, and the prediction."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem, shortlist
from loadcheck.findings.evidence import is_parallel
from loadcheck.logs import Attempt, ParsedLog
from loadcheck.logs.events import Started
from loadcheck.runs.folder import RunFolder, RunRecord, own_file
from loadcheck.specs.expected import Expected, load_expected
from loadcheck.specs.files import changed, differences, validate, value_at
from loadcheck.specs.gpu import find_gpu, gpu_named
from loadcheck.specs.hf_config import kept_modules
from loadcheck.specs.lora import adapter_params, possible_ranks
from loadcheck.specs.model import Model, find_model, is_dynamic
from loadcheck.specs.profile import Profile, load_profile, load_profiles, with_flags
from loadcheck.specs.settings import figures_of_settings
from loadcheck.specs.shape import ModelConfig
from loadcheck.specs.trouble import failure_words
from loadcheck.stacks import parse_log, stack_of, stack_of_log
from loadcheck.verdict import Evidence

NAMED_SETTINGS = 3
"""How many of the settings that contradict a run folder an error names."""


def parse_run_log(path: Path) -> ParsedLog:
    """Parse the log of a run folder; BadInput if it holds no line of a load, or is a link."""
    return parse_log(own_file(path), failure_words())


def read_log(target: Path) -> ParsedLog:
    """Parse a log, or that of a run folder; BadInput if it is neither, or holds no line of a load."""
    if not target.is_dir():
        return parse_log(target, failure_words())
    folder = RunFolder(target)
    folder.read_record()
    return parse_run_log(folder.log_path)


def gather(
    target: Path,
    profile_name: str | None = None,
    gpu: str | None = None,
    any_release: bool = False,
    log: ParsedLog | None = None,
    record: RunRecord | None = None,
    overrides: dict[str, Any] | None = None,
) -> Evidence:
    """Everything known about a run folder or a log.

    BadInput if it is neither, if a name is unknown, or if a name or setting contradicts the run or its log.

    Args:
        any_release: also predict the figures of logs of other engine releases, which compute some figures differently.
        log, record: those of a run, if already read; on a full disk they may be missing from its folder.
        overrides: settings of the load by dotted key of a profile, for what a log from elsewhere does not state.
    """
    if record is None and target.is_dir():
        record = RunFolder(target).read_record()
    if log is None:
        log = parse_log(target, failure_words()) if record is None else parse_run_log(RunFolder(target).log_path)
    attempt = log.last
    model = find_model(str(reading.value)) if (reading := attempt.reading("model")) else None
    profile = _profile(record, profile_name, overrides or {}, attempt, model)
    key = _gpu(gpu, _gpu_key(attempt, profile), target)
    config, note = _config(model, attempt, any_release)
    evidence = Evidence(
        log=log,
        stack=stack_of_log(attempt, profile),
        profile=profile,
        model=model,
        config=config,
        prediction_note=note,
        expected=_expected(profile, key),
        gpu=key,
        process=None if record is None else _process(record),
        machine={} if record is None else record.machine,
        assumed=record is None and profile_name is None and profile is not None,
        strict_stack=record is not None or profile_name is not None,
    )
    return _with_prediction(evidence)


def _process(record: RunRecord) -> tuple[str, str]:
    """How the run ended; a completed run whose run.json cannot be true counts as failed."""
    if record.outcome == "completed" and (why := next(_untrue(record), None)) is not None:
        return "failed", f"run.json says that the run completed, but also that {why}"
    return record.outcome, record.reason


def _untrue(record: RunRecord) -> Iterator[str]:
    """What a completed run's record says that cannot be true."""
    if record.exit_code != 0:
        yield f"its exit code was {record.exit_code}"
    gpu = record.machine.get("gpu")
    total = gpu.get("total_bytes") if isinstance(gpu, dict) else None
    if type(total) is int and record.peak_device_bytes is not None and record.peak_device_bytes > total:
        yield f"{record.peak_device_bytes} bytes of the card were in use, which has {total}"


def _profile(
    record: RunRecord | None, name: str | None, overrides: dict[str, Any], attempt: Attempt, model: Model | None
) -> Profile | None:
    """The run's own profile; otherwise, with `overrides` applied, the named one, or the one that has the log's engine, model and length.

    If there is neither a name nor an override, the profile must also have the other settings that the log prints.
    """
    if record is not None:
        own = validate(Profile, record.profile, f"run.json of {record.id}: profile")
        requested = with_flags(own, overrides) if name is None else load_profile(name, overrides)
        _refuse_other_settings(record, own, requested)
        return own
    if name is not None:
        return load_profile(name, overrides)
    on_cpu = attempt.last(Started) is not None
    length = attempt.reading("max_model_len")
    for profile in load_profiles():
        if model is not None and profile.on_cpu == on_cpu and find_model(profile.model) == model:
            other = with_flags(profile, overrides)
            if not overrides:
                other = _with_rank_of_log(other, attempt, model)
            same = length is None or length.value == other.max_seq_length
            if same and (overrides or on_cpu or _has_settings(attempt, other, model)):
                return other
    if overrides:
        what = "no profile has this log's model and length, so there are no settings to change"
        raise BadInput(Problem("command line", what, "name one with --profile, and --model and --max-seq-length"))
    return None


_MAX_USED_BEFORE = 0.1
"""The share of a card's memory that may be in use before a load for a log to be matched with a profile by its utilization. The cards of
env/gpus.toml have 0.4 to 1.8 % in use (`used_before_bytes`)."""


def _has_settings(attempt: Attempt, profile: Profile, model: Model) -> bool:
    """Whether the settings that a log prints are the profile's; settings that it does not print are assumed to be.

    The quantization is left out: a load that was silently not quantized must still be compared with the profile, to be found.
    """
    of_other_stack = stack_of_log(attempt).engine and stack_of_log(attempt) is not stack_of(profile)
    if is_parallel(attempt) or kept_in_log(attempt) or of_other_stack:
        return False
    printed: dict[str, str | float | None] = {
        "conservativeness": profile.conservativeness,
        **figures_of_settings(profile),
        "trainable_params": _trainable_params(profile, model),
    }
    for attribute, value in printed.items():
        reading = attempt.reading(attribute)
        if reading is not None and value is not None and not reading.agrees(value):
            return False
    # The profile's utilization is a share of the free memory; the log prints it as a share of the whole card.
    share, requested = attempt.reading("gpu_memory_utilization_pct"), 100 * profile.gpu_memory_utilization
    return share is None or (1 - _MAX_USED_BEFORE) * requested <= float(share.value) <= requested


def _with_rank_of_log(profile: Profile, attempt: Attempt, model: Model) -> Profile:
    """The profile with the rank that the log's KV estimate implies, if that is another rank that vLLM accepts.

    An estimate that differs in one digit from the reference range of this card is taken for an edited digit, not for another rank.
    """
    if not profile.has_budget or profile.adapters is None:
        return profile
    if (config := _shape(profile, model)) is None:
        return profile
    ranks = stack_of(profile).ranks_in_log(attempt, config)
    if not ranks or profile.max_lora_rank in ranks or _differs_in_one_digit(profile, attempt):
        return profile
    trainable, r = attempt.reading("trainable_params"), ranks[0]
    if trainable is not None:
        num_trainable, targets = int(trainable.value), profile.adapters.target_modules
        possible = possible_ranks(config, num_trainable)
        r = next((rank for rank in possible if adapter_params(config, rank, targets) == num_trainable), r)
    if r > ranks[0]:
        return profile
    return changed(profile, {"max_lora_rank": ranks[0], "adapters.r": r})


def _differs_in_one_digit(profile: Profile, attempt: Attempt) -> bool:
    """Whether exactly one digit of the printed KV estimate differs from the reference."""
    reading = attempt.reading("kv_estimate_bytes")
    expected = _expected(profile, _gpu_key(attempt, profile))
    allowed = None if expected is None else expected.figures.get("kv_estimate_gib")
    if reading is None or allowed is None or allowed.exactly is None:
        return False
    wanted, printed = reading.spec.show(reading.spec.from_edge(allowed.exactly)), reading.spec.show(reading.value)
    return len(wanted) == len(printed) and sum(a != b for a, b in zip(wanted, printed, strict=True)) == 1


def _trainable_params(profile: Profile, model: Model) -> int | None:
    """The parameters of the profile's adapters; None if it attaches none, or the model's shape is unknown."""
    if profile.adapters is None or (config := _shape(profile, model)) is None:
        return None
    return adapter_params(config, profile.adapters.r, profile.adapters.target_modules)


def _shape(profile: Profile, model: Model) -> ModelConfig | None:
    """The model's shape as the profile loads it; None if its figures are not predicted."""
    try:
        return model.config_for(profile.quantization)
    except BadInput:
        return None


def _refuse_other_settings(record: RunRecord, own: Profile, requested: Profile) -> None:
    """BadInput if a run is to be judged by other settings than its own, in one line, however many differ."""
    differ = [
        f"{key} {mine}, not {other}"
        for key, (mine, other) in differences(own, requested).items()
        if key not in ("name", "description")
    ]
    if differ:
        what = f"the run was made with {shortlist(differ, NAMED_SETTINGS, ' (and {} more)')}"
        raise BadInput(
            Problem(f"run.json of {record.id}", what, "leave --profile and the settings out: the run has its own")
        )


def _gpu(requested: str | None, known: str | None, target: Path) -> str | None:
    """The key of the card; BadInput if the requested one is not the log's."""
    if requested is None:
        return known
    key = gpu_named(requested)[0]
    if known is not None and known != key:
        raise BadInput(
            Problem(str(target), f"is the log of a load on {known}, not on {key}", "leave --gpu out", "--gpu")
        )
    return key


def _gpu_key(attempt: Attempt, profile: Profile | None) -> str | None:
    if profile is not None and profile.on_cpu:
        return "cpu"
    reading = attempt.reading("gpu_name")
    return find_gpu(str(reading.value)) if reading else None


def _config(model: Model | None, attempt: Attempt, any_release: bool) -> tuple[ModelConfig | None, str]:
    """The model's shape to predict from; or None and the reason."""
    if model is None:
        why = "the log names no model" if attempt.reading("model") is None else "the log's model is not in env/models"
        return None, f"{why}, so its figures are not predicted"
    if is_parallel(attempt):
        return None, "tensor parallel is not modelled, so its figures are not predicted"
    if not any_release and (note := stack_of_log(attempt).why_not_predicted(attempt)):
        return None, note
    quantization = attempt.reading("quantization")
    if quantization is None or quantization.value not in ("nf4", "16bit"):
        return None, "the log does not say how the model is quantized, so its figures are not predicted"
    try:
        config = model.config_for("nf4" if quantization.value == "nf4" else "16bit")
    except BadInput as error:
        return None, f"not predicted: {error.problems[0].what}"
    return _with_kept_modules(config, model, attempt)


def _with_kept_modules(config: ModelConfig, model: Model, attempt: Attempt) -> tuple[ModelConfig | None, str]:
    """The same with the modules that a dynamic quant keeps in 16 bits: those that the log prints, else those known of the model."""
    if config.quantization != "nf4":
        return config, ""
    kept, name = kept_in_log(attempt), attempt.reading("model")
    if kept is None and name is not None and is_dynamic(str(name.value)):
        if model.dynamic is None:
            what = "the log does not say which layers of its dynamic quant are in 16 bits"
            return None, f"{what}, so its figures are not predicted"
        kept = model.dynamic
    try:
        return changed(config, {"kept_modules": kept or ()}), ""
    except BadInput as error:
        return None, f"not predicted: {error.problems[0].what}"


def kept_in_log(attempt: Attempt) -> tuple[str, ...] | None:
    """The modules that are kept in 16 bits by the log; None if it does not list them."""
    reading = attempt.reading("skip_modules")
    return None if reading is None else kept_modules(re.findall(r"'([^']+)'", str(reading.value)))


def _expected(profile: Profile | None, gpu: str | None) -> Expected | None:
    """The golden ranges, if they were measured with exactly this profile's settings."""
    if profile is None or gpu is None or (expected := load_expected(profile.name, gpu)) is None:
        return None
    same = all(value_at(profile, key) == value for key, value in expected.settings.items())
    return expected if same else None


def _with_prediction(evidence: Evidence) -> Evidence:
    """The evidence with the figures predicted from its own free memory and settings."""
    profile, config = evidence.profile, evidence.config
    if config is None:
        return evidence
    stack = stack_of_log(evidence.attempt) if profile is None else stack_of(profile)
    if profile is not None and find_model(profile.model) != evidence.model:
        profile = None  # another model is a finding of its own; the figures are predicted for the log's model
    found = stack.predict_from_log(evidence.attempt, config, profile, evidence.gpu)
    return dataclasses.replace(
        evidence,
        predicted=found.figures,
        bands=found.bands,
        prediction_note=found.note or evidence.prediction_note,
        case=found.case,
    )
