"""Packs rows like trl 0.14.0: concatenated and cut at a fixed length, so that every row of every batch is full.

The ids are those that trl/trainer/utils.py:610-660 (ConstantLengthDataset) makes; tests/integration/test_cpu_train.py compares the two. Rows
are shuffled, each is followed by an EOS, an incomplete last row is dropped, and positions and attention continue from one example to
the next. Three things differ: the seed determines the order; labels are kept (trl learns every token); and a row that ends with an
end-of-turn token gets no EOS.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import Any

from loadcheck.data.faults import Faults
from loadcheck.stacks.rows import IGNORED, Learned, TokenRow, summary


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Full rows, and what happened to the examples in them.

    Attributes:
        num_split_rows: examples that span more than one row.
        num_left_out_tokens: tokens that did not fill a row, or were in a row without labels.
        num_ended_rows: examples whose end is learned.
        num_unended_rows: examples whose end packing removed: it was dropped, or is first in its row, with nothing to predict it from.
    """

    rows: list[TokenRow]
    num_rows: int
    num_split_rows: int
    num_left_out_tokens: int
    num_ended_rows: int
    num_unended_rows: int

    def counts(self) -> dict[str, int]:
        """What `summary` does not count for packed rows, or counts differently."""
        names = ("num_rows", "num_split_rows", "num_left_out_tokens", "num_ended_rows", "num_unended_rows")
        return {"num_packed_rows": len(self.rows)} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class TokenRows:
    """The rows of a training: the data's own, and the rows that they are packed into, if they are."""

    examples: list[TokenRow]
    learned: Learned
    packed: PackedRows | None = None

    @property
    def trained(self) -> list[TokenRow]:
        """The rows that the trainer receives."""
        return self.examples if self.packed is None else self.packed.rows

    def summary(self) -> dict[str, Any]:
        """What a run records of them (rows.py: summary)."""
        return summary(self.trained, self.learned) | ({} if self.packed is None else self.packed.counts())


def pack(examples: Sequence[TokenRow], length: int, eos_id: int | None, seed: int) -> PackedRows:
    """Rows of `length` tokens, in an order given by the seed; rows without labels are dropped.

    Args:
        eos_id: appended to an example that has no end of its own; None where the tokenizer has none.
    """
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)  # the order of trl's random.shuffle after random.seed(seed)
    ended = [_ended(row, eos_id) for row in shuffled]
    starts = [0, *accumulate(len(row.input_ids) for row in ended)]
    ends = [start + _end(row) for start, row in zip(starts, ended, strict=False)]
    endings = {at for at, row in zip(ends, ended, strict=True) if row.ends_answer}
    rows = [row for row in _cut(ended, starts, endings, length) if row.num_labels]
    num_kept = starts[-1] // length * length
    learned = [at < num_kept and at % length != 0 for at in ends]
    return PackedRows(
        rows=rows,
        num_rows=len(ended),
        num_split_rows=sum(a // length != (b - 1) // length for a, b in pairwise(starts)),
        num_left_out_tokens=starts[-1] - length * len(rows),
        num_ended_rows=sum(row.ends_answer and is_learned for row, is_learned in zip(ended, learned, strict=True)),
        num_unended_rows=learned.count(False),
    )


def _ended(row: TokenRow, eos_id: int | None) -> TokenRow:
    """The row, with an EOS as its last label where it does not end an answer yet."""
    if row.ends_answer or eos_id is None:
        return row
    return replace(row, input_ids=[*row.input_ids, eos_id], labels=[*row.labels, eos_id], ends_answer=True)


def _end(row: TokenRow) -> int:
    """The position of its last label."""
    return max(at for at, label in enumerate(row.labels) if label != IGNORED)


def _cut(ended: Sequence[TokenRow], starts: Sequence[int], endings: set[int], length: int) -> list[TokenRow]:
    """All full rows. Each row's first token is no label, since nothing precedes it; losses are averaged over labels."""
    ids = list(chain.from_iterable(row.input_ids for row in ended))
    labels = list(chain.from_iterable(row.labels for row in ended))
    rows = []
    for begin in range(0, len(ids) - length + 1, length):
        inside = [IGNORED, *labels[begin + 1 : begin + length]]
        last = max((at for at, label in enumerate(inside) if label != IGNORED), default=0)
        line = ended[bisect_right(starts, begin) - 1].line
        rows.append(TokenRow(line, ids[begin : begin + length], inside, begin + last in endings))
    return rows


def check_enough_rows(packed: PackedRows, length: int, num_step_rows: int, faults: Faults) -> None:
    """A fault where the rows do not fill one step: the training would use less memory than predicted, or trl would fail without any row."""
    if len(packed.rows) < num_step_rows:
        what = f"fills {len(packed.rows)} rows of {length} tokens, fewer than the {num_step_rows} of one step"
        remedy = "lower --train-seq-length, --per-device-train-batch-size or --gradient-accumulation-steps, or leave out --packing"
        faults.add(None, what, remedy)
