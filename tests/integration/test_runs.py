"""The child process, its output, and the run folder."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from loadcheck.errors import BadInput
from loadcheck.runs.child import ChildEnd, run_child, signals_as_interrupts, start_child
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.json_file import write_json
from loadcheck.runs.new_folder import create_run_folder, new_run_id
from loadcheck.runs.record import RunRecord
from loadcheck.runs.sampler import Sampler
from loadcheck.runs.sink import LogSink

RECORD: dict[str, Any] = {
    "id": "x", "loadcheck": "0", "commit": None, "profile": {}, "machine": {}, "predicted": None,
    "started_at": "2026-11-24T00:00:00+00:00",
}  # fmt: skip


def _run(code: str, tmp_path: Path, on_start: Any = lambda pid: None, on_output: Any = lambda data: None) -> tuple[ChildEnd, bytes]:  # fmt: skip
    sink = LogSink(tmp_path / "load.log")
    end = run_child(start_child([sys.executable, "-u", "-c", code], dict(os.environ)), sink, on_start, on_output)
    return end, sink.close().read_bytes()


def test_output_is_kept_byte_for_byte(tmp_path: Path):
    """stdout and stderr are one stream, kept byte for byte with carriage returns and broken UTF-8."""
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
def test_every_end_is_named(code: str, outcome: str, words: str, tmp_path: Path):
    """An exit code, a kill and a native crash are distinguished, and earlier output is kept."""
    end, log = _run(f"print('before', flush=True); {code}", tmp_path)
    assert (end.outcome, log) == (outcome, b"before\n")
    assert words in end.reason


def test_an_interrupt_ends_the_child(tmp_path: Path):
    """Ctrl-C, or SIGTERM from a CI, ends the child, and is not recorded as a failure."""
    pids: list[int] = []
    code = "import time; print('up', flush=True); time.sleep(60)"
    end, _ = _run(code, tmp_path, pids.append, _interrupt_at_first(signal.SIGTERM))
    assert (end.outcome, end.reason) == ("interrupted", "the user ended it")
    assert not psutil.pid_exists(pids[0])


def _interrupt_at_first(number: signal.Signals) -> Callable[[bytes], None]:
    """Interrupt this process shortly after the child's first output, while our loop reads on."""
    waiting = [threading.Timer(0.05, os.kill, (os.getpid(), number))]

    def output(_: bytes) -> None:
        while waiting:
            waiting.pop().start()

    return output


def test_no_process_of_the_child_is_left(tmp_path: Path):
    """A process that the child left with the pipe open neither blocks us nor outlives the call."""
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True)"
    )
    start_s = time.monotonic()
    end, log = _run(code, tmp_path)
    assert end.outcome == "completed"
    assert time.monotonic() - start_s < 50
    _assert_ended(int(log))


def _assert_ended(pid: int) -> None:
    """It has disappeared, or is a zombie that its parent has not reaped."""
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, f"{pid} goes on"


class _FullDisk:
    """A file on a disk with `room` bytes left."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self.room = file, room

    def write(self, data: memoryview) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        taken = self._file.write(data[: self.room])
        self.room -= taken
        return int(taken)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _on_a_full_disk(path: Path, room: int) -> tuple[LogSink, _FullDisk]:
    sink = LogSink(path)
    disk = _FullDisk(sink._file, room)
    sink._file = disk  # type: ignore[assignment]
    return sink, disk


def test_a_full_disk_loses_nothing(tmp_path: Path):
    """Output that did not fit is written once there is room again; a note tells what happened."""
    sink, disk = _on_a_full_disk(tmp_path / "load.log", room=5)
    for piece in (b"abc", b"defg", b"hi"):
        sink.write(piece)
    disk.room = 100
    assert sink.close().read_bytes() == b"abcdefghi"
    assert "No space left on device" in sink.note


@pytest.mark.parametrize("more_room", [0, 2])
def test_a_disk_that_stays_full_moves_the_log(more_room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If the disk stays full, the whole log moves to a temporary file that the note names, with no byte twice."""
    sink, disk = _on_a_full_disk(tmp_path / "load.log", room=3)
    sink.write(b"abcdefgh")
    disk.room = more_room
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = sink.close()
    assert path != tmp_path / "load.log"
    assert path.read_bytes() == b"abcdefgh"
    assert str(path) in sink.note


