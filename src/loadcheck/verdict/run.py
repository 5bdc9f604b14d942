"""What only a run of ours can show: the model answered, the adapters trained, and the process ended by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loadcheck.verdict.evidence import Evidence
from loadcheck.verdict.finding import Check, Finding, Status


def check_run(evidence: Evidence) -> Iterator[Finding]:
    """The end of the process, the answer and the training steps, where the run is ours."""
    if evidence.process is not None:
        yield process_finding(*evidence.process)
        yield from _unsaid(evidence)
    if not evidence.attempt.events:
        return
    if (answer := evidence.attempt.event("answer")) is not None:
        yield _answer(answer)
    if (trained := evidence.attempt.event("trained")) is not None:
        yield from _training(trained, num_steps=sum(event["event"] == "step" for event in evidence.attempt.events))
    # The first logs that have this event (tests/runs/h200) compare no weights: what they do not say is not judged.
    if (saved := evidence.attempt.event("saved_adapter")) is not None and "same_weights" in saved:
        yield _flag("saved adapter", _is_same(saved), "the saved adapters are those in memory, and begin to answer alike",
                    "what was written is not what was trained; look for a full disk")  # fmt: skip


def _unsaid(evidence: Evidence) -> Iterator[Finding]:
    """A library that ends the process with exit code 0 has it end well, whatever was still to be done."""
    assert evidence.process is not None
    outcome, _ = evidence.process
    profile = evidence.profile
    if outcome != "completed" or profile is None:
        return
    for event in ("answer", "trained") if profile.training.steps else ("answer",):
        if evidence.attempt.event(event) is None:
            why = f"the process ended by itself, but the engine's event `{event}` is not in the log"
            yield Finding(figure=event, check=Check.RUN, status=Status.FAIL, why=why,
                          remedy="see the end of load.log for what ended it", where=evidence.where(None), missing=True)  # fmt: skip


_PROCESS_REMEDY = {"interrupted": "load it again"}


def process_finding(outcome: str, reason: str) -> Finding:
    """A process that did not end by itself, or not well, fails the run, whatever its log says."""
    ok = outcome == "completed"
    why = "the process ended by itself" if ok else reason or f"the run is {outcome}: its parent did not see the end"
    return Finding(figure="process", check=Check.RUN, status=Status.OK if ok else Status.FAIL, measured=outcome, why=why,
                   remedy="" if ok else _PROCESS_REMEDY.get(outcome, "see the end of load.log in the run folder"))  # fmt: skip


_ANSWER_REMEDY = (
    "the weights or the quantization are broken (check them with a second load), or the prompt has another answer "
    "(say which with --expect, generation.expect)"
)


def _answer(event: dict[str, Any]) -> Finding:
    """At least one token, and the expected word where the weights are real."""
    num_tokens, expected = event.get("num_new_tokens") or 0, event.get("expected")
    ok = num_tokens > 0 and (expected is None or bool(event.get("found")))
    why = f"the answer to {event.get('prompt')!r}" + (f" must name {expected}" if expected else " must have a token")
    return Finding(figure="answer", check=Check.RUN, status=Status.OK if ok else Status.FAIL, predicted=expected,
                   measured=str(event.get("text", "")).strip(), why=why,
                   remedy="" if ok else _ANSWER_REMEDY)  # fmt: skip


def _training(event: dict[str, Any], num_steps: int) -> Iterator[Finding]:
    """The loss falls (after one step alone there is but one loss, a number), the adapters change and the base weights do not."""
    first, last = event.get("first_loss"), event.get("last_loss")
    falls = isinstance(first, float) and isinstance(last, float) and (last < first or num_steps == 1)
    yield _flag("loss", falls, f"the loss goes from {_short(first)} to {_short(last)}", "lower the learning rate")
    yield _flag("base weights", event.get("base_unchanged") is True, "training leaves the base weights as they are",
                "the base weights were trained or damaged; load them anew")  # fmt: skip
    yield _flag("adapter weights", event.get("adapter_changed") is True, "training changes the adapters",
                "the adapters got no gradient; check target_modules")  # fmt: skip


def _is_same(event: dict[str, Any]) -> bool:
    """To the byte; of the answers the first token, as their ends may differ by the order of a sum (engines/gpu.py)."""
    return event.get("same_weights") is True and (event.get("num_same_tokens") or 0) > 0


def _short(loss: object) -> str:
    return f"{loss:.3f}" if isinstance(loss, float) else "no number"


def _flag(figure: str, ok: bool, why: str, remedy: str) -> Finding:
    return Finding(
        figure=figure, check=Check.RUN, status=Status.OK if ok else Status.FAIL, why=why, remedy="" if ok else remedy
    )
