"""Checks what only a run of ours can show: the model answered, the adapters trained, and the process exited by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status, run_failure, run_finding
from loadcheck.logs.attempt import MAX_KEPT
from loadcheck.logs.event import Event, name_of
from loadcheck.logs.events import (
    Answer,
    Answered,
    AnsweredAfterTraining,
    Attached,
    Device,
    Imported,
    Loaded,
    Peak,
    SavedAdapter,
    Slots,
    Stepped,
    Trained,
    WeightsReady,
)
from loadcheck.specs.profile import Profile
from loadcheck.verdict.events import check_events
from loadcheck.verdict.needed import check_needed, later_events


def check_run(evidence: Evidence) -> Iterator[Finding]:
    """The end of the process, the answer and the training steps, where the run is ours."""
    if evidence.process is not None:
        yield process_finding(*evidence.process)
        yield from _missing_events(evidence)
    if not evidence.attempt.events:
        return
    yield from check_events(evidence)
    answers: tuple[type[Answer], ...] = (Answered, AnsweredAfterTraining)
    for kind in answers:
        if (answer := evidence.attempt.last(kind)) is not None:
            yield _answer(evidence, answer)
            yield from _length(evidence, answer)
            yield from _adapters_used(evidence, answer)
    if (attached := evidence.attempt.last(Attached)) is not None:
        yield from check_adapter_bytes(attached)
    if (trained := evidence.attempt.last(Trained)) is not None:
        yield from _training(trained, evidence.attempt.all(Stepped))
    yield from _steps_taken(evidence)
    # In the first logs with this event (tests/runs/h200) the weights were not compared, so it is not judged.
    if (saved := evidence.attempt.last(SavedAdapter)) is not None and saved.same_weights is not None:
        yield run_finding("saved adapter", _is_same(saved), "the saved adapters are those in memory, and begin to answer alike",
                    "what was written is not what was trained; look for a full disk")  # fmt: skip


def _missing_events(evidence: Evidence) -> Iterator[Finding]:
    """Exit code 0 alone does not prove a whole load: a library may exit with it before the work is done."""
    assert evidence.process is not None
    outcome, _ = evidence.process
    profile = evidence.profile
    if outcome != "completed" or profile is None:
        return
    for kind in (*_events_of(profile), *later_events(evidence)):
        if evidence.attempt.last(kind) is None:
            why = f"the process ended by itself, but the engine's event `{name_of(kind)}` is not in the log"
            yield Finding(figure=name_of(kind), check=Check.RUN, status=Status.FAIL, why=why,
                          remedy="see the end of load.log for what ended it", where=evidence.where(None), missing=True)  # fmt: skip
    yield from check_needed(evidence)
    if not profile.has_budget and (reading := evidence.attempt.reading("engine")) is not None:
        yield evidence.finding(reading, Check.RUN, ok=False, why="the run asked for a load without vLLM (fast_inference = false)",
                               remedy="the log is of another load than requested: load it again")  # fmt: skip


def _events_of(profile: Profile) -> Iterator[type[Event]]:
    """The events that every load of this profile prints (stacks/unsloth_vllm/engine.py, stacks/transformers_cpu/engine.py: run)."""
    trains = profile.training.steps > 0
    if not profile.on_cpu:  # verdict/shape.py requires the other events of the CPU's engine
        yield from (WeightsReady, Imported, Device, Loaded, Peak)
        if profile.adapters is not None:
            yield Attached
        if profile.keeps_slots:
            yield Slots
        if trains:
            yield AnsweredAfterTraining
    yield Answered
    if trains:
        yield Trained


def process_finding(outcome: str, reason: str, again: str = "load it again") -> Finding:
    """A process that failed, or did not exit by itself, fails the run, whatever its log says; `again` is the remedy for an interruption."""
    ok = outcome == "completed"
    remedy = again if outcome == "interrupted" else "see the end of load.log in the run folder"
    why = "the process ended by itself" if ok else reason or f"the run is {outcome}: its parent did not see the end"
    return Finding(figure="process", check=Check.RUN, status=Status.OK if ok else Status.FAIL, measured=outcome, why=why,
                   remedy="" if ok else remedy)  # fmt: skip


_ANSWER_REMEDY = (
    "the weights or the quantization are broken (check them with a second load), or the prompt has another answer "
    "(say which with --expect, generation.expect)"
)


def _answer(evidence: Evidence, answer: Answer) -> Finding:
    """At least one token, and the expected word if the weights are real; after training the model may answer otherwise."""
    expected = (answer.expected or _word_asked_for(evidence)) if isinstance(answer, Answered) else None
    text = answer.text or ""
    found = expected is None or (answer.found is True and expected.lower() in text.lower())
    same_prompt = (
        evidence.process is None or evidence.profile is None or answer.prompt == evidence.profile.generation.prompt
    )
    ok = bool(answer.num_new_tokens) and found and same_prompt
    why = f"the answer to {answer.prompt!r}" + (f" must name {expected}" if expected else " must have a token")
    if not same_prompt:
        why += ", and the run asked another question"
    if answer.num_new_tokens is None:
        why += "; its number of tokens is not known"
    return Finding(figure=name_of(type(answer)), check=Check.RUN, status=Status.OK if ok else Status.FAIL,
                   predicted=expected, measured=text.strip(), why=why,
                   remedy="" if ok else _ANSWER_REMEDY)  # fmt: skip


def _length(evidence: Evidence, answer: Answer) -> Iterator[Finding]:
    """A failure if the answer has more tokens than the run asked for, or the prompt has none."""
    if evidence.process is None or evidence.profile is None:
        return
    most, num_tokens = evidence.profile.generation.max_new_tokens, answer.num_new_tokens
    if (num_tokens is not None and num_tokens > most) or answer.num_prompt_tokens == 0:
        yield run_failure(f"{name_of(type(answer))} tokens",
                   f"{num_tokens} tokens to a prompt of {answer.num_prompt_tokens}, where at most {most} were asked for",
                   "the log was edited, or is from another run; load it again")  # fmt: skip


def _word_asked_for(evidence: Evidence) -> str | None:
    """The word that the answer of a run of ours must contain."""
    return None if evidence.process is None or evidence.profile is None else evidence.profile.expected_word


def _adapters_used(evidence: Evidence, answer: Answer) -> Iterator[Finding]:
    """vLLM answers with or without adapters, and reports which it did (stacks/unsloth_vllm/session.py: list_loras)."""
    profile = evidence.profile
    if profile is None or answer.adapter_enabled is None:
        return
    wanted, used = profile.adapters is not None, answer.adapter_enabled
    why = f"adapters were {'' if wanted else 'not '}asked for, and the engine says that they were {'' if used else 'not '}used"
    yield run_finding(
        f"{name_of(type(answer))} adapters",
        used is wanted,
        why,
        "the engine answered with another model than the requested one; load it again",
    )


_BYTES_OF = {"torch.float32": 4, "torch.bfloat16": 2, "torch.float16": 2}


def check_adapter_bytes(attached: Attached) -> Iterator[Finding]:
    """A failure if the adapters' bytes are not exactly those of their parameters in their type."""
    size, trainable = _BYTES_OF.get(attached.adapter_dtype or ""), attached.trainable_params
    if size and trainable is not None and attached.adapter_bytes not in (None, trainable * size):
        yield run_failure("adapter bytes", f"{attached.adapter_bytes} bytes are not those of {trainable} parameters of {attached.adapter_dtype}",
                   "the log was damaged or edited; load it again")  # fmt: skip


