"""An engine process that is started before the plan is made: it imports its libraries while this process inspects the machine.

It reads two lines from its stdin. DEVICE_ALLOWED: this process has finished inspecting the device, so the engine may start the driver (whose
memory would otherwise be counted as in use by others). Then, in JSON, the run folder whose plan it loads; without that it loads nothing and
exits with this process.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loadcheck.runs.child import kill_session, start_child

AHEAD = "ahead"
"""The name of its step (engines/child.py)."""
DEVICE_ALLOWED = "device allowed"


@dataclass(frozen=True, slots=True)
class Ahead:
    """The process. Its output stays in the pipe until its step begins."""

    process: subprocess.Popen[bytes]

    def allow_device(self) -> None:
        """Let it use the device, which this process has finished inspecting."""
        self._send(DEVICE_ALLOWED)

    def load(self, run_dir: Path) -> subprocess.Popen[bytes]:
        """Make it load the plan of this folder; returns the process, for `run_child`."""
        self._send(json.dumps(str(run_dir)))
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        return self.process

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has exited: `run_child` reports how
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()


@contextmanager
def ahead(command: Sequence[str], env: dict[str, str]) -> Iterator[Ahead]:
    """Start the process; after the block it has exited, whether or not it loaded anything."""
    process = start_child(command, env, stdin=subprocess.PIPE)
    try:
        yield Ahead(process)
    finally:
        if process.returncode is None:
            kill_session(process.pid)
            process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()
