"""Judges the rows of a training: none was cut silently, the labels and the ends of the answers are learned."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.finding import NOT_IN_LOG, Finding, run_finding
from loadcheck.logs.events import (
    Rows,
    TrainData,
)
from loadcheck.runs.steps import Step
from loadcheck.verdict.training.evidence import TrainEvidence

LEARNED_WORDS = {
    "assistant": "the assistant's",
    "text": "of plain texts all are",
    "all": "all, as the template does not tell the assistant's",
}
"""Which tokens are learned, by the event's value (stacks/rows.py: Learned)."""


def check_rows(training: TrainEvidence, rows: Rows) -> Iterator[Finding]:
    """No row was cut silently, there are labels, each answer's end is learned, and the tokens equal those counted before."""
    num_rows, num_cut = rows.num_rows, rows.num_cut_rows
    if num_rows is None or num_cut is None:
        yield run_finding("rows", None, "the number of rows, and of rows that were cut", "")
        return
    packing = training.job.settings.packing
    yield _packed(training, rows) if packing else _cut(training, num_rows, num_cut)
    counted = training.last(TrainData)
    if counted is not None:
        same = all(getattr(rows, name) == getattr(counted, name) for name in _ROW_FIELDS)
        yield run_finding("template", same, "the trainer's tokenizer makes the same tokens and labels as the model's own",
                    "the engine changed the tokenizer or its template: train with the model's own")  # fmt: skip
    if training.job.settings.method == "sft":
        num_unended = rows.num_unended_rows if packing else num_cut
        yield from _labels(rows, None if num_unended is None else num_rows - num_unended)


_ROW_FIELDS = tuple(Rows.__annotations__)
"""The fields of both events, without their time."""


def _cut(training: TrainEvidence, num_rows: int, num_cut: int) -> Finding:
    cut_words = (
        "no row was cut"
        if not num_cut
        else f"{num_cut} of {num_rows} rows were cut to {training.job.limit_tokens} tokens, as asked"
    )
    ok = not num_cut or training.job.truncate
    return run_finding("rows", ok, f"{num_rows} rows: {cut_words}", "raise --max-seq-length, or give --truncate")


def _packed(training: TrainEvidence, rows: Rows) -> Finding:
    """Whether the packed rows are full, in every step; the finding also tells what packing split and left out."""
    length, num_packed, num_tokens = training.job.limit_tokens, rows.num_packed_rows, rows.num_tokens
    odd = [step for step in training.steps if not _is_full(step, length)]
    why = f"{packed_words(rows)}; {len(training.steps) - len(odd)} of {len(training.steps)} steps had full rows alone"
    full = (
        None
        if num_packed is None or num_tokens is None
        else num_packed > 0 and num_tokens == num_packed * length and not odd
    )
    return run_finding("rows", full, why, "the trainer got other rows than those that were packed: train again")


def _is_full(step: Step, length: int) -> bool:
    """Whether all rows of a step had this length; a step whose tokens are not known may have had others."""
    return step.longest_tokens == length and step.num_tokens is not None and step.num_tokens % length == 0


def shown(count: int | None) -> str:
    return f"({NOT_IN_LOG})" if count is None else f"{count:,}"


def packed_words(rows: Rows) -> str:
    """What packing did with the data's rows."""
    counts = (
        rows.num_rows,
        rows.num_packed_rows,
        rows.num_longest_tokens,
        rows.num_split_rows,
        rows.num_left_out_tokens,
        rows.num_unended_rows,
    )
    num, packed, length, split, left_out, unended = map(shown, counts)
    return (
        f"{num} examples packed into {packed} rows of {length} tokens; examples that go on in the next row: {split}; tokens left out, as they "
        f"fill no row: {left_out}; ends not learned: {unended}"
    )


def _labels(rows: Rows, num_whole: int | None) -> Iterator[Finding]:
    """`num_whole` is the number of rows whose end is in them; None if it is not known."""
    num_labels, num_tokens, num_ended = rows.num_label_tokens, rows.num_tokens, rows.num_ended_rows
    whose = LEARNED_WORDS.get(rows.labels or "all", LEARNED_WORDS["all"])
    learned = None if num_labels is None or num_tokens is None else 0 < num_labels <= num_tokens
    yield run_finding("labels", learned, f"{shown(num_labels)} of {shown(num_tokens)} tokens are learned: {whose}",
                "every label is masked: see the roles of the data")  # fmt: skip
    ended = None if num_ended is None or num_whole is None else num_ended >= num_whole
    yield run_finding("end of answers", ended, f"{shown(num_ended)} rows end with a token that ends the answer, and it is learned",
                "the template writes no end of turn: the model would not learn to stop")  # fmt: skip
