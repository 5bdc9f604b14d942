"""What a stack must know for its logs and its machines to be judged, beside what predict/stack.py asks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from loadcheck.findings.finding import Finding
from loadcheck.logs import Attempt, Dialect
from loadcheck.logs.event import Event
from loadcheck.machine import Check
from loadcheck.predict.stack import Stack
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig

if TYPE_CHECKING:
    from loadcheck.findings.evidence import Evidence

Identity = Callable[["Evidence"], Iterator[Finding]]
"""What must hold between the figures of a log; nothing where the log does not say them all."""


class JudgedStack(Stack, Protocol):
    """A stack whose logs are read and judged.

    Attributes:
        dialect: the lines that it prints and no other stack does.
        identities: in the order in which they are judged.
        settings_checks: whether the engine was asked for what this stack asks for, by the lines that say it.
        repeated_lines: formats that one attempt may print twice.
        alternatives: by a required line's format, those that other releases print instead.
        variables: those of the environment that change a load of it.
        note: why versions other than the pinned are no reason to refuse a log; empty where they are.
    """

    dialect: Dialect = Dialect()
    identities: tuple[Identity, ...] = ()
    settings_checks: tuple[Identity, ...] = ()
    repeated_lines: frozenset[str] = frozenset()
    alternatives: dict[str, tuple[str, ...]] = {}
    variables: tuple[str, ...] = ()
    note: str = ""

    def required_lines(self, attempt: Attempt, profile: Profile | None) -> tuple[str, ...]:
        """The formats of which a whole load prints each once, in order."""
        return ()

    def required_events(self, profile: Profile | None) -> tuple[type[Event], ...]:
        """The events that our own engine prints in a whole load, in order."""
        return ()

    def said_anew(self, attempt: Attempt) -> frozenset[str]:
        """Figures that the engine said a second time because they had changed; all others must agree wherever they stand."""
        return frozenset()

    def ranks_in_log(self, attempt: Attempt, config: ModelConfig) -> tuple[int, ...]:
        """The max_lora_rank that the attempt's figures can be of; empty where they do not tell."""
        return ()

    def why_not_predicted(self, attempt: Attempt) -> str:
        """Why figures of this attempt are not predicted, whatever its model; empty where they are."""
        return ""

    def packages(self, profile: Profile) -> tuple[str, ...]:
        """What a load imports, by the names of env/versions.toml."""
        return ()

    def machine_checks(self, profile: Profile) -> tuple[Check, ...]:
        """What a machine must have for this stack, beside what doctor looks at for every one."""
        return ()
