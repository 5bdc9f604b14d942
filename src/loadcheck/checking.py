"""From a log or a run folder to the evidence that a judgement needs: which model, which card, which prediction."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.findings.evidence import is_parallel
from loadcheck.logs import Attempt, ParsedLog
from loadcheck.logs.events import Started
from loadcheck.runs.folder import RunFolder, RunRecord, own_file
from loadcheck.specs.expected import Expected, load_expected
from loadcheck.specs.files import changed, flat, validate, value_at
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
"""Of those that contradict a run folder."""


def run_log(path: Path) -> ParsedLog:
    """The log of a run folder; BadInput where it says nothing, or is a link."""
    return parse_log(own_file(path), failure_words())


def read_log(target: Path) -> ParsedLog:
    """A log, or that of a run folder; BadInput where it is neither, or says nothing."""
    if not target.is_dir():
        return parse_log(target, failure_words())
    folder = RunFolder(target)
    folder.read_record()
    return run_log(folder.log_path)


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

    BadInput where it is neither, where a name is unknown, and where what is named is not what the run or its log says itself.

    Args:
        overrides: settings of the load by dotted key of a profile, which a log from elsewhere does not say.
        any_release: predict the figures of logs of other releases of the engine too, which count some of them in another way.
        log, record: of a run, where they are at hand; a disk that was full may have kept them out of its folder.
    """
    if record is None and target.is_dir():
        record = RunFolder(target).read_record()
    if log is None:
        log = parse_log(target, failure_words()) if record is None else run_log(RunFolder(target).log_path)
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
    """How the run ended; one that says to be completed with another exit code than 0 contradicts itself."""
    if record.outcome == "completed" and record.exit_code != 0:
        return "failed", f"run.json says that the run completed, and that its exit code was {record.exit_code}"
    return record.outcome, record.reason


def _profile(
    record: RunRecord | None, name: str | None, overrides: dict[str, Any], attempt: Attempt, model: Model | None
) -> Profile | None:
    """The run's own profile; else, with `overrides`, the one named, or the one of the log's engine, model and length.

    Where neither a name nor an override says what was asked for, the other settings that the log prints must be the profile's too.
    """
    if record is not None:
        own = validate(Profile, record.profile, f"run.json of {record.id}: profile")
        asked = with_flags(own, overrides) if name is None else load_profile(name, overrides)
        _refuse_other_settings(record, own, asked)
        return own
    if name is not None:
        return load_profile(name, overrides)
    on_cpu = attempt.last(Started) is not None
    length = attempt.reading("max_model_len")
    for profile in load_profiles():
        if model is not None and profile.on_cpu == on_cpu and find_model(profile.model) == model:
            other = with_flags(profile, overrides)
            if not overrides:
                other = _of_its_rank(other, attempt, model)
            same = length is None or length.value == other.max_seq_length
            if same and (overrides or on_cpu or _has_settings(attempt, other, model)):
                return other
    if overrides:
        what = "no profile is of this log's model and length, so there are no settings to change"
        raise BadInput(Problem("command line", what, "name one with --profile, and --model and --max-seq-length"))
    return None


_MOST_USED = 0.1
"""Of a card's memory, before a load: with more than that in use, or less of it asked for, a log is not taken for a profile's. The cards
of env/gpus.toml have 0.4 to 1.8 % in use (`used_before_bytes`)."""


def _has_settings(attempt: Attempt, profile: Profile, model: Model) -> bool:
    """Whether the settings that a log prints are the profile's; those that it does not print are taken to be.

    The quantization is not asked after: a load that silently was not quantized is found by comparing it with what is wanted.
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
    # The utilization is a share of what was free, printed as a share of the whole card.
    share, asked = attempt.reading("gpu_memory_utilization_pct"), 100 * profile.gpu_memory_utilization
    return share is None or (1 - _MOST_USED) * asked <= float(share.value) <= asked


def _of_its_rank(profile: Profile, attempt: Attempt, model: Model) -> Profile:
    """The profile with the rank that the log's KV estimate is of, where that is another one that vLLM takes.

    Of the reference ranges' own card an estimate that differs from theirs in one digit is taken for a changed digit.
    """
    if not profile.has_budget or profile.adapters is None:
        return profile
    try:
        config = model.config_for("nf4" if profile.load_in_4bit else "16bit")
    except BadInput:
        return profile
    ranks = stack_of(profile).ranks_in_log(attempt, config)
    if not ranks or profile.max_lora_rank in ranks or _is_slip(profile, attempt):
        return profile
    trainable = attempt.reading("trainable_params")
    said = () if trainable is None else possible_ranks(config, int(trainable.value))
    r = next(
        (
            r
            for r in said
            if adapter_params(config, r, profile.adapters.target_modules) == getattr(trainable, "value", None)
        ),
        ranks[0],
    )
    if r > ranks[0]:
        return profile
    return changed(profile, {"max_lora_rank": ranks[0], "adapters.r": r})


def _is_slip(profile: Profile, attempt: Attempt) -> bool:
    """Whether the printed KV estimate is one digit off the reference's."""
    reading = attempt.reading("kv_estimate_bytes")
    expected = _expected(profile, _gpu_key(attempt, profile))
    allowed = None if expected is None else expected.figures.get("kv_estimate_gib")
    if reading is None or allowed is None or allowed.exactly is None:
        return False
    wanted, printed = reading.spec.show(reading.spec.from_edge(allowed.exactly)), reading.spec.show(reading.value)
    return len(wanted) == len(printed) and sum(a != b for a, b in zip(wanted, printed, strict=True)) == 1


