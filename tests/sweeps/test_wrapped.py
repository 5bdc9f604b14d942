"""Logs wrapped by a page and logs in a collector's JSON are read as the program printed them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from loadcheck.api import judge
from loadcheck.checking import gather
from loadcheck.logs.payloads import unwrap
from loadcheck.stacks import parse_log
from loadcheck.verdict.diagnosis import sightings
from tests.conftest import RUNS, thinned
from tests.test_tampered import DIGITS, T4_TEXT

LOGS = [RUNS / "t4_llama31-8b_reference.txt", RUNS / "h100_llama31-8b_synthetic.txt"]
WIDTHS = thinned(range(60, 121))


def _at_the_column(line: str, width: int) -> list[str]:
    return [line[at : at + width] for at in range(0, len(line), width)] or [""]


def _and_stripped(line: str, width: int) -> list[str]:
    return [piece.rstrip() for piece in _at_the_column(line, width)]


def _at_blanks(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width) or [""]


Breaks = Callable[[str, int], list[str]]
WAYS: list[Breaks] = [_at_the_column, _and_stripped, _at_blanks]


def _broken(text: str, width: int, breaks: Breaks) -> str:
    return "\n".join(piece for line in text.split("\n") for piece in breaks(line, width))


@pytest.mark.parametrize("breaks", WAYS)
@pytest.mark.parametrize("source", LOGS, ids=["t4", "h100"])
def test_a_wrapped_log_has_the_same_attempts(source: Path, breaks: Breaks, tmp_path: Path):
    """Wrapped at any width, at the column or at spaces, a log has the same attempts, figures and lines."""
    wanted, text, log = parse_log(source), source.read_text(), tmp_path / "log"
    for width in WIDTHS:
        log.write_text(_broken(text, width, breaks))
        read = parse_log(log)
        for one, other in zip(read.attempts, wanted.attempts, strict=True):
            assert (width, one.figures, one.outcome) == (width, other.figures, other.outcome)
            assert set(one.formats) == set(other.formats)


@pytest.mark.parametrize("breaks", WAYS)
@pytest.mark.parametrize("width", [60, 101])
@pytest.mark.parametrize("source", LOGS, ids=["t4", "h100"])
def test_a_wrapped_log_has_the_same_verdict(source: Path, width: int, breaks: Breaks, tmp_path: Path):
    """A wrapped log passes like the original."""
    log = tmp_path / "log"
    log.write_text(_broken(source.read_text(), width, breaks))
    assert judge(log).status == judge(source).status == "pass"


@pytest.mark.parametrize("breaks", [_at_the_column, _at_blanks])
def test_a_changed_digit_in_a_wrapped_log_fails(breaks: Breaks, tmp_path: Path):
    """With any digit of a figure changed, at some width, the verdict is fail and names the figure."""
    log = tmp_path / "log"
    for number, (at, names) in enumerate(thinned(list(DIGITS.items()))):
        text = T4_TEXT[:at] + str((int(T4_TEXT[at]) + 1) % 10) + T4_TEXT[at + 1 :]
        log.write_text(_broken(text, 60 + number % 61, breaks))
        assert {finding.figure for finding in judge(log).failures()} & names


def test_a_wrapped_number_is_read_whole(tmp_path: Path):
    """`1024` wrapped after `10` is read as 1024, not 10."""
    line = next(line for line in T4_TEXT.split("\n") if "# CPU blocks" in line)
    width = line.index("1024") + 2
    log = tmp_path / "log"
    log.write_text(_broken(T4_TEXT, width, _at_the_column))
    assert parse_log(log).last.figures.num_cpu_blocks == 1024


def test_a_wrapped_failure_is_found(tmp_path: Path):
    """A failure is found by its words, wherever they are wrapped."""
    words = "ValueError: Free memory on device cuda:0 (10.00/24.00 GiB) on startup is less than desired GPU memory utilization (0.9, 21.60 GiB)."
    log = tmp_path / "log"
    for breaks in (_at_the_column, _at_blanks):
        log.write_text("\n".join(breaks(words, 60)) + "\n")
        assert [each.trouble.id for each in sightings(gather(log).log)] == ["utilization-above-free"]


def _records(key: str, lines: list[str]) -> list[dict[str, str]]:
    return [{"insertId": str(n), key: line + "\n", "severity": "INFO"} for n, line in enumerate(lines)]


@pytest.mark.parametrize("key", ["textPayload", "message", "log", "MESSAGE"])
@pytest.mark.parametrize("layout", ["a line each", "an indented array", "one line", "within", "stamped"])
def test_a_collectors_json_is_read_as_its_messages(key: str, layout: str, tmp_path: Path):
    """A collector's records in any layout give the same figures, formats and verdict."""
    records = _records(key, T4_TEXT.split("\n"))
    texts = {
        "a line each": "\n".join(map(json.dumps, records)),
        "an indented array": json.dumps(records, indent=2),
        "one line": json.dumps(records),
        "within": json.dumps([{"jsonPayload": record} for record in records], indent=4, ensure_ascii=False),
        "stamped": "\n".join(
            f"2025-02-13T15:54:28+00:00 kube.var.log.pod_x\t{json.dumps(record)}" for record in records
        ),
    }
    log = tmp_path / "log"
    log.write_text(texts[layout])
    assert parse_log(log).last.formats == parse_log(LOGS[0]).last.formats
    assert judge(log).status == "pass"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('    "textPayload": "model=\'x\', {\\"level\\":0}",', "model='x', {\"level\":0}"),
        ('{"log":"{\\"message\\":\\"Killed\\"}\\n","stream":"stderr"}', "Killed"),
        ('{"MESSAGE":[75,105,108,108,101,100],"PRIORITY":"6"}', "Killed"),
        ('{"events":[{"timestamp":1,"message":"a\\nb"},{"message":"c"}]}', "a\rb\rc"),
        ('{"body": {"stringValue": "Killed"}, "severityText": "INFO"}', "Killed"),
        ('time=2025-02-13T15:54:28Z level=info source=a msg="say \\"x\\""', 'say "x"'),
        ('{"text": "Killed\\n", "record": {"message": "Killed"}}', "Killed"),
        ('app-1  | {"levelname": "INFO", "message": "Killed"}', "Killed"),
        ('loadcheck: {"event": "answer", "message": "Killed"}', 'loadcheck: {"event": "answer", "message": "Killed"}'),
        ('RuntimeError: {"message": "out of memory"}', 'RuntimeError: {"message": "out of memory"}'),
        ('{"choices": [{"index": "a"}]}', '{"choices": [{"index": "a"}]}'),
        ('"message": not JSON', '"message": not JSON'),
    ],
)
def test_the_message_of_a_record(line: str, message: str):
    """A record in any layout is its message; our own events, an exception's text and other JSON are not changed."""
    assert unwrap(line) == message


def test_a_notebook_is_read_as_its_output(tmp_path: Path):
    """In a saved notebook (.ipynb) the log is read from its strings of lines."""
    lines = [line + "\n" for line in T4_TEXT.split("\n")]
    cell = {
        "cell_type": "code",
        "outputs": [{"name": "stdout", "output_type": "stream", "text": lines}],
        "source": ["load()\n"],
    }
    log = tmp_path / "load.ipynb"
    log.write_text(json.dumps({"cells": [cell], "nbformat": 4}, indent=1, ensure_ascii=False))
    assert judge(log).status == "pass"


def test_words_within_json_escapes_are_found(tmp_path: Path):
    """A trouble's words are matched as printed, with quotes and line breaks."""
    words = "Traceback (most recent call last):\n  File \"x.py\", line 1, in f\nValueError: invalid literal for int() with base 10: 'MIG-1'\tx"
    log = tmp_path / "log"
    for record in (
        json.dumps([{"textPayload": words}], indent=2),
        json.dumps({"message": words.replace("'", "\u0027")}),
    ):
        log.write_text(record + "\n")
        assert "visible-devices-uuid" in [each.trouble.id for each in sightings(gather(log).log)]
