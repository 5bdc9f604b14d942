"""The stacks: what one set of pinned packages knows of its loads. Nothing outside names one of them.

A stack is a folder with an object `STACK` (predict/stack.py says what it must know). To add one, write the folder and name it here.
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
"""A log is of the first that recognises it."""
DIALECT = merged(stack.dialect for stack in STACKS)
"""What every log is read by: whose it is shows in its lines."""


def parse_log(path: Path, words: Sequence[EndingWords] = ()) -> ParsedLog:
    """Read a log of any stack; the rest as `logs.parse_log`."""
    return logs.parse_log(path, DIALECT, words)


def stack_of(profile: Profile) -> JudgedStack:
    """The stack that loads this profile."""
    return next(stack for stack in STACKS if stack.loads(profile))


def case_of(profile: Profile, card: Card | None, ram_available_bytes: int | None) -> Case:
    """A load of the profile's own model, as its stack resolves the name; BadInput for a model that is not to be had."""
    model = stack_of(profile).resolve(profile)
    return Case(
        model_name=model.name,
        config=model.config,
        notes=model.notes,
        profile=profile,
        card=card,
        ram_available_bytes=ram_available_bytes,
    )


def stack_of_log(attempt: Attempt, profile: Profile | None = None) -> JudgedStack:
    """The stack that a log is of: by what it prints where that is another engine, else that of its profile where it is known."""
    found = next(stack for stack in STACKS if stack.recognises(attempt))
    return found if profile is None or found is VLLM_V1 else stack_of(profile)


def weights_by_engine(config: ModelConfig) -> dict[str, Term]:
    """What a model's weights take on the card, as vLLM holds them, and in a CPU's memory."""
    return {"gpu": weights(config), "cpu": cpu_weights(config)}


def predict(case: Case) -> Prediction:
    """Every figure of a load, and what keeps it from succeeding, by the stack that loads it."""
    found = stack_of(case.profile).predict(case)
    return replace(found, notes=(*case.notes, *found.notes))


def engine_of(profile: Profile) -> str:
    """The module that loads this profile. Without vLLM a load is predicted as the CPU's is; on a GPU it is unsloth's all the same."""
    if profile.has_budget:
        return stack_of(profile).engine
    return (TRANSFORMERS_CPU if profile.on_cpu else UNSLOTH_VLLM).engine


def begun_ahead(profile: Profile) -> str | None:
    """The module that loads this profile, where it can import before it knows its plan (engines/ahead.py); None where it cannot."""
    engine = engine_of(profile)
    can = engine == UNSLOTH_VLLM.engine and not profile.training.steps
    return engine if can and startup.enabled("ahead") else None


def trainer_of(profile: Profile) -> str:
    """The module that trains the adapters of this profile: its run(session)."""
    return engine_of(profile).removesuffix("engine") + "training"
