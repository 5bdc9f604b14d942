"""The known troubles of this stack (env/troubles.toml): the engine's own words, what they mean, and what fixes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Literal

from msgspec import Meta

from loadcheck.specs.files import Spec, env_dir, load

Handling = Literal["prevented", "refused early", "diagnosed", "recovered", "out of reach"]
StageName = Literal[
    "banner", "plan", "engine", "loading", "weights", "profile", "profiled", "blocks", "capture", "ready", "adapters", "training",
    "sampler", "grpo", "pinned", "unknown"
]  # fmt: skip
"""How far a load had come, in the words of logs.formats.Stage; the last four as verdict/stage.py tells them from a traceback."""

Shortage = Literal["kv_estimate", "batch", "profile", "kv_cache", "peak"]
"""What a load has too little of, in the order in which it shows: unsloth's estimate of the KV cache, tokens of a batch for one of each
sequence, memory in vLLM's profile run, memory for the KV cache, and memory at the peak, outside vLLM's budget."""

MIN_ANCHOR_CHARS = 6
_LITERAL = re.compile(r"[\w '\"`:,/=<>#-]*")
_QUANTIFIERS = ("?", "*", "+", "{")


class Trouble(Spec, frozen=True, kw_only=True):
    """One trouble, from its words in a log to its fix.

    Attributes:
        says: patterns of the words; each begins with literal text, which is looked for first. Empty where no log shows it.
        stages: the same words mean this trouble only where the load had come so far; empty for anywhere.
        short: what the load had too little of, where other settings need less of it (predict/ladder.py).
        advice: what to do by the figures of the words themselves, said before the remedy: a template of the named groups of `says`
            and of what verdict/advice.py computes from them.
        hides: ids of less specific troubles, which are not named beside this one.
        whole_load: whether it is named of a load that went well too, as what came after it is not what was asked for.
        references: the issues, or the lines of the pinned packages, that it is known from.
        handling: what becomes of it here at best; `we_do` says how.
        tests: the tests that show it, beside the one of its excerpt, as FILE::NAME below tests/.
    """

    id: Annotated[str, Meta(pattern=r"^[a-z0-9-]+$")]
    title: str
    says: tuple[str, ...] = ()
    stages: tuple[StageName, ...] = ()
    short: Shortage | None = None
    advice: str = ""
    hides: tuple[str, ...] = ()
    whole_load: bool = False
    cause: str
    remedy: str
    references: Annotated[tuple[str, ...], Meta(min_length=1)]
    handling: Handling
    we_do: str
    tests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for phrase in self.says:
            re.compile(phrase)
            if len(anchor_of(phrase)) < MIN_ANCHOR_CHARS:
                raise ValueError(
                    f"{phrase!r} does not begin with literal text; begin it with {MIN_ANCHOR_CHARS} letters"
                )

    def phrases(self) -> Iterator[tuple[str, re.Pattern[str]]]:
        """Each pattern with the literal that it begins with."""
        for phrase in self.says:
            yield anchor_of(phrase), re.compile(phrase)


class Troubles(Spec, frozen=True, kw_only=True):
    """env/troubles.toml."""

    troubles: tuple[Trouble, ...]

    def __post_init__(self) -> None:
        ids = [trouble.id for trouble in self.troubles]
        if twice := sorted({each for each in ids if ids.count(each) > 1}):
            raise ValueError(f"{', '.join(twice)} is there twice; give each trouble an id of its own")
        if unknown := sorted({each for trouble in self.troubles for each in trouble.hides} - set(ids)):
            raise ValueError(f"hides {', '.join(unknown)}, which is no trouble; name the id of one")


def anchor_of(phrase: str) -> str:
    """The literal text that a pattern begins with."""
    match = _LITERAL.match(phrase)
    literal = match.group() if match else ""
    return literal[:-1] if phrase[len(literal) :].startswith(_QUANTIFIERS) else literal


@cache
def load_troubles() -> tuple[Trouble, ...]:
    return load(Troubles, env_dir() / "troubles.toml").troubles


@cache
def failure_words() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """The words of every trouble, as `logs.parse_log` takes them: a line that begins so is worth a diagnosis, figures or not."""
    return tuple(phrase for trouble in load_troubles() for phrase in trouble.phrases())
