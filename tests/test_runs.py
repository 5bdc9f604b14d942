"""The child process, what it printed, and the folder that keeps it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadcheck.errors import BadInput
from loadcheck.runs.child import ChildEnd, run_child
from loadcheck.runs.folder import RunFolder, RunRecord, create_run_folder, new_run_id, write_json
from loadcheck.runs.sampler import Sampler
from loadcheck.runs.sink import LogSink

RECORD = {
    "id": "x", "loadcheck": "0", "commit": None, "profile": {}, "machine": {}, "predicted": None,
    "started_at": "2026-11-24T00:00:00+00:00",
}  # fmt: skip


def _run(code: str, tmp_path: Path, on_start: Any = lambda pid: None) -> tuple[ChildEnd, bytes]:
    sink = LogSink(tmp_path / "load.log")
    end = run_child([sys.executable, "-u", "-c", code], sink, on_start, lambda data: None, dict(os.environ))
    return end, sink.close().read_bytes()


def test_output_is_kept_as_it_came(tmp_path: Path):
    """stdout and stderr are one stream, byte for byte, carriage returns and broken UTF-8 included."""
    code = "import os; os.write(1, b'a\\r'); os.write(2, b'b\\xff\\n'); os.write(1, b'c')"
    end, log = _run(code, tmp_path)
    assert (end.outcome, end.reason, log) == ("completed", "", b"a\rb\xff\nc")


@pytest.mark.parametrize(
    ("code", "outcome", "words"),
    [
        ("raise SystemExit(7)", "failed", "exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", "killed", "SIGKILL; most often the system was out of memory"),
        ("import os; os.kill(os.getpid(), 11)", "killed", "SIGSEGV; native code crashed"),
        ("import os; os.abort()", "killed", "SIGABRT"),
    ],
)
def test_every_end_has_its_word(code: str, outcome: str, words: str, tmp_path: Path):
    """An exit code, a kill and a crash in native code are told apart, and what was printed before is kept."""
    end, log = _run(f"print('before', flush=True); {code}", tmp_path)
    assert (end.outcome, log) == (outcome, b"before\n")
    assert words in end.reason


def test_an_interrupt_ends_the_child(tmp_path: Path):
    """Ctrl-C, or SIGTERM from a CI that gives up, ends the child and is told from a failure."""
    pids: list[int] = []

    def start(pid: int) -> None:
        pids.append(pid)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    end, _ = _run("import time; print('up', flush=True); time.sleep(60)", tmp_path, start)
    assert (end.outcome, end.reason) == ("interrupted", "the user ended it")
    assert not psutil.pid_exists(pids[0])


def test_nothing_of_the_child_is_left(tmp_path: Path):
    """A process that the child started and left holding the pipe neither holds us up nor outlives the call."""
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True)"
    )
    start_s = time.monotonic()
    end, log = _run(code, tmp_path)
    assert end.outcome == "completed"
    assert time.monotonic() - start_s < 20
    orphan = int(log)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(orphan) and time.monotonic() < deadline:
        if psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


class _FullDisk:
    """A file on a disk that takes `room` bytes and no more."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: memoryview) -> int:
        if self._room == 0:
            raise OSError(28, "No space left on device")
        taken = self._file.write(data[: self._room])
        self._room -= taken
        return int(taken)

    def close(self) -> None:
        self._file.close()


def test_a_full_disk_loses_nothing(tmp_path: Path):
    """What did not fit is written once there is room again; the note says what happened."""
    sink = LogSink(tmp_path / "load.log")
    sink._file = _FullDisk(sink._file, room=5)  # type: ignore[assignment]
    for piece in (b"abc", b"defg", b"hi"):
        sink.write(piece)
    assert sink.close().read_bytes() == b"abcdefghi"
    assert "No space left on device" in sink.note


def test_a_disk_that_stays_full_moves_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without room to the end, the whole log is in a temporary file that the note names."""
    sink = LogSink(tmp_path / "load.log")
    sink._file = _FullDisk(sink._file, room=3)  # type: ignore[assignment]
    sink.write(b"abcdef")
    real_open = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self == tmp_path / "load.log" and "a" in mode:
            raise OSError(28, "No space left on device")
        return real_open(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = sink.close()
    assert path != tmp_path / "load.log"
    assert path.read_bytes() == b"abcdef"
    assert str(path) in sink.note


@pytest.mark.parametrize(
    "pieces", [[b"x hf_secret y"], [b"x hf_", b"secret y"], [bytes([b]) for b in b"x hf_secret y"]]
)
def test_secrets_never_reach_the_log(pieces: list[bytes], tmp_path: Path):
    """A token is blotted out, also where it comes in pieces."""
    sink = LogSink(tmp_path / "load.log", secrets=("hf_secret",))
    for piece in pieces:
        sink.write(piece)
    assert sink.close().read_bytes() == b"x [secret] y"


def test_the_sampler_follows_a_process(tmp_path: Path):
    """Ten times a second a line of JSON with the process's memory; without NVML the device is null, not 0."""
    child = subprocess.Popen([sys.executable, "-c", "x = bytearray(50_000_000); import time; time.sleep(30)"])
    try:
        with Sampler(tmp_path / "memory.jsonl", child.pid) as sampler:
            time.sleep(1.0)
    finally:
        child.kill()
        child.wait()
    samples = [json.loads(line) for line in (tmp_path / "memory.jsonl").read_text().splitlines()]
    assert len(samples) >= 4
    assert sampler.peak_child_bytes is not None and sampler.peak_child_bytes > 50_000_000
    assert samples[-1]["ram_available_bytes"] > 0


def test_a_record_reads_back(tmp_path: Path):
    """run.json holds every field of the record."""
    folder = RunFolder(tmp_path)
    record = RunRecord(**RECORD, outcome="killed", reason="x")
    folder.write_record(record)
    assert folder.read_record() == record


@pytest.mark.parametrize("text", ["{", "[]", '{"unknown": 1}'])
def test_a_broken_record_is_bad_input(text: str, tmp_path: Path):
    """A run.json that is none of ours says so."""
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BadInput, match="no run record"):
        RunFolder(tmp_path).read_record()


def test_no_run_is_written_over(tmp_path: Path):
    """A folder that holds a run refuses a second one."""
    RunFolder(tmp_path).write_record(RunRecord(**RECORD))
    with pytest.raises(BadInput, match="holds a run already"):
        create_run_folder(tmp_path, "x")


def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path: Path):
    """A path that cannot be a folder is refused before anything is loaded."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        create_run_folder(tmp_path / "file" / "run", "x")


def test_json_is_written_whole_or_not_at_all(tmp_path: Path):
    """A failed write leaves the old file and no partial one."""
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_run_ids_sort_by_time():
    """An id begins with the time in UTC, and names the profile."""
    assert new_run_id("p", datetime(2026, 11, 24, 3, 4, 5, tzinfo=timezone.utc)) == "20261124T030405Z-p"
