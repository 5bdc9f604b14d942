"""What a stack must provide for its logs and its machines to be judged, in addition to predict/stack.py."""

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
"""Checks what must hold between figures of a log; yields nothing if the log lacks one of them."""


class JudgedStack(Stack, Protocol):
    """A stack whose logs are read and judged.

    Attributes:
        dialect: the lines that it prints and no other stack does.
        identities: in the order in which they are judged.
        settings_checks: whether the engine got the settings that this stack passes to it, by the lines that state them.
        alternatives: by a required line's format, the formats that other releases print instead.
        variables: the environment variables that change a load of this stack.
        note: why a log of versions other than the pinned ones is not refused; empty if it is.
    """

    dialect: Dialect = Dialect()
    identities: tuple[Identity, ...] = ()
    settings_checks: tuple[Identity, ...] = ()
    alternatives: dict[str, tuple[str, ...]] = {}
    variables: tuple[str, ...] = ()
    note: str = ""

    def required_lines(self, attempt: Attempt, profile: Profile | None) -> tuple[str, ...]:
        """The formats that a whole load prints exactly once each, in order."""
        return ()

    def required_events(self, profile: Profile | None) -> tuple[type[Event], ...]:
        """The events that our own engine prints in a whole load, in order."""
        return ()

    def repeated_lines(self, attempt: Attempt) -> frozenset[str]:
        """The formats that one attempt may print more than once."""
        return frozenset()

    def restated_figures(self, attempt: Attempt) -> frozenset[str]:
        """Figures that the engine printed again because they had changed; every other figure must agree wherever it is printed."""
        return frozenset()

    def ranks_in_log(self, attempt: Attempt, config: ModelConfig) -> tuple[int, ...]:
        """The values of max_lora_rank that fit the attempt's figures; empty if the figures do not tell."""
        return ()

    def why_not_predicted(self, attempt: Attempt) -> str:
        """Why figures of this attempt are not predicted, whatever its model; empty if they are."""
        return ""

    def why_not_judged(self, attempt: Attempt) -> str:
        """Why the log of this release does not even show whether its load finished; empty if it does."""
        return ""

    def packages(self, profile: Profile) -> tuple[str, ...]:
        """The packages that a load imports, by their names in env/versions.toml."""
        return ()

    def machine_checks(self, profile: Profile) -> tuple[Check, ...]:
        """What a machine must have for this stack, in addition to what doctor checks for every stack."""
        return ()
