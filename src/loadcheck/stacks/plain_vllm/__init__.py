"""vLLM 0.7.2 alone on a GPU: the same engine with its own defaults, without unsloth and without adapters."""

from __future__ import annotations

from loadcheck.findings.stack import JudgedStack
from loadcheck.logs import Attempt
from loadcheck.predict.stack import Resolved
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import Profile
from loadcheck.stacks.plain_vllm import rungs
from loadcheck.stacks.plain_vllm.obstacles import model_refusals
from loadcheck.stacks.plain_vllm.prediction import predict, predict_from_log
from loadcheck.stacks.plain_vllm.settings_checks import CHECKS
from loadcheck.stacks.unsloth_vllm import identities as v0
from loadcheck.stacks.unsloth_vllm import machine
from loadcheck.stacks.unsloth_vllm.bands import PEAK_SLACK
from loadcheck.stacks.unsloth_vllm.from_log import why_not_judged, why_not_predicted
from loadcheck.stacks.unsloth_vllm.lines import ALTERNATIVES, ENGINE_LINES, UNSLOTH_LINES, applicable_lines

PACKAGES = ("torch", "triton", "vllm", "xformers", "transformers", "bitsandbytes", "protobuf", "numpy", "setuptools")
IN_FLIGHT_NOTE = (
    "{model} has no quantization_config, so it is predicted and loaded in 16 bits: what vLLM would quantize as it loads is not modelled; "
    "for 4 bits use a checkpoint that says so"
)


def _recognises(attempt: Attempt) -> bool:
    """A V0 engine that logs its configuration, without a line of unsloth's. LoRA occurs in servers' logs only, not in a load's."""
    reading = attempt.reading("engine")
    lora = attempt.formats["LoRA kernels"] and not attempt.formats["API server"]
    others = UNSLOTH_LINES.intersection(attempt.formats) or lora
    return reading is not None and str(reading.value) == "V0" and not others


def _resolve(profile: Profile) -> Resolved:
    title, config = resolve_model(profile.model, profile.load_in_4bit)
    in_flight = profile.load_in_4bit and config.quantization == "16bit"
    return Resolved(title, config, (IN_FLIGHT_NOTE.format(model=profile.model),) if in_flight else ())


# It prints the engine's own lines, which the unsloth stack reads, too.
STACK = JudgedStack(
    name="plain_vllm",
    engine="loadcheck.stacks.plain_vllm.engine",
    rungs=rungs.RUNGS,
    peak_slack=PEAK_SLACK,
    identities=(
        v0.check_budget, v0.check_kv_cache, v0.check_gpu_blocks, v0.check_cpu_blocks, v0.check_concurrency,
        v0.check_full_request, v0.check_graphs, v0.check_times, v0.check_attention, v0.check_model,
    ),
    settings_checks=CHECKS,
    alternatives=ALTERNATIVES,
    variables=machine.VARIABLES,
    loads=lambda profile: profile.has_budget and not profile.keeps_slots,
    recognises=_recognises,
    required_lines=lambda attempt, _: applicable_lines(ENGINE_LINES, attempt),
    why_not_predicted=why_not_predicted,
    why_not_judged=why_not_judged,
    packages=lambda _: PACKAGES,
    resolve=_resolve,
    predict=predict,
    predict_from_log=predict_from_log,
    needs=rungs.needs,
    left=rungs.amounts_left,
    slack=rungs.slack,
    knobs=rungs.knobs,
    concessions=rungs.concessions,
    model_refusals=model_refusals,
)  # fmt: skip
