"""A process of the engine that is started before it is known what it is to do: it imports its libraries while we look at the machine.

It is told on its stdin, a line each: LOOKED once nothing more of the device is looked at, so that it may start the driver, which
takes memory that else would be counted as another's; then, in JSON, the run folder whose plan it is to load. Without the second it
loads nothing, and ends with us.
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
"""The step of such a process (engines/child.py)."""
LOOKED = "looked"


@dataclass(frozen=True, slots=True)
class Ahead:
    """The process; what it prints meanwhile waits in its pipe until its step comes."""

    process: subprocess.Popen[bytes]

    def looked(self) -> None:
        """Nothing more of the device is looked at."""
        self._say(LOOKED)

    def load(self, run_dir: Path) -> subprocess.Popen[bytes]:
        """Have it load the plan of this folder; gives its process, for `run_child`."""
        self._say(json.dumps(str(run_dir)))
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        return self.process

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended: `run_child` says how
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()


@contextmanager
def ahead(command: Sequence[str], env: dict[str, str]) -> Iterator[Ahead]:
    """Start the process; at the end of the block it has ended, whether it was told to load or not."""
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