def test_two_full_disks_lose_the_end_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If the temporary folder cannot be written either, what fitted is kept, and the note counts the lost bytes."""
    sink, _ = _on_a_full_disk(tmp_path / "load.log", room=3)
    sink.write(b"abcdefgh")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nothing"))
    assert sink.close().read_bytes() == b"abc"
    assert "its last 5 bytes are lost" in sink.note


def test_lost_output_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a flood onto a full disk the beginning and the end are kept, and the note counts the bytes lost between."""
    monkeypatch.setattr("loadcheck.runs.sink.MAX_SPOOL_BYTES", 4)
    sink, disk = _on_a_full_disk(tmp_path / "load.log", room=3)
    for piece in (b"abcdef", b"ghij"):
        sink.write(piece)
    disk.room = 100
    assert sink.close().read_bytes() == b"abcghij"
    assert "3 bytes in its middle are lost" in sink.note


def test_a_log_whose_folder_is_removed_is_written_again(tmp_path: Path):
    """If runs/ is removed during a load, the log is written again completely, and the note says why."""
    folder = tmp_path / "run"
    folder.mkdir()
    sink = LogSink(folder / "load.log")
    sink.write(b"abc")
    (folder / "load.log").unlink()
    folder.rmdir()
    sink.write(b"def")
    assert sink.close() == folder / "load.log"
    assert (folder / "load.log").read_bytes() == b"abcdef"
    assert "was removed" in sink.note


def test_a_log_does_not_follow_a_link(tmp_path: Path):
    """A link in the log's place is not followed."""
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "load.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        LogSink(tmp_path / "load.log")


@pytest.mark.parametrize(
    "pieces", [[b"x hf_secret y"], [b"x hf_", b"secret y"], [bytes([b]) for b in b"x hf_secret y"]]
)
def test_secrets_never_reach_the_log(pieces: list[bytes], tmp_path: Path):
    """A token is redacted, also if it comes in pieces."""
    sink = LogSink(tmp_path / "load.log", secrets=("hf_secret",))
    for piece in pieces:
        sink.write(piece)
    assert sink.close().read_bytes() == b"x [secret] y"


def test_the_sampler_follows_a_process(tmp_path: Path):
    """Ten times a second a JSON line records the process's memory; without NVML the device is null, not 0."""
    code = "x = bytearray(50_000_000); print(flush=True); import time; time.sleep(30)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        with Sampler(tmp_path / "memory.jsonl", child.pid) as sampler:
            child.stdout.readline()
            _wait_for_samples(tmp_path / "memory.jsonl", 3)
            large = psutil.Process(child.pid).memory_info().rss
            _wait_for_samples(tmp_path / "memory.jsonl", 5)
    finally:
        child.stdout.close()
        child.kill()
        child.wait()
    samples = [json.loads(line) for line in (tmp_path / "memory.jsonl").read_text().splitlines()]
    assert len(samples) >= 3
    assert sampler.peak_child_bytes is not None and sampler.peak_child_bytes >= large > 50_000_000
    assert samples[-1]["ram_available_bytes"] > 0


def _wait_for_samples(path: Path, count: int) -> None:
    deadline_s = time.monotonic() + 60
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline_s, f"{path} has fewer than {count} samples"
        time.sleep(0.02)


def test_a_record_reads_back_unchanged(tmp_path: Path):
    """run.json holds every field of the record."""
    folder = RunFolder(tmp_path)
    record = RunRecord(**RECORD, outcome="killed", reason="x")
    folder.write_record(record)
    assert folder.read_record() == record


@pytest.mark.parametrize("text", ["{", "[]", '{"unknown": 1}'])
def test_a_broken_record_is_bad_input(text: str, tmp_path: Path):
    """An invalid run.json is reported as such."""
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BadInput, match="not a valid run record"):
        RunFolder(tmp_path).read_record()


def test_no_run_is_overwritten(tmp_path: Path):
    """A folder that holds a run refuses a second one."""
    RunFolder(tmp_path).write_record(RunRecord(**RECORD))
    with pytest.raises(BadInput, match="holds a run already"):
        create_run_folder(tmp_path, "x")


