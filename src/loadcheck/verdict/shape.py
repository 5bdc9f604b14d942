"""Checks the shape of a log: one attempt, every required line exactly once, and a load that finished."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.figures import figure_specs
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Place, Status
from loadcheck.logs import Attempt, Kind, LogError, Outcome
from loadcheck.logs.event import Event, name_of
from loadcheck.logs.events import Started
from loadcheck.logs.formats import RUN_STAGES, LineFormat, Stage


def check_shape(evidence: Evidence) -> Iterator[Finding]:
    """One attempt, no error, finished, and no required line missing or duplicated."""
    yield from _attempts(evidence)
    yield from _outcome(evidence)
    yield from _cores(evidence)
    yield from _doubled(evidence)
    yield from _one_card(evidence)
    if evidence.is_parallel:
        yield Finding(figure="tensor_parallel", check=Check.SHAPE, status=Status.SKIPPED,
                      why="tensor parallel is not modelled: the lines of one rank are only checked against each other")  # fmt: skip
    if evidence.attempt.outcome is not Outcome.COMPLETED and (is_without_engine(evidence) or _why_not_judged(evidence)):
        return
    events = evidence.stack.required_events(evidence.profile)
    yield from _missing_events(evidence, events) if events else _missing_lines(evidence)


def _one_card(evidence: Evidence) -> Iterator[Finding]:
    """unsloth and every run of ours load on one card.

    unsloth passes no tensor_parallel_size to vLLM (vllm_utils.py:955-1005), whose default is 1.
    """
    size = evidence.attempt.reading("tensor_parallel_size")
    if size is not None and str(size.value) != "1" and evidence.attempt.reading("unsloth") is not None:
        yield _fail("tensor_parallel_size", f"unsloth loads on one card, and this engine is spread over {size.show()}",
                    "give the raw output of one load", evidence.where(size.line))  # fmt: skip
    elif evidence.is_parallel and evidence.process is not None:
        ranks = f"lines of other ranks ({', '.join(sorted(evidence.attempt.other_ranks))})"
        yield _fail("tensor_parallel", f"this run is on one card, and its log has {ranks if evidence.attempt.other_ranks else 'several'}",
                    "the log was edited, or is of another load: load it again", evidence.where(None))  # fmt: skip


def _attempts(evidence: Evidence) -> Iterator[Finding]:
    attempts = evidence.log.attempts
    if len(attempts) > 1:
        errors = [attempt.error.text for attempt in attempts[:-1] if attempt.error is not None]
        yield _fail(
            "attempts",
            f"this log holds {len(attempts)} attempts at a load"
            + (f"; the one before failed: {errors[-1]}" if errors else ""),
            "give the log of one load; after a retry, lower the settings so that the first try fits",
            evidence.where(min(attempts[-1].first_lines.values(), default=None)),
        )
    if (cut := evidence.attempt.reading("cut_length")) is not None:
        yield _fail(
            "max_model_len",
            f"unsloth cut max_seq_length, as it expects no room for {cut.show()} tokens (the number it prints is the old one)",
            "raise gpu_memory_utilization, or lower max_seq_length or max_lora_rank",
            evidence.where(cut.line),
        )


def is_without_engine(evidence: Evidence) -> bool:
    """Whether a log from elsewhere reaches adapters or training without any line of vLLM, as unsloth loads without fast_inference."""
    attempt = evidence.attempt
    seen = {evidence.log.dialect.by_name[name].stage for name, times in attempt.formats.items() if times}
    later = attempt.stage in (Stage.ADAPTERS, Stage.TRAINING)
    return later and not evidence.strict_stack and seen.isdisjoint(range(Stage.PLAN, Stage.READY + 1))


def _why_not_judged(evidence: Evidence) -> str:
    """Why a log from elsewhere, which came as far as its last lines of a start, does not show whether that finished; empty if it does."""
    came_far = evidence.attempt.stage >= Stage.BLOCKS
    return evidence.stack.why_not_judged(evidence.attempt) if came_far and not evidence.strict_stack else ""


def check_errors(evidence: Evidence) -> Iterator[Finding]:
    """What ended the load, by its log; nothing if the log has no error."""
    attempt = evidence.attempt
    if attempt.outcome is Outcome.FAILED and (error := attempt.error) is not None:
        yield _fail("error", _ended(attempt, error), _ending_fix(attempt), evidence.where(error.line))


def _outcome(evidence: Evidence) -> Iterator[Finding]:
    yield from check_errors(evidence)
    attempt = evidence.attempt
    if attempt.outcome is Outcome.PARTIAL and is_without_engine(evidence):
        yield Finding(
            figure="outcome",
            check=Check.SHAPE,
            status=Status.REFUSED,
            why=f"the log came to its stage {_last_stage(attempt)} with no line of vLLM: unsloth loads so without fast_inference, and "
            "prints no figures that could be judged",
            remedy="load with fast_inference = True, or with loadcheck load, which measures a load without it, too",
            where=evidence.where(None),
        )
    elif attempt.outcome is Outcome.PARTIAL and (why := _why_not_judged(evidence)):
        yield Finding(
            figure="outcome",
            check=Check.SHAPE,
            status=Status.REFUSED,
            why=why,
            remedy="load with a newer vLLM, or with loadcheck load",
            where=evidence.where(None),
        )
    elif attempt.outcome is Outcome.PARTIAL:
        yield _fail(
            "outcome",
            f"the load was not finished: its last known stage is {_last_stage(attempt)}, and figures alone are no pass",
            "let the load run to its end",
            evidence.where(None),
        )  # fmt: skip


def _cores(evidence: Evidence) -> Iterator[Finding]:
    """With data parallelism the start of one engine core does not stand for that of another, which may have died without a word."""
    if unready := evidence.attempt.unready_cores:
        why = f"the log does not show the end of the start of engine core {', '.join(unready)}, and another core's start does not stand for it"
        yield _fail("outcome", why, "see why that core did not start; or give the server's whole output, from its arguments on",
                    evidence.where(None))  # fmt: skip


def _ended(attempt: Attempt, error: LogError) -> str:
    """What ended a load: its cause, and the error or signal that it surfaced as."""
    last = attempt.errors[-1]
    death = attempt.death
    if error.is_interruption:
        return f"the load was interrupted ({error.text}): by Ctrl-C, or by a signal from whoever ran it"
    if error.kind is Kind.DEATH:
        return f"the process died: {error.text}" + (f" ({_signal_words(error.signal)})" if error.signal else "")
    if death is not None and death.signal is not None:
        return f"the load ended with an error: {error.text}; then the process was {_signal_words(death.signal)}"
    surfaced = f"; it surfaced as: {last.text}" if last.kind is not Kind.HEAD and last.text != error.text else ""
    return f"the load ended with an error: {error.text}{surfaced}"


_NATIVE_SIGNALS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE")


def _signal_words(name: str) -> str:
    if name == "SIGKILL":
        return "ended by SIGKILL, most likely by the kernel for lack of host memory"
    return f"ended by {name}" + (": native code crashed" if name in _NATIVE_SIGNALS else "")


def _ending_fix(attempt: Attempt) -> str:
    if attempt.death is not None and attempt.death.signal == "SIGKILL":
        return "give the container or the job more memory, and look into dmesg for `Out of memory`"
    if attempt.error is not None and attempt.error.is_interruption:
        return "let the load run to its end; where nobody interrupted it, look for a time limit of the job or a health check"
    return "see the log around that line"


def _last_stage(attempt: Attempt) -> str:
    """The last stage in the log; on the CPU, where only our own engine reports its progress, the last event."""
    return attempt.events[-1].name if attempt.last(Started) else attempt.stage.name.lower()


def _doubled(evidence: Evidence) -> Iterator[Finding]:
    repeated = evidence.stack.repeated_lines(evidence.attempt)
    for name, times in evidence.attempt.formats.items():
        if times > 1 and name not in repeated:
            yield _fail(
                name,
                f"the line `{name}` is in the log {times} times in one attempt",
                "give the log of one load by one process",
                evidence.where(evidence.attempt.first_lines[name]),
            )


def _missing_lines(evidence: Evidence) -> Iterator[Finding]:
    required = _required_lines(evidence)
    missing = [name for name in required if not _is_seen(evidence, name)]
    named: set[str] = set()
    for name in missing:
        format = evidence.log.dialect.by_name[name]
        lost = _figures_only_of(evidence.attempt, format)
        figure = next((other for other in lost if other not in named), name)
        named.add(figure)
        scope = "the log" if format.stage in RUN_STAGES else "the last attempt"
        why = f"the line `{name}` ({format.source}) is not in {scope}"
        if lost:
            why += f", so it does not say {', '.join(lost)}"
        remedy = "keep the whole output of the load, stdout and stderr"
        yield _fail(figure, why, remedy, evidence.where(None), missing=True)
    if required and not missing:
        yield Finding(figure="lines", check=Check.SHAPE, status=Status.OK, measured=len(required),
                      why="every required line is there exactly once")  # fmt: skip


def _required_lines(evidence: Evidence) -> list[str]:
    """The lines that the log must have; of a load that did not complete, those up to the stage that it reached."""
    attempt, profile = evidence.attempt, evidence.profile
    required = [*evidence.stack.required_lines(attempt, profile)]
    if profile is not None and profile.adapters is not None:
        required.append("patched")
    if attempt.outcome is Outcome.COMPLETED:
        return required
    return [name for name in required if evidence.log.dialect.by_name[name].stage <= attempt.stage]


def _is_seen(evidence: Evidence, name: str) -> bool:
    """Whether the log has a line, or one that takes its place."""
    return any(evidence.attempt.formats[other] for other in evidence.stack.alternatives.get(name, (name,)))


def _figures_only_of(attempt: Attempt, format: LineFormat) -> list[str]:
    """The figures of a missing line that no other line states."""
    specs = (figure_specs().get(capture.attribute) for capture in format.captures)
    return [spec.name for spec in specs if spec is not None and attempt.reading(spec.attribute) is None]


def _missing_events(evidence: Evidence, needed: tuple[type[Event], ...]) -> Iterator[Finding]:
    missing = [kind for kind in needed if evidence.attempt.last(kind) is None]
    for name in map(name_of, missing):
        yield _fail(
            name,
            f"the engine's event `{name}` is not in the log",
            "let the load run to its end",
            evidence.where(None),
            missing=True,
        )
    if not missing:
        yield Finding(figure="lines", check=Check.SHAPE, status=Status.OK, measured=len(needed),
                      why="every event of the engine is there")  # fmt: skip


def _fail(figure: str, why: str, remedy: str, where: Place, missing: bool = False) -> Finding:
    return Finding(figure=figure, check=Check.SHAPE, status=Status.FAIL, why=why, remedy=remedy, where=where,
                   missing=missing)  # fmt: skip
