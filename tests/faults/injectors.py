"""What is done to a load from outside, and what must then hold of its folder besides the checks for every run."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CANARY = "hf_CanaryCanaryCanaryCanaryCanary1234"
DRIVER = (sys.executable, "-m", "tests.faults.driver")
LOAD = ("load", "llama31-8b-instruct-4bit", "--weights", "synthetic", "--train-steps", "3", "--force", "--run-dir")
MEMORY_BYTES = 300 * 1024**2
DISK_BYTES = 160 * 1024


class Unavailable(Exception):  # noqa: N818: it says what is so
    """This machine cannot have the fault, with the reason."""


@dataclass(slots=True)
class Scene:
    """One run under test: its folders, its process, and how to clean up."""

    base: Path
    env: dict[str, str]
    run: Path = field(init=False)
    scratch: Path = field(init=False)
    process: subprocess.Popen[bytes] | None = None
    out: bytes = b""
    popen: dict[str, Any] = field(default_factory=dict)
    tidy: list[Callable[[], object]] = field(default_factory=list)
    twin: subprocess.Popen[bytes] | None = None
    twin_out: bytes = b""

    def __post_init__(self) -> None:
        self.run, self.scratch = self.base / "run", self.base / "scratch"
        self.scratch.mkdir()

    def start(self) -> subprocess.Popen[bytes]:
        """`loadcheck load` with the stand-in, its output in one stream."""
        command = [*DRIVER, *LOAD, str(self.run)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.env, cwd=ROOT, **self.popen
        )

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def record(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.run / "run.json").read_text())
        return data

    def moved_log(self) -> Path | None:
        """The temporary file that the log was moved to, from loadcheck's output."""
        words = self.out.decode(errors="replace").replace("\n", "").partition("the whole log is in ")[2]
        return Path(words.partition(".log")[0] + ".log") if words else None


def no_setting(_: Scene) -> None:
    """No special setting."""


def no_more_checks(_: Scene) -> None:
    """No checks besides those for every run."""


# ------------------------------------------------------------------------------------------------------- at the moment


def kill_parent(scene: Scene) -> None:
    scene.signal(signal.SIGKILL)


def terminate(scene: Scene) -> None:
    scene.signal(signal.SIGTERM)


def interrupt(scene: Scene) -> None:
    scene.signal(signal.SIGINT)


def interrupt_thrice(scene: Scene) -> None:
    for _ in range(3):
        with suppress(ProcessLookupError):
            scene.signal(signal.SIGINT)
        time.sleep(0.05)


def hang_up(scene: Scene) -> None:
    scene.signal(signal.SIGHUP)


def go_on(scene: Scene) -> None:
    (scene.scratch / "go").touch()


def remove_folder(scene: Scene) -> None:
    shutil.rmtree(scene.run)
    go_on(scene)


def make_read_only(scene: Scene) -> None:
    scene.run.chmod(0o555)
    go_on(scene)


def close_our_output(scene: Scene) -> None:
    assert scene.process is not None and scene.process.stdout is not None
    scene.process.stdout.close()
    go_on(scene)


def lose_gpu(scene: Scene) -> None:
    time.sleep(0.4)  # some samples
    (scene.scratch / "lost").touch()
    time.sleep(0.3)
    go_on(scene)


def second_load(scene: Scene) -> None:
    record, log = (scene.run / "run.json").read_bytes(), (scene.run / "load.log").read_bytes()
    second = scene.start()
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 2, out
    assert b"no run is overwritten" in out.replace(b"\n", b" "), out
    assert (scene.run / "run.json").read_bytes() == record
    assert (
        (scene.run / "load.log").read_bytes().startswith(log)
    )  # the first load's last lines may still be on their way
    go_on(scene)


# ------------------------------------------------------------------------------------------------------ around the run


def variables(**values: str) -> Callable[[Scene], None]:
    return lambda scene: scene.env.update(values)


def clock(jump_s: float) -> Callable[[Scene], None]:
    return variables(CLOCK_JUMP_S=str(jump_s))


def token(scene: Scene) -> None:
    scene.env |= {"HF_TOKEN": CANARY + "\n", "HUGGING_FACE_HUB_TOKEN": CANARY, "CANARY": CANARY}


def token_in_a_file(scene: Scene) -> None:
    file = scene.base / "token"
    file.write_text(CANARY + "\n")
    scene.env |= {"HF_TOKEN_PATH": str(file), "CANARY": CANARY}


