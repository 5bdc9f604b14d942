"""transformers, bitsandbytes and peft without vLLM: on a CPU, and on a GPU without vLLM. There is no memory budget."""

from __future__ import annotations

from loadcheck.findings.stack import JudgedStack
from loadcheck.logs import Attempt
from loadcheck.logs.event import Event
from loadcheck.logs.events import Answered, Attached, Done, Peak, Started, WeightsLoaded
from loadcheck.predict.account import Prediction
from loadcheck.predict.case import Case
from loadcheck.predict.stack import LogPrediction
from loadcheck.predict.train_account import TrainAccount
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.transformers_cpu import machine
from loadcheck.stacks.transformers_cpu.lines import DIALECT
from loadcheck.stacks.transformers_cpu.peak import cpu_bands
from loadcheck.stacks.transformers_cpu.prediction import predict
from loadcheck.stacks.unsloth_vllm import STACK as UNSLOTH_VLLM
from loadcheck.stacks.unsloth_vllm import machine as unsloth
from loadcheck.stacks.unsloth_vllm.identities import check_model, check_patched, check_times, check_trainable
from loadcheck.stacks.unsloth_vllm.lines import ALTERNATIVES, required_lines
from loadcheck.stacks.unsloth_vllm.settings_checks import CHECKS

EVENTS: tuple[type[Event], ...] = (Started, WeightsLoaded, Attached, Answered, Peak, Done)
"""The events of a load on a CPU."""


def _required_events(profile: Profile | None) -> tuple[type[Event], ...]:
    if profile is None or not profile.on_cpu:
        return ()
    return tuple(kind for kind in EVENTS if kind is not Attached or profile.adapters is not None)


def _predict_training(case: Case, settings: TrainSettings, engine: Prediction | None) -> TrainAccount | None:
    return None if case.profile.on_cpu else UNSLOTH_VLLM.predict_training(case, settings, engine)


def _predict_from_log(
    attempt: Attempt,  # noqa: ARG001
    config: ModelConfig,
    profile: Profile | None,
    gpu: str | None,  # noqa: ARG001
) -> LogPrediction:
    if profile is None:  # a model other than the profile's is reported by another finding
        return LogPrediction()
    if not profile.on_cpu:
        return LogPrediction(note="a load without vLLM has no plan, so its memory is not predicted")
    case = Case(config=config, profile=profile)
    figures = predict(case).figures
    return LogPrediction(figures, cpu_bands(figures.peak_device_bytes), case=case)


# It knows no settings that would make a load fit.
STACK = JudgedStack(
    name="transformers_cpu",
    engine="loadcheck.stacks.transformers_cpu.engine",
    dialect=DIALECT,
    identities=(check_times, check_model, check_patched, check_trainable),
    settings_checks=CHECKS,
    alternatives=ALTERNATIVES,
    loads=lambda profile: profile.on_cpu or not profile.fast_inference,
    recognises=lambda attempt: attempt.last(Started) is not None,
    required_lines=required_lines,
    required_events=_required_events,
    packages=lambda profile: machine.PACKAGES if profile.on_cpu else unsloth.PACKAGES,
    machine_checks=lambda profile: machine.CHECKS if profile.on_cpu else unsloth.WITHOUT_ENGINE,
    predict=predict,
    predict_training=_predict_training,
    predict_from_log=_predict_from_log,
)
