"""The report behind every CI form: the verdict in a line, its cause, and one result for each check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from enum import Enum

from loadcheck.comparing import Comparison
from loadcheck.errors import EXIT_MACHINE, Problem
from loadcheck.findings.finding import Finding, Status
from loadcheck.machine import Finding as Checked
from loadcheck.machine import Level
from loadcheck.machine import Report as Examined
from loadcheck.predict import Prediction
from loadcheck.runs.record import RunRecord
from loadcheck.show.compare import amount_of, causes
from loadcheck.show.compare import summary as comparison_summary
from loadcheck.show.verdict import COLUMNS, cause_and_fix, explain, figure_rows, summary
from loadcheck.units import show_bytes
from loadcheck.verdict import Evidence, Verdict
from loadcheck.workloads.peaks import Peaks


class Outcome(Enum):
    """How a result counts in CI. A refused check failed: it is no pass. An error is a check that could not be made: no pass either."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"

    @property
    def is_bad(self) -> bool:
        return self in (Outcome.FAILED, Outcome.ERROR)


_OUTCOMES = {
    Status.OK: Outcome.PASSED,
    Status.FAIL: Outcome.FAILED,
    Status.REFUSED: Outcome.FAILED,
    Status.SKIPPED: Outcome.SKIPPED,
}


