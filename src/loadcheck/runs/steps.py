"""Reads and writes steps.jsonl of a training's run folder: each optimizer step with its loss and its memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from loadcheck.errors import BadInput, Problem
from loadcheck.runs.json_file import own_file
from loadcheck.runs.private import open_private

MAX_FILE_BYTES = 1 << 30
NumBytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimizer step.

    Attributes:
        step: counted from 1.
        loss: over all its batches; None if not finite.
        num_tokens: padding included; None if not counted (GRPO).
        longest_tokens: of its longest row, to which the others of its batch are padded.
        peak_allocated_bytes: torch's peak during the step; None on a CPU.
        device_used_bytes: in use on the card at torch's peak of the step, what is not torch's by the driver; None on a CPU.
        host_bytes: the process's resident memory at the end of the step.
        reward: GRPO's mean over its completions; None in SFT.
    """

    step: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    loss: Number | None
    learning_rate: Number
    step_s: Annotated[float, Meta(ge=0, le=1e9)]
    num_tokens: NumBytes | None = None
    longest_tokens: NumBytes | None = None
    peak_allocated_bytes: NumBytes | None = None
    reserved_bytes: NumBytes | None = None
    device_used_bytes: NumBytes | None = None
    host_bytes: NumBytes | None = None
    reward: Number | None = None


class StepWriter:
    """Appends steps as they are taken; `sync` flushes them to disk."""

    def __init__(self, path: Path, earlier: Sequence[Step] = ()) -> None:
        self._file = open_private(path, "x", encoding="ascii")
        for step in earlier:
            self.write(step)

    def write(self, step: Step) -> None:
        self._file.write(msgspec.json.encode(step).decode("ascii") + "\n")
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())


def read_steps(path: Path) -> list[Step]:
    """The steps of a run, empty without the file; BadInput for an invalid line. A truncated last line is skipped."""
    try:
        with own_file(path).open("rb") as file:
            lines = file.read(MAX_FILE_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    return list(_read(path, lines[:-1]))


def _read(path: Path, lines: list[bytes]) -> Iterator[Step]:
    for number, line in enumerate(lines, 1):
        try:
            yield msgspec.json.decode(line, type=Step)
        except (msgspec.DecodeError, RecursionError) as error:
            what = f"not a step of a training ({error})"
            raise BadInput(Problem(f"{path}:{number}", what, "give the folder of another run")) from None
