"""The stacks: the knowledge of one set of pinned packages each. No module outside names a particular stack.

A stack is a folder with an object `STACK` (predict/stack.py and findings/stack.py define the record). To add one, write the folder and list it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loadcheck import logs
from loadcheck.findings.stack import JudgedStack
from loadcheck.logs import Attempt, ParsedLog
from loadcheck.logs.dialect import EndingWords, merged
from loadcheck.predict.account import Prediction
from loadcheck.predict.card import Card
from loadcheck.predict.case import Case
from loadcheck.predict.terms import Term
from loadcheck.specs.model import local_notes
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.plain_vllm import STACK as PLAIN_VLLM
from loadcheck.stacks.transformers_cpu import STACK as TRANSFORMERS_CPU
from loadcheck.stacks.transformers_cpu.prediction import cpu_weights
from loadcheck.stacks.unsloth_vllm import STACK as UNSLOTH_VLLM
from loadcheck.stacks.unsloth_vllm import startup
from loadcheck.stacks.unsloth_vllm.weights import weights
from loadcheck.stacks.vllm_v1 import STACK as VLLM_V1

STACKS: tuple[JudgedStack, ...] = (VLLM_V1, PLAIN_VLLM, UNSLOTH_VLLM, TRANSFORMERS_CPU)
"""In this order: a log belongs to the first stack that recognises it."""
DIALECT = merged(stack.dialect for stack in STACKS)
"""Every log is read by all stacks' formats; its lines show which stack it belongs to."""


def parse_log(path: Path, words: Sequence[EndingWords] = ()) -> ParsedLog:
    """Read a log of any stack; see `logs.parse_log`."""
    return logs.parse_log(path, DIALECT, words)


def stack_of(profile: Profile) -> JudgedStack:
    """The stack that loads this profile."""
    return next(stack for stack in STACKS if stack.loads(profile))


def case_of(profile: Profile, card: Card | None, ram_available_bytes: int | None) -> Case:
    """A load of the profile's own model, as its stack resolves the name; BadInput for an unknown model."""
    model = stack_of(profile).resolve(profile)
    return Case(
        model_name=model.name,
        config=model.config,
        notes=(*model.notes, *local_notes(profile.model)),
        profile=profile,
        card=card,
        ram_available_bytes=ram_available_bytes,
    )


def stack_of_log(attempt: Attempt, profile: Profile | None = None) -> JudgedStack:
    """The stack of a log: vLLM V1 where its lines show that engine, else the profile's stack, or by its lines without a profile."""
    found = next(stack for stack in STACKS if stack.recognises(attempt))
    return found if profile is None or found is VLLM_V1 else stack_of(profile)


def weights_by_engine(config: ModelConfig) -> dict[str, Term]:
    """The memory of a model's weights on the card, as vLLM holds them, and on a CPU."""
    return {"gpu": weights(config), "cpu": cpu_weights(config)}


def predict(case: Case) -> Prediction:
    """Every figure of a load, and its obstacles, by the stack that loads it."""
    found = stack_of(case.profile).predict(case)
    return replace(found, notes=(*case.notes, *found.notes))


def engine_of(profile: Profile) -> str:
    """The engine module that loads this profile. Without vLLM, loads are predicted as on the CPU, but on a GPU unsloth's engine runs them."""
    if profile.has_budget:
        return stack_of(profile).engine
    return (TRANSFORMERS_CPU if profile.on_cpu else UNSLOTH_VLLM).engine


def ahead_engine_of(profile: Profile) -> str | None:
    """The engine module of this profile, if it can import before its plan is known (engines/ahead.py); else None."""
    engine = engine_of(profile)
    can = engine == UNSLOTH_VLLM.engine and not profile.training.steps
    return engine if can and startup.enabled("ahead") else None


def begin_reading(profile: Profile, directory: Path) -> None:
    """Read the weights that this profile's engine is going to load into memory, in the background; nothing for a CPU's."""
    if engine_of(profile) != TRANSFORMERS_CPU.engine:
        startup.begin_reading(directory)


def load_variables(profile: Profile) -> dict[str, str]:
    """Variables that this profile's engine needs from the start of its process on, beside those of `child_environment`."""
    return startup.variables() if engine_of(profile) == UNSLOTH_VLLM.engine else {}


def trainer_of(profile: Profile) -> str:
    """The module that trains this profile's adapters: its run(session)."""
    return engine_of(profile).removesuffix("engine") + "training"
