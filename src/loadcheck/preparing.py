"""Prepares a load: chooses the profile, refuses bad input, checks what this machine lacks, and predicts."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from loadcheck import weights
from loadcheck.device import GpuDevice, ram_available_bytes, read_gpu
from loadcheck.errors import BadInput, Problem, UnsupportedMachine
from loadcheck.plan import LoadPlan, make_plan
from loadcheck.predict import Case, Prediction
from loadcheck.predict.card import card_of
from loadcheck.specs.profile import Profile
from loadcheck.specs.settings import settings_of
from loadcheck.stacks import predict

GPU_PROFILE = "llama31-8b-instruct-4bit"
CPU_PROFILE = "smollm2-135m-cpu"

SETTLE_S, SETTLE_POLL_S = 10.0, 0.5

# The packages that each engine needs.
_NEEDED = {"gpu": ("unsloth", "vllm", "torch"), "cpu": ("torch", "transformers", "peft", "bitsandbytes")}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A load that is about to start."""

    plan: LoadPlan
    gpu: GpuDevice | None
    case: Case
    prediction: Prediction


def default_profile(gpu: GpuDevice | None) -> tuple[str, str]:
    """The default profile for this machine, and why."""
    if gpu is None:
        return CPU_PROFILE, "this machine has no usable NVIDIA GPU, so the small model runs on the CPU"
    return GPU_PROFILE, f"this machine has a GPU: {gpu.name}"


def prepare(profile: Profile, gpu: GpuDevice | None) -> Prepared:
    """Plan and predict a load before anything starts.

    BadInput if the engine would refuse the profile, UnsupportedMachine if this machine lacks what it needs.
    """
    plan = make_plan(profile)
    refuse_bad_input(plan)
    weights.refuse_unsafe(plan)
    if not profile.on_cpu and gpu is None:
        raise UnsupportedMachine(
            Problem(
                f"profile {profile.name}",
                "needs an NVIDIA GPU, and none is visible here (no driver, or no device)",
                f"run it where nvidia-smi lists one, in a container with --gpus all; without one, use profile {CPU_PROFILE}",
            )
        )
    _require_packages(profile)
    case = case_here(plan, gpu, ram_available_bytes())
    return Prepared(plan, gpu, case, predict(case))


def case_here(plan: LoadPlan, gpu: GpuDevice | None, ram_bytes: int) -> Case:
    """The planned load on this machine's card with its free memory."""
    card = None
    if gpu is not None and not plan.profile.on_cpu:
        card = card_of(gpu)
    return Case.of(plan, card, ram_bytes)


def refuse_bad_input(plan: LoadPlan) -> None:
    """BadInput for what the load's process would refuse later; all problems of the profile at once."""
    problems = tuple(_setting_problems(plan))
    if problems:
        raise BadInput(problems)
    weights.check(plan)


def _setting_problems(plan: LoadPlan) -> Iterator[Problem]:
    profile, positions = plan.profile, plan.config.max_position_embeddings
    where = f"profile {profile.name}"
    if profile.on_cpu and profile.fast_inference:
        yield Problem(where, "vLLM needs a GPU, and this profile runs on the CPU", "set it to false", "fast_inference")
    if profile.on_cpu and profile.max_seq_length > positions:  # on a GPU the prediction covers it
        what = f"{profile.max_seq_length} is above the {positions} positions of {plan.model_name}"
        yield Problem(where, what, f"lower it to {positions}", "max_seq_length")
    if profile.generation.max_new_tokens >= profile.max_seq_length:
        what = f"{profile.max_seq_length} tokens hold no prompt and an answer of {profile.generation.max_new_tokens}"
        yield Problem(where, what, "raise it, or lower generation.max_new_tokens", "max_seq_length")


def reject_ignored_flags(profile: Profile, changed: Iterable[str]) -> None:
    """BadInput if a flag changed a dotted key (in `changed`) that a load without vLLM ignores."""
    given = set(changed)
    of_engine = [flag.key for flag in settings_of(Profile) if flag.setting.of_engine]
    ignored = [key for key in of_engine if key in given and not profile.fast_inference]
    what, remedy = f"only vLLM uses it, and profile {profile.name} loads without vLLM", "leave the flag out"
    if ignored:
        raise BadInput(Problem("command line", what, remedy, key) for key in ignored)


def settled_gpu(before: GpuDevice | None) -> GpuDevice | None:
    """The GPU once it has as much free memory as before the load, or after SETTLE_S: a driver may free memory a little late."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        gpu = read_gpu()
        if gpu is None or before is None or gpu.free_bytes >= before.free_bytes or time.monotonic() > deadline_s:
            return gpu
        time.sleep(SETTLE_POLL_S)


def _require_packages(profile: Profile) -> None:
    require(_NEEDED[profile.engine], profile)


def require(names: Iterable[str], profile: Profile) -> None:
    """UnsupportedMachine if this environment lacks one of these packages."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedMachine(
            Problem(
                sys.prefix,
                f"this environment lacks {', '.join(missing)}, which profile {profile.name} needs",
                "use `make load` or `make train`, which install them from the lock",
            )
        )
