"""The known troubles of this stack (env/troubles.toml): the engine's message, its cause, and its fix."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Literal

from msgspec import Meta

from loadcheck.specs.files import Spec, env_dir, load

Handling = Literal["prevented", "refused early", "diagnosed", "recovered", "out of reach"]
StageName = Literal[
    "banner", "plan", "engine", "loading", "weights", "profile", "profiled", "blocks", "capture", "ready", "adapters", "training",
    "sampler", "grpo", "pinned", "unknown"
]  # fmt: skip
"""How far a load had come: the names of logs.formats.Stage; the last four are found from a traceback by verdict/stage.py."""

Shortage = Literal["kv_estimate", "batch", "profile", "kv_cache", "peak"]
"""What a load is short of, in the order in which it shows: unsloth's estimate of the KV cache, tokens of a batch for one of each
sequence, memory in vLLM's profile run, memory for the KV cache, and memory at the peak, outside vLLM's budget."""

MIN_ANCHOR_CHARS = 6
_LITERAL = re.compile(r"[\w '\"`:,/=<>#-]*")
_QUANTIFIERS = ("?", "*", "+", "{")

Phrase = tuple[str, re.Pattern[str]]
"""A message's pattern, and the literal that it begins with."""


class Trouble(Spec, frozen=True, kw_only=True):
    """One trouble, from its message in a log to its fix.

    Attributes:
        says: patterns of the message; each begins with literal text, which is searched for first. Empty if no log shows it.
        stages: the message means this trouble only if the load had reached one of these stages; empty for any stage.
        short: what the load was short of, if other settings need less of it (predict/ladder.py).
        advice: what to do by the figures in the message, shown before the remedy: a template of the named groups of `says`
            and of what verdict/advice.py computes from them.
        hides: ids of less specific troubles, which are not shown together with this one.
        whole_load: whether it is also reported for a load that went well, as the load then differs from what was requested.
        references: the issues, or the lines of the pinned packages, that it is known from.
        handling: the best that loadcheck does about it; `we_do` says how.
        tests: the tests that show it, in addition to the one of its excerpt, as FILE::NAME below tests/.
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

    def phrases(self) -> tuple[Phrase, ...]:
        """Each pattern with the literal that it begins with."""
        return _compiled(self.says)


class Troubles(Spec, frozen=True, kw_only=True):
    """env/troubles.toml."""

    troubles: tuple[Trouble, ...]

    def __post_init__(self) -> None:
        ids = [trouble.id for trouble in self.troubles]
        if twice := sorted({trouble_id for trouble_id in ids if ids.count(trouble_id) > 1}):
            raise ValueError(f"{', '.join(twice)} is there twice; give each trouble an id of its own")
        if unknown := sorted({trouble_id for trouble in self.troubles for trouble_id in trouble.hides} - set(ids)):
            raise ValueError(f"hides {', '.join(unknown)}, which is no trouble; name the id of one")


@cache
def _compiled(says: tuple[str, ...]) -> tuple[Phrase, ...]:
    """Cached, as each block of a log is searched for all of them."""
    return tuple((anchor_of(phrase), re.compile(phrase)) for phrase in says)


def anchor_of(phrase: str) -> str:
    """The literal text at the beginning of a pattern."""
    match = _LITERAL.match(phrase)
    literal = match.group() if match else ""
    return literal[:-1] if phrase[len(literal) :].startswith(_QUANTIFIERS) else literal


@cache
def load_troubles() -> tuple[Trouble, ...]:
    return load(Troubles, env_dir() / "troubles.toml").troubles


@cache
def failure_words() -> tuple[Phrase, ...]:
    """The phrases of every trouble, for `logs.parse_log`: a line that begins with one makes a file a log even without figures."""
    return tuple(phrase for trouble in load_troubles() for phrase in trouble.phrases())
