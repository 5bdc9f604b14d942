"""A log is judged the same however it was delivered: as a page, in a collector's export, compressed, or joined to one line."""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.logs import text as reading
from loadcheck.logs.endings import MAX_FRAME_CHARS
from loadcheck.stacks import parse_log
from loadcheck.verdict import Verdict, judge
from tests.conftest import RUNS, thinned
from tests.judging import judge_text
from tests.v1_logs import Start
from tests.v1_logs import text as v1_text

H100 = (RUNS / "h100_llama31-8b_synthetic.txt").read_text()
V1 = v1_text(Start(release="0.33.0"))
OWN_RUN = (RUNS / "h200" / "smollm2-rank8" / "load.log").read_text()
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def _nbconvert(text: str) -> str:
    colored = re.sub(r"(INFO|WARNING)\b", r'<span class="ansi-green-fg">\1</span>', html.escape(text))
    return f"<html><body><pre>\n{colored}</pre></body></html>\n"


def _with_breaks(text: str) -> str:
    return html.escape(text).replace("\n", "<br>\n")


def _loki(text: str) -> str:
    values = [[str(1_700_000_000_000_000_000 + number), line] for number, line in enumerate(_lines(text))]
    return json.dumps({"status": "success", "data": {"result": [{"stream": {"pod": "a"}, "values": values}]}})


def _asciinema(text: str) -> str:
    events = [json.dumps([at / 2, "o", line + "\r\n"]) for at, line in enumerate(_lines(text))]
    return "\n".join(['{"version": 2, "width": 200}', *events])


def _csv(text: str) -> str:
    return "\n".join(
        f'{1_700_000_000_000 + number},"{line.replace(chr(34), 2 * chr(34))}"'
        for number, line in enumerate(_lines(text))
    )


def _gcloud(text: str) -> str:
    record = "---\ninsertId: x{}\nseverity: INFO\ntextPayload: {}\ntimestamp: '2025-02-13T15:54:00Z'"
    return "\n".join(record.format(number, json.dumps(line)) for number, line in enumerate(_lines(text)))


def _cloudwatch(text: str) -> str:
    return json.dumps(
        {"events": [{"timestamp": number, "message": line} for number, line in enumerate(_lines(text))]}, indent=4
    )


def _one_string(text: str) -> str:
    return json.dumps({"cells": [{"outputs": [{"name": "stdout", "text": text}]}]})


def _with_zero_width(text: str) -> str:
    return text.replace("\n", "\u200b\n")


WAYS = [_nbconvert, _with_breaks, _loki, _asciinema, _csv, _gcloud, _cloudwatch, _one_string, _with_zero_width]


def _findings(verdict: Verdict) -> list[tuple[str, str]]:
    return sorted((finding.figure, finding.status.value) for finding in verdict.findings)


@pytest.mark.parametrize("log", [H100, V1], ids=["v0", "v1"])
@pytest.mark.parametrize("deliver", WAYS)
def test_a_delivered_log_has_the_same_findings(deliver: Callable[[str], str], log: str, tmp_path: Path):
    """Every finding on a log is the same for its page in HTML, its export in JSON, YAML or CSV, and its recording."""
    assert _findings(judge_text(tmp_path, deliver(log))) == _findings(judge_text(tmp_path, log))


@pytest.mark.parametrize("deliver", WAYS)
def test_an_error_in_a_delivered_log_is_found(deliver: Callable[[str], str], tmp_path: Path):
    """An error at its end fails a log in each delivery."""
    assert "error" in {finding.figure for finding in judge_text(tmp_path, deliver(V1 + OUT_OF_MEMORY)).failures()}


@pytest.mark.parametrize("deliver", [_cloudwatch, _gcloud])
def test_what_python_ignores_is_ignored_across_the_lines_of_records(deliver: Callable[[str], str], tmp_path: Path):
    """The other fields of an indented record do not part a traceback, so what Python ignored still ends no load."""
    ignored = 'Exception ignored in: <function A.__del__ at 0x7f>\nTraceback (most recent call last):\n  File "a.py", line 1, in f\nKeyError: 1\n'
    chained = '\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File "a.py", line 2, in f\nTypeError: x\n'
    assert judge_text(tmp_path, deliver(V1 + ignored + chained)).status == "pass"


