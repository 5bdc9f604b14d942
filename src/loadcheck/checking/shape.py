"""The shape of a log's model, from which its figures are predicted."""

from __future__ import annotations

import re

from loadcheck.errors import BadInput
from loadcheck.findings.evidence import is_parallel
from loadcheck.logs import Attempt
from loadcheck.specs.files import changed
from loadcheck.specs.hf_config import kept_modules
from loadcheck.specs.model import Model, is_dynamic
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks import stack_of_log


def shape_of_profile(profile: Profile, model: Model) -> ModelConfig | None:
    """The model's shape as the profile loads it; None if its figures are not predicted."""
    try:
        return model.config_for(profile.quantization)
    except BadInput:
        return None


def shape_of_log(model: Model | None, attempt: Attempt, any_release: bool) -> tuple[ModelConfig | None, str]:
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
