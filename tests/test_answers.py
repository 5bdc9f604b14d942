"""A model's answer that is printed among a log's lines and reads like a failure: told by the log's own event, else a failure."""

import json
from pathlib import Path

import pytest

from loadcheck.logs.event_lines import PREFIX
from loadcheck.verdict import causes
from tests.conftest import RUNS
from tests.judging import judge_text

LOG = (RUNS / "h200" / "plain-qwen2.5-7b" / "load.log").read_text(encoding="utf-8")
TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nValueError: bad'


def _answered(text: str, before: str = "", after: str = "", early: str = "", end: str = "") -> str:
    """The log with another answer, and with text around that event, before the model was loaded, and at the end."""
    lines = LOG.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if '"event": "answer"' in line)
    loaded = next(number for number, line in enumerate(lines) if '"event": "loaded"' in line)
    event = json.loads(lines[at].removeprefix(PREFIX)) | {"text": text}
    blocks = (
        early,
        "".join(lines[loaded:at]),
        before,
        f"{PREFIX}{json.dumps(event)}\n",
        after,
        "".join(lines[at + 1 :]),
        end,
    )
    return "".join(lines[:loaded]) + "".join(block if block.endswith("\n") or not block else block + "\n" for block in blocks)  # fmt: skip


def _errors(log: str, folder: Path) -> set[str]:
    return {finding.figure for finding in judge_text(folder, log).failures()}


@pytest.mark.parametrize(
    "text", ["ValueError: bad", "It prints:\nValueError: bad\n\nthen ends.", TRACE, f"See:\n{TRACE}\nDone.", "  ValueError: bad\n"]
)  # fmt: skip
def test_an_answer_that_reads_like_an_exception_is_no_failure(text: str, tmp_path: Path):
    """Where the event of the answer has this text, its lines end no load: before it, after it, at the end, behind other words."""
    assert judge_text(tmp_path, _answered("Paris.")).passed
    for where in ("before", "after", "end"):
        assert _errors(_answered(text, **{where: text.strip("\n")}), tmp_path) == set()
    assert _errors(_answered(text, end=f"answer: it must have a token: {text.strip()}"), tmp_path) == set()


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("Paris.", "ValueError: bad"),
        ("ValueError: bad", "ValueError: bad luck"),
        ("ValueError: bad", "KeyError: 'a'"),
        ("bad", "ValueError: bad"),
        ("It prints:\nValueError: bad\nthen ends.", "ValueError: bad"),
        ("It prints:\nValueError: bad\nthen ends.", "It prints:\nValueError: bad\n"),
        ("It prints:\nValueError: bad\nthen ends.", "It prints:\n\nValueError: bad\nthen ends."),
        ("ValueError: bad", TRACE),
        (TRACE, TRACE.replace("line 1", "line 2")),
        ("Traceback (most recent call last):", TRACE),
        ("ValueError: bad", "ValueError: bad\nKeyError: 'a'"),
        ("Killed", "Killed"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("", "ValueError: bad"),
        ("\n", "ValueError: bad"),
    ],
)
def test_what_is_no_whole_answer_is_a_failure(text: str, end: str, tmp_path: Path):
    """Another exception, a part of the answer, the last line of a real traceback and the report of a death still fail."""
    assert _errors(_answered(text, end=end), tmp_path) == {"error"}


def test_a_tracebacks_own_exception_is_the_cause(tmp_path: Path):
    """A real traceback that ends in the answer's words is blamed with them."""
    (cause,) = causes(judge_text(tmp_path, _answered("ValueError: bad", end=TRACE)))[:1]
    assert "ValueError: bad" in cause.why


def test_a_line_before_the_model_was_loaded_is_no_answer(tmp_path: Path):
    """A model that is not loaded yet answers nothing."""
    assert _errors(_answered("ValueError: bad", early="ValueError: bad"), tmp_path) == {"error"}


def test_without_an_event_a_line_like_an_exception_fails(t4_log: Path, tmp_path: Path):
    """In a log from elsewhere nothing tells an answer from a failure."""
    assert _errors(t4_log.read_text(encoding="utf-8") + "ValueError: bad\n", tmp_path) == {"error"}
