"""Endless lines made of the words that reports of an end start with."""

import time
from pathlib import Path

import pytest

from loadcheck.stacks import parse_log


@pytest.mark.parametrize("piece", ["a", "a:1: b", "x1:", "prompt: ", "fish: ", "CUDA error (", "\x1bP", "what():  "])
def test_a_line_of_a_million_characters_is_read_in_seconds(piece: str, t4_log: Path, tmp_path: Path):
    """A line of a million repeated such words is read in 0.1 to 1.2 s (2 cores, 2026-11-29)."""
    line = piece * (1_000_000 // len(piece)) + "Assertion ` exit SIG Killed panicked at at line 5 in file out of memory"
    log = tmp_path / "log"
    log.write_text(t4_log.read_text(encoding="utf-8").rstrip("\n") + f"\n{line}\n", encoding="utf-8")
    start_s = time.monotonic()
    parse_log(log)
    assert time.monotonic() - start_s < 20
