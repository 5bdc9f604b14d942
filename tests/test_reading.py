"""How a log is read: pipes, retries, wrapped lines, ranks and today's engine; and JSON output."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadcheck.api import judge
from loadcheck.cli import cli, run
from loadcheck.encoding import json_text
from loadcheck.stacks import parse_log


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _failures(log: Path) -> set[str]:
    return {finding.figure for finding in judge(log).failures()}


@pytest.mark.parametrize("command", ["check", "parse"])
def test_a_pipe_is_read_once_and_judged_as_a_file(
    command: str, t4_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A named pipe gives the same document and exit code as the file, also for a failed load, and does not hang."""
    log = _write(
        tmp_path / "log",
        t4_log.read_text() + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
    )
    named = run([command, str(log), "--json"]), capsys.readouterr().out
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(log.read_text(),), daemon=True)
    writer.start()
    piped = run([command, str(pipe), "--json"]), capsys.readouterr().out
    writer.join(5)
    assert piped == (named[0], named[1].replace("log:", "pipe:"))


def test_an_error_about_a_pipe_names_it(tmp_path: Path):
    """Prose from a pipe: exit code 2, and the given name rather than that of a copy."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("no load\n",), daemon=True)
    writer.start()
    result = CliRunner().invoke(cli, ["parse", str(pipe)])
    writer.join(5)
    assert f"{pipe}: not a load log" in str(result.exception)


def test_json_has_no_nan():
    """NaN and infinity become null, at any depth."""
    text = json_text({"a": [float("nan"), (1.5, float("-inf"))], "b": {"c": float("inf"), "d": "NaN"}})
    assert json.loads(text) == {"a": [None, [1.5, None]], "b": {"c": None, "d": "NaN"}}


PLAN = """\
Unsloth: vLLM loading unsloth/meta-llama-3.1-8b-instruct-bnb-4bit with actual GPU utilization = 4.18%
Unsloth: Using conservativeness = 1.0. Chunked prefill tokens = 512. Num Sequences = 160.
"""
TRY = """\
INFO 02-13 15:54:28 llm_engine.py:234] Initializing a V0 LLM engine (v0.7.2) with config: model='x'
INFO 02-13 15:56:20 worker.py:267] the current vLLM instance can use total_gpu_memory (14.74GiB) x gpu_memory_utilization (0.04) = 0.62GiB
"""


def test_a_retry_has_the_plan_of_its_run(tmp_path: Path):
    """A retry uses the plan's utilization, which is more precise than vLLM's, and its own number of sequences."""
    retry = "Unsloth: Retrying vLLM to process 120 sequences and 512 tokens in tandem.\nError:\nNo available memory\n"
    first, second = parse_log(_write(tmp_path / "log", PLAN + TRY + retry + TRY)).attempts
    assert first.figures.gpu_memory_utilization_pct == second.figures.gpu_memory_utilization_pct == 4.18
    assert (first.figures.max_num_seqs, second.figures.max_num_seqs) == (160, 120)


@pytest.mark.parametrize(
    ("was", "now", "figure"),
    [
        ("takes 11.34 seconds", "takes -11.34 seconds", "profile_s"),
        ("took 54.71 seconds", "took -1.00 seconds", "engine_init_s"),
        ("took 54.71 seconds", "took 40.71 seconds", "engine_init_s"),
    ],
)
def test_times_must_be_plausible(t4_log: Path, tmp_path: Path, was: str, now: str, figure: str):
    """Times must not be negative, and the engine's start must last as long as its parts."""
    assert was in t4_log.read_text()
    assert figure in _failures(_write(tmp_path / "log", t4_log.read_text().replace(was, now)))
    assert _failures(t4_log) == set()


def test_the_captures_seconds_are_rounded(t4_log: Path, tmp_path: Path):
    """41 secs may be 40.5, so a start of 11.34 s and 40.5 s is possible."""
    text = t4_log.read_text()
    assert _failures(_write(tmp_path / "log", text.replace("took 54.71 seconds", "took 51.84 seconds"))) == set()
    assert _failures(_write(tmp_path / "log", text.replace("took 54.71 seconds", "took 51.82 seconds"))) == {
        "engine_init_s"
    }


@pytest.mark.parametrize(
    ("was", "now", "figure"),
    [
        ("1353,", "1,353,", "num_gpu_blocks"),
        ("Sequences = 160.", "Sequences = 160,000.", "max_num_seqs"),
        ("in 41 secs", "in 4,100 secs", "graph_capture_s"),
    ],
)
def test_an_added_thousands_separator_is_found(was: str, now: str, figure: str, t4_log: Path, tmp_path: Path):
    """A thousands separator that vLLM 0.7.2 does not print shows that a count was edited."""
    assert was in t4_log.read_text()
    assert figure in _failures(_write(tmp_path / "log", t4_log.read_text().replace(was, now)))


@pytest.mark.parametrize(
    "text", ['{"event": 1} Killed', "{broken} Segmentation fault (core dumped)", '{"event": "x"} Killed']
)
def test_text_after_an_event_is_read(text: str, t4_log: Path, tmp_path: Path):
    """Text after an event is read, whether it is our event or only looks like one."""
    log = _write(tmp_path / "log", f"{t4_log.read_text()}\nloadcheck: {text}\n")
    assert "error" in _failures(log)