def _trainable_params(profile: Profile, model: Model) -> int | None:
    """None where the profile attaches no adapters, or the model's shape is not known."""
    if profile.adapters is None:
        return None
    try:
        config = model.config_for("nf4" if profile.load_in_4bit else "16bit")
    except BadInput:
        return None
    return adapter_params(config, profile.adapters.r, profile.adapters.target_modules)


def _refuse_other_settings(record: RunRecord, own: Profile, asked: Profile) -> None:
    """BadInput where a run is to be judged by other settings than it says itself; in one line, however many they are."""
    mine, other = flat(own), flat(asked)
    differ = [
        f"{key} {mine.get(key)}, not {other.get(key)}"
        for key in dict.fromkeys((*mine, *other))
        if key not in ("name", "description") and mine.get(key) != other.get(key)
    ]
    if differ:
        more = f" (and {len(differ) - NAMED_SETTINGS} more)" if len(differ) > NAMED_SETTINGS else ""
        what = f"the run was made with {', '.join(differ[:NAMED_SETTINGS])}{more}"
        raise BadInput(
            Problem(f"run.json of {record.id}", what, "leave --profile and the settings out: it says them itself")
        )


def _gpu(asked: str | None, known: str | None, target: Path) -> str | None:
    """The key of the card; BadInput where another one is named than the log says."""
    if asked is None:
        return known
    key = gpu_named(asked)[0]
    if known is not None and known != key:
        raise BadInput(Problem(str(target), f"is of a load on {known}, not on {key}", "leave --gpu out", "--gpu"))
    return key


def _gpu_key(attempt: Attempt, profile: Profile | None) -> str | None:
    if profile is not None and profile.on_cpu:
        return "cpu"
    reading = attempt.reading("gpu_name")
    return find_gpu(str(reading.value)) if reading else None


def _why_no_model(attempt: Attempt) -> str:
    return "the log names no model" if attempt.reading("model") is None else "the log's model is not in env/models"


def _config(model: Model | None, attempt: Attempt, any_release: bool) -> tuple[ModelConfig | None, str]:
    """The shape to predict from; or None and why there is none."""
    if model is None:
        return None, f"{_why_no_model(attempt)}, so its figures are not predicted"
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
    """The same with the modules that a dynamic quant keeps in 16 bits: as the log prints them, else as the model's are known."""
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
    """The modules that the log says are kept in 16 bits; None where it does not say."""
    reading = attempt.reading("skip_modules")
    return None if reading is None else kept_modules(re.findall(r"'([^']+)'", str(reading.value)))


def _expected(profile: Profile | None, gpu: str | None) -> Expected | None:
    """The golden ranges, where they are for this profile's very settings."""
    if profile is None or gpu is None or (expected := load_expected(profile.name, gpu)) is None:
        return None
    same = all(value_at(profile, key) == value for key, value in expected.settings.items())
    return expected if same else None


def _with_prediction(evidence: Evidence) -> Evidence:
    """The evidence with what its own free memory and settings predict."""
    profile, config = evidence.profile, evidence.config
    if config is None:
        return evidence
    stack = stack_of_log(evidence.attempt) if profile is None else stack_of(profile)
    if profile is not None and find_model(profile.model) != evidence.model:
        profile = None  # another model: that is a finding of its own, and its figures follow from the log's model
    found = stack.predict_from_log(evidence.attempt, config, profile, evidence.gpu)
    return dataclasses.replace(
        evidence,
        predicted=found.figures,
        bands=found.bands,
        prediction_note=found.note or evidence.prediction_note,
        case=found.case,
    )