def _steps_taken(evidence: Evidence) -> Iterator[Finding]:
    """As many training steps as the run asked for, each once, and the losses that the summary names."""
    if evidence.process is None or evidence.profile is None or evidence.process[0] != "completed":
        return
    requested, steps = evidence.profile.training.steps, evidence.attempt.all(Stepped)
    if len(evidence.attempt.events) >= MAX_KEPT:
        return  # the log has more steps than are kept
    numbers = [step.step for step in steps]
    if requested or steps:
        yield run_finding("training steps", numbers == list(range(requested)), f"{requested} training steps were requested, and the log has {len(steps)}",
                    "the training ended early, or lines are missing from the log; load it again")  # fmt: skip
    trained = evidence.attempt.last(Trained)
    if trained is not None and steps:
        losses, named = (steps[0].loss, steps[-1].loss), (trained.first_loss, trained.last_loss)
        has_losses = all(step.loss is not None for step in steps)
        yield run_finding("losses", has_losses and losses == named, "every step has a loss, and the summary of the training names the first and the last step's loss",
                    "the log was damaged or edited; load it again")  # fmt: skip
        if negative := [step for step in steps if step.loss is not None and step.loss < 0]:
            yield run_failure("losses", f"the loss of step {negative[0].step} is {negative[0].loss}, and a cross-entropy is never negative",
                    "the log was damaged or edited; load it again")  # fmt: skip


def _training(trained: Trained, steps: Sequence[Stepped]) -> Iterator[Finding]:
    """The loss falls (a single step has only one, which must be a number), the adapters change and the base weights do not."""
    first, last = trained.first_loss, trained.last_loss
    falls = first is not None and last is not None and (last < first or len(steps) == 1)
    yield run_finding("loss", falls, f"the loss goes from {_short(first)} to {_short(last)}", "lower the learning rate")
    yield run_finding("base weights", trained.base_unchanged, "training leaves the base weights as they are",
                "the base weights were trained or damaged; load them anew")  # fmt: skip
    yield run_finding("adapter weights", trained.adapter_changed, "training changes the adapters",
                "the adapters got no gradient; check target_modules")  # fmt: skip


def _is_same(saved: SavedAdapter) -> bool | None:
    """The weights to the byte; the answers in their first token, as later ones may differ by the order of a sum (stacks/unsloth_vllm/session.py).

    None if the answers were not compared.
    """
    if saved.same_weights and saved.num_same_tokens is None:
        return None
    return saved.same_weights is True and bool(saved.num_same_tokens)


def _short(loss: float | None) -> str:
    return "no number" if loss is None else f"{loss:.3f}"
