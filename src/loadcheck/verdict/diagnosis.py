"""Diagnoses a failed load: looks up the engine's messages among the known troubles (env/troubles.toml)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.logs import Attempt, Kind, LogError, Outcome, ParsedLog
from loadcheck.logs.event_lines import EVENT_ANCHOR
from loadcheck.logs.text import clean_line, read_blocks
from loadcheck.logs.wrapped import is_head
from loadcheck.specs.trouble import Trouble, load_troubles
from loadcheck.verdict.advice import figures_of, remedy_for
from loadcheck.verdict.cause import WARNINGS
from loadcheck.verdict.shape import is_without_engine
from loadcheck.verdict.stage import UNKNOWN as UNKNOWN_STAGE
from loadcheck.verdict.stage import stage_at, stage_of

MAX_MATCHES = 100
"""Matches tried per phrase and block of the log, so that hostile input cannot take long."""

MAX_PIECES = 6
"""Lines that an error may have been wrapped into."""

UNKNOWN, REFUSED = "unknown", "refused"
"""The `trouble` of an error that is not a known one: an error of the libraries, or a refusal by our own engine."""
ENDED_FROM_OUTSIDE = ("interrupted", "killed")
_OWN = re.compile(r"Error: (?P<what>.+?: .+?); (?P<remedy>.+)")  # as engines/child.py prints a Problem


@dataclass(frozen=True, slots=True)
class Sighting:
    """A trouble, the first line that shows it, and the figures in its message (verdict/advice.py)."""

    trouble: Trouble
    line: int
    figures: Mapping[str, str]


def check_diagnosis(evidence: Evidence) -> Iterator[Finding]:
    """A finding for each known trouble of a load that went wrong; or for each refusal of our own engine; or, if the error is unknown, for that
    error and how far the load came. A load that was ended from outside has no trouble to look for."""
    went_wrong = _went_wrong(evidence.log) and not _lacks_only_engine(evidence)
    troubles = sightings(evidence.log, whole_load=not went_wrong)
    for sighting in troubles:
        yield _sighting_finding(evidence, sighting)
    if not went_wrong:
        return
    refusals = () if troubles else tuple(_refusals(evidence))
    yield from refusals
    is_explained = bool(refusals) or any(sighting.trouble.id not in WARNINGS for sighting in troubles)
    error = evidence.attempt.error
    if error is not None and not is_explained and not _was_ended(evidence, error):
        yield _unknown_error(evidence, error)


def _was_ended(evidence: Evidence, error: LogError) -> bool:
    """Whether the load was ended from outside, or died or was interrupted, which check_shape reports."""
    from_outside = evidence.process is not None and evidence.process[0] in ENDED_FROM_OUTSIDE
    return from_outside or error.kind is Kind.DEATH or error.is_interruption


def _sighting_finding(evidence: Evidence, sighting: Sighting) -> Finding:
    trouble = sighting.trouble
    why = f"{trouble.title}: {trouble.cause} (see {', '.join(trouble.references)})"
    return _finding(evidence, why, remedy_for(trouble, sighting.figures), sighting.line, trouble.id)


def _unknown_error(evidence: Evidence, error: LogError) -> Finding:
    why = f"no known trouble; {_reached(stage_of(error))}: {error.text}{_surfaced(evidence.attempt, error)}"
    remedy = "look for these words in the issues of unsloth and vLLM; loadcheck doctor looks at the machine"
    return _finding(evidence, why, remedy, error.line, UNKNOWN)


def _reached(stage: str) -> str:
    if stage == UNKNOWN_STAGE:
        return "the log has no line of a load before its error"
    return f"the load had reached the stage {stage}, and its error is"


def _surfaced(attempt: Attempt, error: LogError) -> str:
    """The exception that surfaced in the end, if it is another one than the cause."""
    last = attempt.errors[-1]
    return f"; it surfaced as: {last.text}" if last.kind is Kind.EXCEPTION and last.text != error.text else ""


def _refusals(evidence: Evidence) -> Iterator[Finding]:
    """Each refusal by our own engine, with its remedy."""
    for error in evidence.attempt.errors:
        if (refusal := _OWN.fullmatch(error.text)) is not None:
            yield _finding(evidence, refusal["what"], refusal["remedy"], error.line, REFUSED)


def _lacks_only_engine(evidence: Evidence) -> bool:
    """Whether the log only lacks the lines of vLLM, without which the load was made."""
    return len(evidence.log.attempts) == 1 and not evidence.attempt.errors and is_without_engine(evidence)


def _went_wrong(log: ParsedLog) -> bool:
    """Whether there is a trouble to look for. A retry and a cut length are troubles too, though the load goes on."""
    whole = all(attempt.outcome is Outcome.COMPLETED for attempt in log.attempts)
    return not whole or len(log.attempts) > 1 or log.last.reading("cut_length") is not None


def _finding(evidence: Evidence, why: str, remedy: str, line: int, trouble_id: str) -> Finding:
    return Finding(figure="error", check=Check.SHAPE, status=Status.FAIL, trouble=trouble_id, why=why, remedy=remedy,
                   where=evidence.where(line))  # fmt: skip


def sightings(log: ParsedLog, whole_load: bool = False) -> tuple[Sighting, ...]:
    """Every known trouble that the log shows, in the order of its lines, except those that a more specific one hides.

    Args:
        whole_load: look only for troubles that a load which went well may have.
    """
    candidates = [trouble for trouble in load_troubles() if trouble.whole_load or not whole_load]
    found = _search(candidates, read_blocks(log.path), log)
    if not found and not whole_load:
        found = _search(candidates, _joined_errors(log), log)
    hidden = {trouble_id for sighting in found for trouble_id in sighting.trouble.hides}
    shown = [sighting for sighting in found if sighting.trouble.id not in hidden]
    return tuple(sorted(shown, key=lambda sighting: sighting.line))


def _search(troubles: Sequence[Trouble], texts: Iterable[tuple[int, str]], log: ParsedLog) -> list[Sighting]:
    """Where each trouble is seen first in these texts, each of which comes with the number of its first line."""
    sightings: dict[str, Sighting] = {}
    for first_line, text in texts:
        for trouble in troubles:
            if trouble.id not in sightings and (sighting := _first(trouble, text, first_line, log)) is not None:
                sightings[trouble.id] = sighting
    return list(sightings.values())


def _joined_errors(log: ParsedLog) -> Iterator[tuple[int, str]]:
    """(line, text) of each error joined with the lines that may be its wrapped rest: without a blank, then with one."""
    errors = [error.line for attempt in log.attempts for error in attempt.errors][:MAX_MATCHES]
    for first_line, block in read_blocks(log.path) if errors else ():
        lines = [clean_line(line) for line in block.split("\n")]
        for at in (number - first_line for number in errors):
            if 0 <= at < len(lines):
                rest = takewhile(
                    lambda line: line.strip() and not is_head(log.dialect, line), lines[at + 1 : at + MAX_PIECES]
                )
                pieces = [lines[at], *rest]
                yield first_line + at, "".join(pieces)
                yield first_line + at, " ".join(map(str.strip, pieces))


_NO_ERROR = re.compile(r"\b(?:DEBUG|INFO|WARNING)\b")
_QUOTE = "`"
_HINT = "Search for `"
"""torch's hint below an error, which repeats CUDA's name of it (c10/cuda/CUDAException.cpp)."""


def _is_quoted(before: str) -> bool:
    """Whether text after `before`, the beginning of its line, is only quoted by a record that is not an error, such as vLLM's warning of a low limit
    of open files: "This can cause fd limit errors like`OSError: [Errno 24] Too many open files`" (vllm/utils.py:2081-2086).
    """
    return before.endswith(_HINT) or (before.count(_QUOTE) % 2 == 1 and _NO_ERROR.search(before) is not None)


def _first(trouble: Trouble, block: str, first_line: int, log: ParsedLog) -> Sighting | None:
    """Where a block of the log first shows a trouble; None if it does not."""
    for anchor, pattern in trouble.phrases():
        if anchor not in block:
            continue
        for match in islice(pattern.finditer(block), MAX_MATCHES):
            line_start = block.rfind("\n", 0, match.start()) + 1
            before = block[line_start : match.start()]
            if EVENT_ANCHOR in before or _is_quoted(before):
                continue  # an event of ours, which may quote anything, or a warning of what may happen
            line = first_line + block.count("\n", 0, match.start())
            figures = figures_of(trouble, {name: text for name, text in match.groupdict().items() if text is not None})
            if figures is not None and (not trouble.stages or stage_at(log, line) in trouble.stages):
                return Sighting(trouble, line, figures)
    return None
