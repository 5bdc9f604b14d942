"""What a stack must provide for its logs and its machines to be judged, in addition to predict/stack.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedStack(Stack):
    """A stack whose logs are read and judged.

    Attributes:
        dialect: the lines that it prints and no other stack does.
        identities: in the order in which they are judged.
        settings_checks: whether the engine got the settings that this stack passes to it, by the lines that state them.
        alternatives: by a required line's format, the formats that other releases print instead.
        variables: the environment variables that change a load of this stack.
        note: why a log of versions other than the pinned ones is not refused; empty if it is.
        required_lines: the formats that a whole load prints exactly once each, in order.
        required_events: the events that our own engine prints in a whole load, in order.
        repeated_lines: the formats that one attempt may print more than once.
        restated_figures: figures that the engine printed again because they had changed; every other figure must agree wherever it is
            printed.
        ranks_in_log: the values of max_lora_rank that fit the attempt's figures; empty if the figures do not tell.
        why_not_predicted: why figures of this attempt are not predicted, whatever its model; empty if they are.
        why_not_judged: why the log of this release does not even show whether its load finished; empty if it does.
        packages: the packages that a load imports, by their names in env/versions.toml.
        machine_checks: what a machine must have for this stack, in addition to what doctor checks for every stack.
    """

    dialect: Dialect = field(default_factory=Dialect)
    identities: tuple[Identity, ...] = ()
    settings_checks: tuple[Identity, ...] = ()
    alternatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    note: str = ""
    required_lines: Callable[[Attempt, Profile | None], tuple[str, ...]] = lambda *_: ()
    required_events: Callable[[Profile | None], tuple[type[Event], ...]] = lambda _: ()
    repeated_lines: Callable[[Attempt], frozenset[str]] = lambda _: frozenset()
    restated_figures: Callable[[Attempt], frozenset[str]] = lambda _: frozenset()
    ranks_in_log: Callable[[Attempt, ModelConfig], tuple[int, ...]] = lambda *_: ()
    why_not_predicted: Callable[[Attempt], str] = lambda _: ""
    why_not_judged: Callable[[Attempt], str] = lambda _: ""
    packages: Callable[[Profile], tuple[str, ...]] = lambda _: ()
    machine_checks: Callable[[Profile], tuple[Check, ...]] = lambda _: ()
