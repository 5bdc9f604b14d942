"""Traces loads for tests: each is one process with an audit hook, and its own home, temporary and working folders."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from psutil import AccessDenied, NoSuchProcess

from loadcheck.specs.files import read_toml
from tests.conftest import ROOT
from tests.traced import Allowed, TracedEvent, is_import, unexplained

ALLOWED = tuple(Allowed(**entry) for entry in read_toml(ROOT / "tests" / "traced.toml")["allowed"])
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@dataclass(frozen=True)
class Trace:
    """What was seen of a finished process. `listened`: addresses other than loopback; `shm_bytes`: the largest growth of /dev/shm."""

    code: int
    seen: list[TracedEvent]
    control: list[str]
    modules: list[str]
    places: dict[str, str]
    listened: set[str]
    shm_bytes: int

    def imports(self) -> list[str]:
        """The unexplained events during the imports."""
        return list(unexplained([each for each in self.seen if is_import(each)], ALLOWED, self.places))

    def load(self) -> list[str]:
        """The unexplained events after the imports."""
        return list(unexplained([each for each in self.seen if not is_import(each)], ALLOWED, self.places))


def trace(python: Path | str, folder: Path, *words: str, weights: Path | None = None, **environment: str) -> Trace:
    """Run tests/traced.py with `words` in new folders below `folder`; {RUN} in a word is the run folder."""
    places = {name: str(folder / name.lower()) for name in ("RUN", "HOME", "TMP", "CWD")}
    for place in places.values():
        Path(place).mkdir(exist_ok=True)
    places["WEIGHTS"] = str(weights or folder / "weights")
    out = folder / "trace.json"
    variables = {"HOME": places["HOME"], "TMPDIR": places["TMP"], "LOADCHECK_CACHE": places["WEIGHTS"], **environment}
    gone = ("XDG_CACHE_HOME", "HF_HOME", "TRITON_CACHE_DIR", "PYTHONPYCACHEPREFIX")
    env = {name: value for name, value in os.environ.items() if name not in gone} | variables
    command = [
        str(python),
        "-B",
        str(ROOT / "tests" / "traced.py"),
        str(out),
        *(word.format(**places) for word in words),
    ]
    with (
        (folder / "output").open("wb") as output,
        subprocess.Popen(command, cwd=places["CWD"], env=env, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            listened, shm_bytes = watch(process)
        finally:  # a child that outlives its test warns when it is collected, which fails another test
            process.kill()
    assert out.exists(), (folder / "output").read_text(errors="replace")[-3000:]
    document = json.loads(out.read_text())
    seen = [TracedEvent(**each) for each in document["seen"]]
    return Trace(document["code"], seen, document["control"], document["modules"], places, listened, shm_bytes)


def watch(process: subprocess.Popen[bytes], limit_s: float = 600) -> tuple[set[str], int]:
    """Wait for a process to end: the addresses other than loopback that it listened on, and the largest growth of /dev/shm."""
    before, most, listened, deadline_s = shm_used_bytes(), 0, set(), time.monotonic() + limit_s
    while process.poll() is None:
        assert time.monotonic() < deadline_s, "still running"
        most = max(most, shm_used_bytes() - before)
        child = psutil.Process(process.pid)
        try:
            sockets = child.net_connections("inet")
        except NoSuchProcess:
            break
        except AccessDenied:
            # A process that ends frees its memory first, and then only root may read what it has open.
            if child.memory_info().vms:
                raise
            break
        listened |= {f"{each.laddr.ip}" for each in sockets if each.status == psutil.CONN_LISTEN}
        time.sleep(0.1)
    process.wait()
    return {address for address in listened if address not in LOOPBACK}, most


def shm_used_bytes() -> int:
    """Of /dev/shm, by all processes."""
    stats = os.statvfs("/dev/shm")
    return (stats.f_blocks - stats.f_bfree) * stats.f_frsize
