"""Rows packed as trl 0.14.0 packs them: one after the other, cut every so many tokens, so that every row of every batch is full.

The same ids as trl/trainer/utils.py:610-660 (ConstantLengthDataset) makes of rows of tokens, tests/integration/test_cpu_train.py holds them
against it: the rows are shuffled, each has an EOS behind it, what fills no last row is left out, and positions and attention run on from
one example to the next. Three things are ours: the order comes from the seed; the labels stay (there every token is one); and a row that ends with
an end of turn gets no second EOS.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import Any

from loadcheck.data.faults import Faults
from loadcheck.stacks.rows import IGNORED, Learned, Tokens, summary


@dataclass(frozen=True, slots=True)
class Packed:
    """Full rows, and what became of the examples that they are made of.

    Attributes:
        num_split_rows: examples that do not lie within one row.
        num_left_out_tokens: that fill no row, or of a row in which nothing is learned.
        num_ended_rows: examples whose end is learned.
        num_unended_rows: whose end is not, by packing: it is left out, or first in its row, where there is nothing to predict it from.
    """

    rows: list[Tokens]
    num_rows: int
    num_split_rows: int
    num_left_out_tokens: int
    num_ended_rows: int
    num_unended_rows: int

    def counts(self) -> dict[str, int]:
        """What `summary` does not count of packed rows, or counts otherwise."""
        names = ("num_rows", "num_split_rows", "num_left_out_tokens", "num_ended_rows", "num_unended_rows")
        return {"num_packed_rows": len(self.rows)} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class TokenRows:
    """What a training is made of: the data's rows, and those that they are packed into, where they are."""

    examples: list[Tokens]
    learned: Learned
    packed: Packed | None = None

    @property
    def trained(self) -> list[Tokens]:
        """The rows that the trainer gets."""
        return self.examples if self.packed is None else self.packed.rows

    def summary(self) -> dict[str, Any]:
        """What a run says of them (rows.py: summary)."""
        return summary(self.trained, self.learned) | ({} if self.packed is None else self.packed.counts())


def pack(examples: Sequence[Tokens], length: int, eos_id: int | None, seed: int) -> Packed:
    """Rows of `length` tokens, in the order that the seed says; rows in which nothing is learned are left out.

    Args:
        eos_id: what is put behind an example that does not end with an end of its own; None where the tokenizer has none.
    """
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)  # the order of trl's random.shuffle after random.seed(seed)
    ended = [_ended(row, eos_id) for row in shuffled]
    starts = [0, *accumulate(len(row.input_ids) for row in ended)]
    ends = [start + _end(row) for start, row in zip(starts, ended, strict=False)]
    endings = {at for at, row in zip(ends, ended, strict=True) if row.ends}
    rows = [row for row in _cut(ended, starts, endings, length) if row.num_labels]
    num_kept = starts[-1] // length * length
    learned = [at < num_kept and at % length != 0 for at in ends]
    return Packed(
        rows=rows,
        num_rows=len(ended),
        num_split_rows=sum(a // length != (b - 1) // length for a, b in pairwise(starts)),
        num_left_out_tokens=starts[-1] - length * len(rows),
        num_ended_rows=sum(row.ends and each for row, each in zip(ended, learned, strict=True)),
        num_unended_rows=learned.count(False),
    )


def _ended(row: Tokens, eos_id: int | None) -> Tokens:
    """The row with an EOS that is learned, where its last label ends no answer."""
    if row.ends or eos_id is None:
        return row
    return replace(row, input_ids=[*row.input_ids, eos_id], labels=[*row.labels, eos_id], ends=True)


def _end(row: Tokens) -> int:
    """Where its last label is."""
    return max(at for at, label in enumerate(row.labels) if label != IGNORED)


def _cut(ended: Sequence[Tokens], starts: Sequence[int], endings: set[int], length: int) -> list[Tokens]:
    """All rows that are full. Of each the first token is no label: nothing comes before it, and losses are means over all labels."""
    ids = list(chain.from_iterable(row.input_ids for row in ended))
    labels = list(chain.from_iterable(row.labels for row in ended))
    rows = []
    for begin in range(0, len(ids) - length + 1, length):
        inside = [IGNORED, *labels[begin + 1 : begin + length]]
        last = max((at for at, label in enumerate(inside) if label != IGNORED), default=0)
        line = ended[bisect_right(starts, begin) - 1].line
        rows.append(Tokens(line, ids[begin : begin + length], inside, begin + last in endings))
    return rows


def refuse_few(packed: Packed, length: int, num_step_rows: int, faults: Faults) -> None:
    """A fault where not even one step is full: the training would hold less than is predicted, or nothing at all (trl fails then)."""
    if len(packed.rows) < num_step_rows:
        what = f"fills {len(packed.rows)} rows of {length} tokens, fewer than the {num_step_rows} of one step"
        remedy = "lower --train-seq-length, --per-device-train-batch-size or --gradient-accumulation-steps, or leave out --packing"
        faults.add(None, what, remedy)