def false_nvml(scene: Scene) -> None:
    """A pynvml whose device is lost as soon as a file says so."""
    folder = scene.base / "nvml"
    folder.mkdir()
    (folder / "pynvml.py").write_text(
        "from pathlib import Path\n"
        "from types import SimpleNamespace\n"
        f"LOST = Path({str(scene.scratch / 'lost')!r})\n"
        "class NVMLError(Exception): pass\n"
        "nvmlMemory_v2 = 2\n"
        "def nvmlInit(): pass\n"
        "def nvmlDeviceGetHandleByIndex(index): return 'handle'\n"
        "def nvmlSystemGetDriverVersion(): return '580.159.04'\n"
        "def nvmlDeviceGetComputeRunningProcesses(handle): return []\n"
        "def nvmlDeviceGetMemoryInfo(handle, version):\n"
        "    if LOST.exists(): raise NVMLError('GPU is lost')\n"
        "    return SimpleNamespace(used=12_345_678)\n"
    )
    scene.env["PYTHONPATH"] = str(folder)


def small_disk(scene: Scene) -> None:
    """A separate file system for the run folder."""
    disk = scene.base / "disk"
    disk.mkdir()
    if shutil.which("mount") is None:
        raise Unavailable("mount is not installed")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk], capture_output=True, check=False
    )
    if done.returncode:
        raise Unavailable(f"no small file system can be mounted here ({done.stderr.decode().strip()})")
    scene.tidy.append(lambda: subprocess.run(["umount", disk], check=True))
    scene.run = disk / "run"
    _temporary(scene)


def _temporary(scene: Scene) -> None:
    folder = scene.base / "tmp"
    folder.mkdir()
    scene.env["TMPDIR"] = str(folder)


def small_memory(scene: Scene) -> None:
    """A separate control group for loadcheck and its children, below our own."""
    group = _new_group()
    scene.tidy.append(lambda: _remove_group(group))
    scene.popen["preexec_fn"] = lambda: (group / "cgroup.procs").write_text(str(os.getpid()))


def _new_group() -> Path:
    """A control group of version 1 or 2, whichever limits memory here."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    version_1 = Path("/sys/fs/cgroup/memory" + own.get("memory", "/nowhere"))
    version_2 = Path("/sys/fs/cgroup" + own.get("", "/nowhere"))
    parent, limit = (version_1, "memory.limit_in_bytes") if version_1.is_dir() else (version_2, "memory.max")
    group = parent / f"loadcheck-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(MEMORY_BYTES))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        raise Unavailable(f"no control group can limit memory here ({error.strerror}: {parent})") from None
    return group


def _remove_group(group: Path) -> None:
    deadline_s = time.monotonic() + 10
    while True:
        try:
            group.rmdir()
        except OSError:  # its last process has not quite gone
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
        else:
            return


def without_dac_override(scene: Scene) -> None:
    """Root may write anywhere, except without this capability."""
    pr_capbset_drop, cap_dac_override = 24, 1  # linux/prctl.h, linux/capability.h
    if os.geteuid() == 0:
        scene.popen["preexec_fn"] = lambda: ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override)


def twin(scene: Scene) -> None:
    """The same load, started just before."""
    scene.twin = scene.start()


# ----------------------------------------------------------------------------------------------------------- afterwards


def log_was_moved(scene: Scene) -> None:
    moved = scene.moved_log()
    assert moved is not None and moved.exists(), scene.out.decode(errors="replace")


def durations_are_plausible(scene: Scene) -> None:
    """Durations come from a monotonic clock."""
    assert 0 < scene.record()["duration_s"] < 120
    times_s = [json.loads(line)["t_s"] for line in (scene.run / "memory.jsonl").read_text().splitlines()]
    steps = [later - sooner for sooner, later in pairwise(times_s)]
    assert all(step < 60 for step in steps)
    assert sum(step < 0 for step in steps) <= 1  # the second process starts again


def token_is_nowhere(scene: Scene) -> None:
    """The token is in no file of the run and in no output, and something else is in its place."""
    for path in scene.run.iterdir():
        assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY.encode() not in scene.out
    assert b"[secret]" in (scene.run / "load.log").read_bytes()


def peak_is_kept(scene: Scene) -> None:
    """Samples before the loss are kept; after it there is null, never 0."""
    assert scene.record()["peak_device_bytes"] == 12_345_678
    used = [json.loads(line)["device_used_bytes"] for line in (scene.run / "memory.jsonl").read_text().splitlines()]
    assert set(used) == {12_345_678, None}


def twin_was_refused(scene: Scene) -> None:
    """Exactly one of the two loaded."""
    assert scene.twin is not None and scene.process is not None
    assert sorted([scene.twin.returncode, scene.process.returncode]) == [0, 2], scene.twin_out
