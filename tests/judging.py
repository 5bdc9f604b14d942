"""Shortcuts that judge a log or a training, and that read a command's error."""

from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.training import judge_training_folder
from loadcheck.verdict import Verdict, judge


def judge_text(folder: Path, text: str) -> Verdict:
    """The verdict on a log with this text, which is written into the folder."""
    log = folder / "load.log"
    log.write_text(text, encoding="utf-8")
    return judge(gather(log))


def failed_training_figures(folder: Path) -> set[str]:
    """The figures of a training's folder that fail."""
    return {finding.figure for finding in judge_training_folder(folder).verdict.failures()}


def only_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of Error on stderr."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert len(lines) == 1
    return lines[0]