def test_an_unwritable_folder_is_refused_first(tmp_path: Path):
    """A path that cannot be a folder is refused before anything is loaded."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        create_run_folder(tmp_path / "file" / "run", "x")


def test_json_is_written_completely_or_not_at_all(tmp_path: Path):
    """A failed write leaves the old file and no partial one."""
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_run_ids_sort_by_time():
    """An id starts with the UTC time, and contains the profile's name."""
    assert new_run_id("p", datetime(2026, 11, 24, 3, 4, 5, tzinfo=timezone.utc)) == "20261124T030405Z-p"


def test_an_orphan_that_prints_does_not_keep_a_run_open(tmp_path: Path):
    """A process left behind in its own group prints forever: the run ends with its child, and that process too."""
    code = (
        "import os, subprocess, sys; talker = subprocess.Popen([sys.executable, '-c', "
        "'while True: print(1, flush=True)'], preexec_fn=os.setpgrp); os.write(1, b'pid %d\\n' % talker.pid)"  # at once, as the other prints between two writes
    )
    end, log = _run(code, tmp_path)
    assert end.outcome == "completed"
    _assert_ended(int(log.partition(b"pid ")[2].split()[0]))


def test_output_on_interruption_is_kept(tmp_path: Path):
    """The last output of an interrupted child is in the log, even more than a pipe holds."""
    code = (
        "import os, signal, sys, time\n"
        "def last(*_):\n    print('x' * 300_000 + 'end'); sys.exit(0)\n"
        "signal.signal(signal.SIGINT, last); print('up', flush=True); time.sleep(60)"
    )
    end, log = _run(code, tmp_path, on_output=_interrupt_at_first(signal.SIGHUP))
    assert end.outcome == "interrupted"
    assert log.endswith(b"xend\n")


@pytest.mark.parametrize("at", ["start", "output"])
def test_an_error_of_ours_ends_the_child(at: str, tmp_path: Path):
    """An error right after the start (no thread available), or at the first output, neither hangs nor leaves the child."""
    pids: list[int] = []

    def start(pid: int) -> None:
        pids.append(pid)
        if at == "start":
            raise RuntimeError("ours")

    def output(_: bytes) -> None:
        raise RuntimeError("ours")

    sink = LogSink(tmp_path / "load.log")
    command = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
    with pytest.raises(RuntimeError, match="ours"):
        run_child(start_child(command, {}), sink, start, output)
    sink.close()
    assert not psutil.pid_exists(pids[0])


def test_a_full_disk_is_refused_before_a_load(tmp_path: Path):
    """A run reserves disk space for its end; if there is none, nothing is loaded and nothing is left."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(BadInput, match="cannot be written"):
            create_run_folder(tmp_path / "run", "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_record_is_kept_in_a_folder_that_became_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If the folder becomes read-only, the existing file is overwritten, as no new one can be made."""
    write_json(tmp_path / "run.json", {"long": "x" * 100})

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    write_json(tmp_path / "run.json", {"a": 1})
    assert json.loads((tmp_path / "run.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("error", [RuntimeError("Function Not Found"), OSError("driver is gone")])
def test_a_lost_gpu_only_loses_its_samples(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever NVML raises, the sampler continues with null for the device, and keeps the peak."""
    calls = iter(range(1_000))

    def info(_handle: object, version: int) -> SimpleNamespace:
        if next(calls) >= 2:
            raise error
        return SimpleNamespace(used=7)

    nvml = SimpleNamespace(nvmlDeviceGetMemoryInfo=info, nvmlMemory_v2=2, NVMLError=type("NVMLError", (Exception,), {}))
    monkeypatch.setattr("loadcheck.device._nvml", lambda: (nvml, None))
    monkeypatch.setattr("loadcheck.runs.sampler.INTERVAL_S", 0.01)
    with Sampler(tmp_path / "memory.jsonl", os.getpid()) as sampler:
        _wait_for_samples(tmp_path / "memory.jsonl", 3)
    samples = [json.loads(line)["device_used_bytes"] for line in (tmp_path / "memory.jsonl").read_text().splitlines()]
    assert sampler.peak_device_bytes == 7
    assert samples[:3] == [7, 7, None]


def test_nohups_ignored_signal_stays_ignored():
    """Under nohup a load goes on without its terminal, and still obeys a request to end."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_as_interrupts():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGHUP, before)
