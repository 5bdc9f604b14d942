"""The results of a benchmark's runs: differences between ways that must agree, medians, and the table of docs/startup.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from scripts.bench.timing import HASHES, STAGES, TORCH_BYTES, Timed, Way

Rounds = dict[str, list[list[Timed]]]
"""The rounds of each kind, "warm" and "cold"; a way that failed is missing from its round."""
TOTAL = "start to first token"
PLAIN = "plain"
"""The baseline: the other ways' times are given as fractions of its times."""


def differences(rounds: Rounds, ways: Sequence[Way]) -> list[str]:
    """Each failed run, and each figure, hash and number of torch's bytes that differs from those of the way it must equal, or of its own first round."""
    like = {way.name: way.like for way in ways}
    return [text for kind in rounds for text in _of_kind(kind, rounds[kind], like)]


def _of_kind(kind: str, rounds: list[list[Timed]], like: dict[str, str | None]) -> Iterator[str]:
    first: dict[str, Timed] = {}
    for number, runs in enumerate(rounds, 1):
        by_name = {run.way: run for run in runs}
        for run in runs:
            if run.exit_code:
                yield f"{kind} round {number}: {run.way}: exit code {run.exit_code}"
            other = by_name.get(like.get(run.way) or "")
            for each, source in ((other, other and other.way), (first.get(run.way), "its first round")):
                for name, one, two in _differing(each, run):
                    yield f"{kind} round {number}: {run.way}: {name}: {two}, {source}: {one}"
            first.setdefault(run.way, run)


def _differing(one: Timed | None, two: Timed) -> Iterator[tuple[str, Any, Any]]:
    """Values that differ, and figures that only the first run has. Hashes and bytes may be missing, as the plain script prints no bytes."""
    if one is None:
        return
    for name, value in one.said.items():
        optional = name in HASHES or name.rpartition(".")[2] in TORCH_BYTES
        if (name in two.said or not optional) and two.said.get(name) != value:
            yield name, value, two.said.get(name)


def medians(rounds: list[list[Timed]]) -> dict[str, dict[str, float]]:
    """The median seconds of each stage, and of all of them, by way."""
    ways = dict.fromkeys(run.way for each in rounds for run in each)
    found = {}
    for name in ways:
        runs = [run for each in rounds for run in each if run.way == name]
        found[name] = {stage: round(median(run.stages_s[stage] for run in runs), 2) for stage in STAGES}
        found[name][TOTAL] = round(median(run.first_token_s for run in runs), 2)
    return found


def table(rounds: Rounds, heading: str) -> str:
    """Medians in seconds, each with its fraction of the plain script's stage in brackets."""
    found = {kind: medians(each) for kind, each in rounds.items() if each}
    columns = [(kind, way) for kind, ways in found.items() for way in ways]
    names = [f"{way}, {kind}" for kind, way in columns]
    lines = [["", *names], ["---", *["---:"] * len(names)]]
    for stage in (*STAGES, TOTAL):
        cells = [_cell(found[kind], way, stage) for kind, way in columns]
        lines.append([_bold(text) if stage == TOTAL else text for text in (stage, *cells)])
    counts = ", ".join(f"{len(each)} {kind}" for kind, each in rounds.items())
    return f"{heading} Medians of {counts} rounds.\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(ways: dict[str, dict[str, float]], way: str, stage: str) -> str:
    seconds, of = ways[way][stage], ways.get(PLAIN, {}).get(stage)
    return f"{seconds:.1f}" if way == PLAIN or not of else f"{seconds:.1f} ({seconds / of:.2f})"


def _bold(text: str) -> str:
    return f"**{text}**"