def _judged_bytes(folder: Path, data: bytes) -> Verdict:
    log = folder / "load.log.gz"
    log.write_bytes(data)
    return judge(gather(log))


def test_a_log_that_gzip_compressed_is_read(tmp_path: Path):
    """A log that was rotated is judged without being unpacked first."""
    assert _judged_bytes(tmp_path, gzip.compress(V1.encode())).status == "pass"
    assert _judged_bytes(tmp_path, gzip.compress((V1 + OUT_OF_MEMORY).encode())).status == "fail"


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:100] + b"\0" * 20 + data[120:]])
def test_a_damaged_gzip_is_bad_input(damage: Callable[[bytes], bytes], tmp_path: Path):
    """A file that cannot be unpacked whole is refused, as its end may tell of a failure."""
    with pytest.raises(BadInput, match="gzip"):
        _judged_bytes(tmp_path, damage(gzip.compress(V1.encode())))


def test_a_gzip_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What unpacks to more than any log holds is refused early."""
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", 1024**2)
    with pytest.raises(BadInput, match="unpacks to more"):
        _judged_bytes(tmp_path, gzip.compress(b"a\n" * 1024**2))


def test_a_zero_width_space_within_a_number_is_no_digit(tmp_path: Path):
    """Only between words is a zero-width space taken away: a number that goes on behind one is not read as a longer one."""
    verdict = judge_text(tmp_path, V1.replace("took 37.25", "took 3\u200b7.25"))
    assert verdict.status == "fail"


# ------------------------------------------------------------------------------------------------------------- our own events


def _wrapped(width: int) -> str:
    return "\n".join(line[at : at + width] for line in OWN_RUN.split("\n") for at in range(0, max(len(line), 1), width))


def _at_blanks(width: int) -> str:
    return "\n".join(
        re.sub(rf"(.{{1,{width}}})(?: |$)", r"\1\n", line).removesuffix("\n") for line in OWN_RUN.split("\n")
    )


@pytest.mark.parametrize("log", [_wrapped(80), _wrapped(132), _at_blanks(100), OWN_RUN.replace("\n", "\r"), _one_string(OWN_RUN)],
                         ids=["80", "132", "blanks", "returns", "notebook"])  # fmt: skip
def test_events_are_read_when_wrapped_or_joined(log: str, tmp_path: Path):
    """The events of a run are whole, though a window wrapped their lines or a notebook joined them."""
    judge_text(tmp_path, OWN_RUN)
    wanted = [event.name for event in gather(tmp_path / "load.log").attempt.events]
    judge_text(tmp_path, log)
    assert [event.name for event in gather(tmp_path / "load.log").attempt.events] == wanted


def test_an_event_behind_a_time_in_brackets_is_no_list_of_records(tmp_path: Path):
    """A prefix in brackets does not make a line a collector's list, of which only the field `text` would be kept."""
    judge_text(tmp_path, "\n".join(f"[00:12:00] {line}" for line in OWN_RUN.split("\n")))
    assert "answer" in {event.name for event in gather(tmp_path / "load.log").attempt.events}


# ------------------------------------------------------------------------------------------------------------ prefixes and wraps


