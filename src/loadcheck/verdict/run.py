"""What only a run of ours can show: the model answered, the adapters trained, and the process ended by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loadcheck.figures import MAX_NUMBER
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.logs.attempt import MAX_KEPT
from loadcheck.specs.profile import Profile
from loadcheck.verdict.events import check_events


def check_run(evidence: Evidence) -> Iterator[Finding]:
    """The end of the process, the answer and the training steps, where the run is ours."""
    if evidence.process is not None:
        yield process_finding(*evidence.process)
        yield from _unsaid(evidence)
    if not evidence.attempt.events:
        return
    yield from check_events(evidence)
    for name in ("answer", "answer_after_training"):
        if (answer := evidence.attempt.event(name)) is not None:
            yield _answer(evidence, answer)
            yield from _adapters_used(evidence, answer)
    if (trained := evidence.attempt.event("trained")) is not None:
        yield from _training(trained, _steps(evidence))
    yield from _steps_taken(evidence)
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
    for event in _events_of(profile):
        if evidence.attempt.event(event) is None:
            why = f"the process ended by itself, but the engine's event `{event}` is not in the log"
            yield Finding(figure=event, check=Check.RUN, status=Status.FAIL, why=why,
                          remedy="see the end of load.log for what ended it", where=evidence.where(None), missing=True)  # fmt: skip
    if not profile.has_budget and (reading := evidence.attempt.reading("engine")) is not None:
        yield evidence.finding(reading, Check.RUN, False, why="the run asked for a load without vLLM (fast_inference = false)",
                               remedy="another load than the run asked for: load it again")  # fmt: skip


def _events_of(profile: Profile) -> Iterator[str]:
    """What a load of this profile says in any case (stacks/unsloth_vllm/engine.py, stacks/transformers_cpu/engine.py: run)."""
    trains = profile.training.steps > 0
    if not profile.on_cpu:  # of the CPU's, verdict/shape.py asks for the others
        yield from ("weights_ready", "imported", "device", "loaded", "peak")
        if profile.adapters is not None:
            yield "adapters"
        if profile.keeps_slots:
            yield "slots"
        if trains:
            yield "answer_after_training"
    yield "answer"
    if trains:
        yield "trained"


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


def _answer(evidence: Evidence, event: dict[str, Any]) -> Finding:
    """At least one token, and the expected word where the weights are real; after training the model may say something else."""
    expected = event.get("expected") if event["event"] == "answer" else None
    if expected is None and event["event"] == "answer":
        expected = _word_asked_for(evidence)
    text = str(event.get("text", ""))
    found = expected is None or (event.get("found") is True and str(expected).lower() in text.lower())
    asked = (
        evidence.process is None
        or evidence.profile is None
        or event.get("prompt") == evidence.profile.generation.prompt
    )
    ok = _count(event.get("num_new_tokens")) > 0 and found and asked
    why = f"the answer to {event.get('prompt')!r}" + (f" must name {expected}" if expected else " must have a token")
    if not asked:
        why += ", and the run asked another question"
    return Finding(figure=event["event"], check=Check.RUN, status=Status.OK if ok else Status.FAIL,
                   predicted=None if expected is None else str(expected), measured=text.strip(), why=why,
                   remedy="" if ok else _ANSWER_REMEDY)  # fmt: skip


def _word_asked_for(evidence: Evidence) -> str | None:
    """What the answer of a run of ours must hold (stacks/engine_common.py:expected_word): nothing where the weights are random."""
    profile = evidence.profile
    return (
        None
        if evidence.process is None or profile is None or profile.weights == "synthetic"
        else profile.generation.expect
    )


def _adapters_used(evidence: Evidence, event: dict[str, Any]) -> Iterator[Finding]:
    """vLLM answers without adapters as readily as with them, and says which it did (stacks/unsloth_vllm/session.py: list_loras)."""
    profile = evidence.profile
    if profile is None or "adapter_enabled" not in event:
        return
    wanted, used = profile.adapters is not None, event["adapter_enabled"]
    why = f"adapters were {'' if wanted else 'not '}asked for, and the engine says that they were {'' if used is True else 'not '}used"
    yield _flag(
        f"{event['event']} adapters",
        used is wanted,
        why,
        "the engine answered by another model than the run asked for; load it again",
    )


def _steps(evidence: Evidence) -> list[dict[str, Any]]:
    return [event for event in evidence.attempt.events if event["event"] == "step"]


def _steps_taken(evidence: Evidence) -> Iterator[Finding]:
    """As many training steps as the run asked for, each once, and the losses that the summary names."""
    if evidence.process is None or evidence.profile is None or evidence.process[0] != "completed":
        return
    asked, steps = evidence.profile.training.steps, _steps(evidence)
    if len(evidence.attempt.events) >= MAX_KEPT:
        return  # more steps than are kept of a log
    numbers = [_count(step.get("step"), none=-1) for step in steps]
    if asked or steps:
        yield _flag("training steps", numbers == list(range(asked)), f"{asked} training steps were asked for, and the log has {len(steps)}",
                    "the training ended early, or lines are missing from the log; load it again")  # fmt: skip
    trained = evidence.attempt.event("trained")
    if trained is not None and steps:
        losses = (steps[0].get("loss"), steps[-1].get("loss"))
        named = (trained.get("first_loss"), trained.get("last_loss"))
        has_losses = all(isinstance(step.get("loss"), float) for step in steps)
        yield _flag("losses", has_losses and losses == named, "every step has a loss, and the summary of the training names the first and the last step's loss",
                    "the log was damaged or edited; load it again")  # fmt: skip


def _count(value: object, none: int = 0) -> int:
    """A number of tokens or of a step; what is no such number counts as `none`."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_NUMBER else none


def _training(event: dict[str, Any], steps: list[dict[str, Any]]) -> Iterator[Finding]:
    """The loss falls (after one step alone there is but one loss, a number), the adapters change and the base weights do not."""
    first, last = event.get("first_loss"), event.get("last_loss")
    falls = isinstance(first, float) and isinstance(last, float) and (last < first or len(steps) == 1)
    yield _flag("loss", falls, f"the loss goes from {_short(first)} to {_short(last)}", "lower the learning rate")
    yield _flag("base weights", event.get("base_unchanged") is True, "training leaves the base weights as they are",
                "the base weights were trained or damaged; load them anew")  # fmt: skip
    yield _flag("adapter weights", event.get("adapter_changed") is True, "training changes the adapters",
                "the adapters got no gradient; check target_modules")  # fmt: skip


def _is_same(event: dict[str, Any]) -> bool:
    """To the byte; of the answers the first token, as their ends may differ by the order of a sum (stacks/unsloth_vllm/session.py)."""
    return event.get("same_weights") is True and _count(event.get("num_same_tokens")) > 0


def _short(loss: object) -> str:
    return f"{loss:.3f}" if isinstance(loss, float) else "no number"


def _flag(figure: str, ok: bool, why: str, remedy: str) -> Finding:
    return Finding(
        figure=figure, check=Check.RUN, status=Status.OK if ok else Status.FAIL, why=why, remedy="" if ok else remedy
    )
