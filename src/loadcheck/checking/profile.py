"""Which profile a run or a log is judged by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loadcheck.checking.card import card_of_log, golden_ranges
from loadcheck.checking.shape import kept_in_log, shape_of_profile
from loadcheck.errors import BadInput, Problem, shortlist
from loadcheck.findings.evidence import is_parallel
from loadcheck.logs import Attempt
from loadcheck.logs.events import Started
from loadcheck.runs.record import RunRecord
from loadcheck.specs.files import changed, differences, validate
from loadcheck.specs.lora import adapter_params, possible_ranks
from loadcheck.specs.model import Model, find_model
from loadcheck.specs.profile import Profile, load_profile, load_profiles, with_flags
from loadcheck.specs.settings import figures_of_settings
from loadcheck.stacks import stack_of, stack_of_log

NAMED_SETTINGS = 3
"""How many of the settings that contradict a run folder an error names."""
_MAX_USED_BEFORE = 0.1
"""The share of a card's memory that may be in use before a load for a log to be matched with a profile by its utilization. The cards of
env/gpus.toml have 0.4 to 1.8 % in use (`used_before_bytes`)."""


def profile_of(
    record: RunRecord | None, name: str | None, overrides: dict[str, Any], attempt: Attempt, model: Model | None
) -> Profile | None:
    """The run's own profile; otherwise, with `overrides` applied, the named one, or the one that has the log's engine, model and length.

    If there is neither a name nor an override, the profile must also have the other settings that the log prints.
    """
    if record is not None:
        return _own_profile(record, name, overrides)
    if name is not None:
        return load_profile(name, overrides)
    profile = next(_matching(attempt, model, overrides), None)
    if profile is None and overrides:
        what = "no profile has this log's model and length, so there are no settings to change"
        raise BadInput(Problem("command line", what, "name one with --profile, and --model and --max-seq-length"))
    return profile


def _own_profile(record: RunRecord, name: str | None, overrides: dict[str, Any]) -> Profile:
    """The profile in run.json; BadInput if the one asked for differs from it."""
    own = validate(Profile, record.profile, f"run.json of {record.id}: profile")
    requested = with_flags(own, overrides) if name is None else load_profile(name, overrides)
    _refuse_other_settings(record, own, requested)
    return own


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


def _matching(attempt: Attempt, model: Model | None, overrides: dict[str, Any]) -> Iterator[Profile]:
    """The profiles of env/profiles, with `overrides` applied, that the log may be of."""
    on_cpu, length = attempt.last(Started) is not None, attempt.reading("max_model_len")
    for profile in load_profiles():
        if model is None or profile.on_cpu != on_cpu or find_model(profile.model) != model:
            continue
        candidate = with_flags(profile, overrides)
        if not overrides:
            candidate = _with_rank_of_log(candidate, attempt, model)
        if length is not None and length.value != candidate.max_seq_length:
            continue
        if overrides or on_cpu or _has_settings(attempt, candidate, model):
            yield candidate


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
    if (config := shape_of_profile(profile, model)) is None:
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
    expected = golden_ranges(profile, card_of_log(attempt, profile))
    allowed = None if expected is None else expected.figures.get("kv_estimate_gib")
    if reading is None or allowed is None or allowed.exactly is None:
        return False
    wanted, printed = reading.spec.show(reading.spec.from_edge(allowed.exactly)), reading.spec.show(reading.value)
    return len(wanted) == len(printed) and sum(a != b for a, b in zip(wanted, printed, strict=True)) == 1


def _trainable_params(profile: Profile, model: Model) -> int | None:
    """The parameters of the profile's adapters; None if it attaches none, or the model's shape is unknown."""
    if profile.adapters is None or (config := shape_of_profile(profile, model)) is None:
        return None
    return adapter_params(config, profile.adapters.r, profile.adapters.target_modules)