@pytest.mark.parametrize(
    "prefix",
    [
        "2025-02-13T15:54:28+0000 gpu-01 python3[1234]: ",
        "2025-02-13T15:54:28.123456Z 01O ",
        "Feb 13 15:54:28 ",
        "[2025-02-13 15:54:28] ",
        "[2025-02-13T15:54:28.123Z] ",
        "[2025-02-13T15:54:28.123+0000] {subprocess.py:93} INFO - ",
        "<14>1 2025-02-13T15:54:28.123456Z gpu-01 vllm 1234 - - ",
        "load\tRun load\t2025-02-13T15:54:28.1234567Z ",
        "2025-02-13T15:54:28.123456+00:00 app[worker.1]: ",
        "2025-02-13T15:54:28Z app[9080e6] ord [info]",
        "2025-02-13 15:54:28+00:00 ",
        "[1,0]<stdout>:",
        "    12\t",
        "#12 3.456 ",
        "1700000000000,",
        "logs/load.log:12:",
        " 0: ",
    ],
)
def test_an_error_alone_is_found_behind_a_prefix(prefix: str, tmp_path: Path):
    """A log of only an error is one, and fails, behind the prefix of each collector."""
    assert judge_text(tmp_path, prefix + OUT_OF_MEMORY).status == "fail"


@pytest.mark.parametrize("width", thinned(range(66, 80)))
def test_an_error_glued_to_a_wrapped_figure_is_found(width: int, tmp_path: Path):
    """An error on the line of the last figure fails a log, wherever a window wrapped that line."""
    glued = H100.replace("secondstokenizer", "seconds\ntokenizer")
    glued = re.sub(r"(init engine .* seconds)", r"\1" + OUT_OF_MEMORY.strip(), glued)
    wrapped = "\n".join(
        line[at : at + width] for line in glued.split("\n") for at in range(0, max(len(line), 1), width)
    )
    assert "error" in {finding.figure for finding in judge_text(tmp_path, wrapped).failures()}


@pytest.mark.parametrize("glued_to", ["secondstokenizer_config.json: 100%", "seconds (compilation: 9.10 s)"])
def test_an_error_glued_behind_the_last_figure_is_found(glued_to: str, tmp_path: Path):
    """A file's progress, or the time of the compilation, may stand between the last figure and an error on its line."""
    log = re.sub(r"(init engine .* took [\d.]+) seconds", rf"\1 {glued_to}Killed", H100)
    assert "error" in {finding.figure for finding in judge_text(tmp_path, log).failures()}


def test_a_wrapped_advice_about_open_files_is_no_error(tmp_path: Path):
    """vLLM quotes an error in its advice about ulimit; a line that begins within the quote, as a window wrapped it, ends no load."""
    advice = "fd limit errors like `\nOSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n\n"
    assert judge_text(tmp_path, V1 + advice).status == "pass"
    assert judge_text(tmp_path, V1 + "OSError: [Errno 24] Too many open files\n").status == "fail"


@pytest.mark.parametrize(
    "end", ["Killed", "Segmentation fault (core dumped)", "Error: Process completed with exit code 137."]
)
@pytest.mark.parametrize("frame", ['  File "/usr/lib/pyth', '  File "/usr/lib/a.py", line 3, in f'])
def test_what_ends_a_process_within_a_frame_is_found(end: str, frame: str, tmp_path: Path):
    """An end is no rest of a frame that it cut off, and no exception that Python ignores."""
    ignored = f"\nException ignored in: <function f at 0x7f>\nTraceback (most recent call last):\n{frame}\n"
    assert judge_text(tmp_path, f"{H100}{ignored}{end}\n").status == "fail"


def test_a_frame_that_has_no_end_does_not_grow(tmp_path: Path):
    """A frame that was cut off does not take all lines behind it, which would be searched again for each."""
    log = 'Traceback (most recent call last):\n  File "x\n' + "  a line of the source\n" * 1_000 + "ValueError: x\n"
    (tmp_path / "load.log").write_text(log)
    error = parse_log(tmp_path / "load.log").last.errors[-1]
    assert error.text == "ValueError: x" and max(map(len, error.frames)) < 2 * MAX_FRAME_CHARS


def test_a_wrapped_frame_does_not_end_what_python_ignores(tmp_path: Path):
    """A frame's line may be wrapped before its number, so that its rest is not indented."""
    ignored = 'Exception ignored in: <function A.__del__ at 0x7f>\nTraceback (most recent call last):\n  File "/usr/lib/python3.11/a.py", l\nine 1, in f\nKeyError: 1\n'
    assert judge_text(tmp_path, V1 + ignored).status == "pass"