@dataclass(frozen=True, slots=True)
class Result:
    """One check. `name` is unique in its `group`, and stable between runs; `kind` is the kind of failure; `file` may be at fault."""

    group: str
    name: str
    outcome: Outcome
    message: str
    kind: str = "fail"
    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report for CI.

    Attributes:
        title: what was judged.
        status: the verdict in a word, such as pass.
        summary: the counts behind it.
        cause, fix: why it is no pass, and the fix; empty for a pass.
        facts: names and values that identify the load.
        table: rows for people, the first is the header; may be empty.
        duration_s: of the load, in seconds.
    """

    title: str
    status: str
    passed: bool
    summary: str
    results: tuple[Result, ...]
    cause: str = ""
    fix: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    table: tuple[Sequence[str], ...] = ()
    started: datetime
    duration_s: float = 0.0


def of_verdict(title: str, evidence: Evidence | None, verdict: Verdict, record: RunRecord | None = None) -> Report:
    """The report of a run or a log: one result for each finding; `evidence` is None if the log states nothing."""
    cause, fix = cause_and_fix(verdict)
    header = (*COLUMNS[:-1], "status")
    return Report(
        title=title,
        status=verdict.status,
        passed=verdict.passed,
        summary=summary(verdict),
        results=tuple(_unique(map(_of_finding, verdict.findings))),
        cause=cause,
        fix=fix,
        facts=tuple(_facts(evidence, record)),
        table=() if evidence is None else (header, *figure_rows(evidence, verdict)),
        started=_started(record),
        duration_s=0.0 if record is None else record.duration_s or 0.0,
    )


def of_prediction(title: str, prediction: Prediction) -> Report:
    """The report of a load that was not started because it would not fit: one result for each obstacle."""
    results = (Result("prediction", each.short or "setting", Outcome.FAILED, f"{each.what}; {each.remedy}") for each in prediction.obstacles)  # fmt: skip
    first = prediction.obstacles[0] if prediction.obstacles else None
    return Report(
        title=title,
        status="refused",
        passed=prediction.fits,
        summary="nothing was loaded, because it would not fit",
        results=tuple(_unique(results)),
        cause=first.what if first else "",
        fix=first.remedy if first else "",
        started=datetime.now(timezone.utc),
    )


def of_peaks(title: str, peaks: Peaks) -> Report:
    """The report of a training that was not started because it would not fit."""
    size_bytes = peaks.host_bytes if peaks.device_bytes is None else peaks.device_bytes
    size = "" if size_bytes is None else f" of {show_bytes(size_bytes)}"
    what = f"the training's predicted peak{size} is more than there is"
    fix = "`loadcheck fit --method` shows what fits"
    return Report(
        title=title,
        status="refused",
        passed=False,
        summary="nothing was trained, because it would not fit",
        results=(Result("prediction", "training", Outcome.FAILED, f"{what}; {fix}"),),
        cause=what,
        fix=fix,
        started=datetime.now(timezone.utc),
    )


def of_machine(found: Examined) -> Report:
    """The report of `doctor`: one result for each check; problems are failures, warnings are not."""
    first = found.problems[0] if found.problems else None
    counts = Counter(each.level for each in found.findings)
    return Report(
        title=f"this machine for {found.profile}",
        status=found.outcome,
        passed=not found.problems,
        summary=", ".join(f"{counts[level]} {level.value}" for level in Level if counts[level]),
        results=tuple(_unique(map(_of_check, found.findings))),
        cause=f"{first.what}: {first.why}" if first else "",
        fix=first.remedy if first else "",
        started=datetime.now(timezone.utc),
    )


def of_errors(title: str, problems: Sequence[Problem], exit_code: int) -> Report:
    """The report of a command that could not judge: one result for each problem of its input, or of this machine."""
    group, kind = ("machine", "cannot") if exit_code == EXIT_MACHINE else ("input", "error")
    results = (
        Result(group, problem.key or problem.where, Outcome.ERROR, str(problem), kind, problem.where)
        for problem in problems
    )
    first = problems[0]
    return Report(
        title=title,
        status=kind,
        passed=False,
        summary=f"nothing was judged; exit code {exit_code}",
        results=tuple(_unique(results)),
        cause=str(first).removesuffix(f"; {first.remedy}"),
        fix=first.remedy,
        started=datetime.now(timezone.utc),
    )


def _of_check(finding: Checked) -> Result:
    outcome = Outcome.FAILED if finding.level is Level.PROBLEM else Outcome.PASSED
    told = "; ".join(filter(None, (finding.what, finding.why, finding.remedy)))
    return Result("machine", finding.check, outcome, told, "cannot" if finding.cannot else finding.level.value)


def of_comparisons(found: Sequence[Comparison]) -> Report:
    """The report of comparisons: one result for each figure that both loads state, and one for how they ended."""
    same = all(each.same for each in found)
    rows = [
        (each.b.name, moved.spec.name, moved.a.show(), moved.b.show(), amount_of(moved.spec, moved.amount))
        for each in found
        for moved in each.moved
    ]
    return Report(
        title=f"compare with {found[0].a.name}",
        status="same" if same else "different",
        passed=same,
        summary="; ".join(comparison_summary(each) for each in found),
        results=tuple(_unique(result for each in found for result in _of_comparison(each))),
        table=(("load", "figure", found[0].a.name, "this load", "difference"), *rows) if rows else (),
        started=datetime.now(timezone.utc),
    )


def _of_comparison(found: Comparison) -> Iterator[Result]:
    group, moved = f"compare.{found.b.name}", {each.spec.attribute: each for each in found.moved}
    ended = Outcome.PASSED if found.ended_alike else Outcome.FAILED
    yield Result(group, "ended", ended, f"A {found.a.ending}, B {found.b.ending}", "ended")
    for attribute, reading in found.a.readings.items():
        spec = reading.spec
        if attribute not in found.b.readings:
            continue
        if attribute not in moved:
            yield Result(group, spec.name, Outcome.PASSED, "did not move")
            continue
        each = moved[attribute]
        told = [f"{spec.name} {each.a.show()}, then {each.b.show()}", *causes(each)]
        yield Result(group, spec.name, Outcome.FAILED, "; ".join(told), "moved" if each.explained else "unexplained")


def _of_finding(finding: Finding) -> Result:
    name = finding.trouble or finding.figure
    return Result(finding.check.value, name, _OUTCOMES[finding.status], explain(finding), finding.status.value)


def _unique(results: Iterable[Result]) -> Iterator[Result]:
    """Number the checks of one figure: CI systems identify results by group and name."""
    seen: Counter[tuple[str, str]] = Counter()
    for each in results:
        key = (each.group, each.name)
        seen[key] += 1
        name = each.name if seen[key] == 1 else f"{each.name} #{seen[key]}"
        yield replace(each, name=name)


def _facts(evidence: Evidence | None, record: RunRecord | None) -> Iterator[tuple[str, str]]:
    if evidence is not None:
        for name in ("model", "gpu_name", "unsloth", "vllm", "torch"):
            reading = evidence.attempt.reading(name)
            if reading is not None:
                yield name, reading.show()
        if evidence.profile is not None:
            yield "profile", evidence.profile.name
    if record is not None:
        yield "run", record.id
        yield "outcome", record.outcome
        yield "loadcheck", record.loadcheck


def _started(record: RunRecord | None) -> datetime:
    """When the run began, in UTC; now if that is unknown."""
    try:
        found = datetime.fromisoformat(record.started_at) if record is not None else datetime.now(timezone.utc)
    except ValueError:
        found = datetime.now(timezone.utc)
    return found.astimezone(timezone.utc)
