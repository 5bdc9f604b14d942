"""The stacks: what one set of pinned packages knows of its loads. Nothing outside names one of them.

A stack is a folder with an object `STACK` (predict/stack.py says what it must know). To add one, write the folder and name it here.
"""

from __future__ import annotations

from dataclasses import replace

from loadcheck.logs import Attempt
from loadcheck.predict.account import Prediction
from loadcheck.predict.case import Case
from loadcheck.predict.stack import Stack
from loadcheck.specs.profile import Profile
from loadcheck.stacks.transformers_cpu import STACK as TRANSFORMERS_CPU
from loadcheck.stacks.unsloth_vllm import STACK as UNSLOTH_VLLM

STACKS: tuple[Stack, ...] = (UNSLOTH_VLLM, TRANSFORMERS_CPU)


def stack_of(profile: Profile) -> Stack:
    """The stack that loads this profile."""
    return next(stack for stack in STACKS if stack.loads(profile))


def stack_of_log(attempt: Attempt) -> Stack:
    """The stack that a log of which no profile is known is of."""
    return next(stack for stack in STACKS if stack.recognises(attempt))


def predict(case: Case) -> Prediction:
    """Every figure of a load, and what keeps it from succeeding, by the stack that loads it."""
    found = stack_of(case.profile).predict(case)
    return replace(found, notes=(*case.notes, *found.notes))
