"""One run of one fault: start `loadcheck load`, inject the fault, and check what is left."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import psutil

from loadcheck import cli
from loadcheck.errors import LoadcheckError
from loadcheck.stacks import parse_log
from tests.faults.injectors import Scene
from tests.faults.matrix import Fault
from tests.faults.results import Seen
from tests.faults.stand_in import LOG

LIMIT_S = 120.0


def run_fault(fault: Fault, moment: str) -> Seen:
    """Run `fault` at `moment`. AssertionError if a check fails, Unavailable if this machine cannot have the fault."""
    with tempfile.TemporaryDirectory(prefix="loadcheck-fault-") as base:
        Path(base).chmod(0o755)
        return _run_in(Path(base), fault, moment)


def _run_in(base: Path, fault: Fault, moment: str) -> Seen:
    scene = Scene(base, dict(os.environ, PYTHONPATH=""))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        scene.env.pop(name, None)
    scene.env["LOADCHECK_STAND_IN"] = json.dumps(
        {"moment": moment, "action": fault.action, "scratch": str(scene.scratch)}
    )
    try:
        fault.setting(scene)
        _run_scene(scene, fault)
        return _check(scene, fault, moment)
    finally:
        _end_all(scene)
        for undo in reversed(scene.tidy):
            undo()


def _run_scene(scene: Scene, fault: Fault) -> None:
    scene.process = scene.start()
    if fault.inject is not None:
        _wait_for(scene.scratch / "here", scene.process)
        _wait_for_log(scene)
        fault.inject(scene)
    deadline_s = time.monotonic() + LIMIT_S
    stdout = scene.process.stdout
    assert stdout is not None
    if stdout.closed:
        scene.process.wait(LIMIT_S)
    else:
        scene.out, _ = scene.process.communicate(timeout=LIMIT_S)
    if scene.twin is not None:
        scene.twin_out, _ = scene.twin.communicate(timeout=LIMIT_S)
    assert time.monotonic() < deadline_s, "loadcheck hangs"


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()[0].decode(errors="replace")
        assert time.monotonic() < deadline_s, f"{path.name} does not come"
        time.sleep(0.01)


def _wait_for_log(scene: Scene) -> None:
    """Wait until loadcheck has read what the load has printed: if it is killed, what is still in the pipe is lost."""
    printed = scene.scratch / "printed"
    num_bytes = int(printed.read_text()) if printed.exists() else 0
    log, deadline_s = scene.run / "load.log", time.monotonic() + 2
    while time.monotonic() < deadline_s and not (log.is_file() and log.stat().st_size >= num_bytes):
        time.sleep(0.01)


def _check(scene: Scene, fault: Fault, moment: str) -> Seen:
    """Everything that must hold after every fault, then what must hold after this one."""
    assert scene.process is not None
    output = scene.out.decode(errors="replace")
    one_of_two = scene.twin is not None and scene.process.returncode == 2
    exit_codes = fault.exit_code if isinstance(fault.exit_code, tuple) else (fault.exit_code,)
    assert one_of_two or scene.process.returncode in exit_codes, output
    _no_orphan(scene)
    fault.check(scene)
    record = scene.record() if fault.outcome else {"outcome": "", "reason": "", "notes": []}
    assert record["outcome"] == fault.outcome, (record["outcome"], output)
    assert fault.says in " ".join([record["reason"], *record["notes"], " ".join(output.split())]), record
    figures = _kept_figures(scene)
    later = {command: _cli(command, str(scene.run)) for command in ("report", "check")}
    assert set(later.values()) == {fault.later}, (later, output)
    if fault.outcome and not one_of_two and not fault.passes:
        assert '"verdict": "pass"' not in _verdict(scene.run)
    return Seen(fault.name, moment, scene.process.returncode, record["outcome"], record["reason"], figures)


def _verdict(run: Path) -> str:
    """verdict.json, which a run that was cut off lacks."""
    with suppress(FileNotFoundError):
        return (run / "verdict.json").read_text()
    return ""


def _kept_figures(scene: Scene) -> int:
    """How many figures were printed before the fault; each must be read from the run's log."""
    printed = int((scene.scratch / "printed").read_text())
    before = _figures(LOG.read_bytes()[:printed], scene.base / "before.log")
    log = scene.moved_log() or scene.run / "load.log"
    after = _figures(log.read_bytes(), scene.base / "after.log")
    lost = {name: value for name, value in before.items() if after.get(name) != value}
    assert not lost, f"lost: {lost}"
    return len(before)


def _figures(log: bytes, path: Path) -> dict[str, Any]:
    path.write_bytes(log)
    try:
        return parse_log(path).last.figures.known()
    except LoadcheckError:
        return {}


def _cli(*arguments: str) -> int:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
        code = cli.run(list(arguments))
    assert "Traceback" not in err.getvalue()
    return code


def _no_orphan(scene: Scene) -> None:
    deadline_s = time.monotonic() + 5
    while alive := [process for process in _loading_processes(scene) if _is_alive(process)]:
        assert time.monotonic() < deadline_s, f"orphans: {alive}"
        time.sleep(0.02)


def _loading_processes(scene: Scene) -> list[psutil.Process]:
    """The processes in the sessions of the loading processes."""
    pids = {int(pid) for pid in (scene.scratch / "pids").read_text().split()}
    if (scene.scratch / "left").exists():
        pids.add(int((scene.scratch / "left").read_text()))
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, psutil.Error):
            if pid in pids or os.getsid(pid) in pids:
                found.append(psutil.Process(pid))
    return found


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _end_all(scene: Scene) -> None:
    """Leave no process running, also after a failure."""
    for process in (scene.process, scene.twin):
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    with suppress(FileNotFoundError):
        for orphan in _loading_processes(scene):
            with suppress(psutil.Error):
                orphan.kill()
