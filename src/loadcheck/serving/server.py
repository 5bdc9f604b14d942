"""Runs the server's process: watches it until it answers, judges its start by its log, and shuts it down gracefully."""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from loadcheck.checking import parse_run_log
from loadcheck.errors import BadInput, Problem
from loadcheck.findings.finding import Verdict
from loadcheck.loading import no_log
from loadcheck.predict.case import Case
from loadcheck.running import child_environment
from loadcheck.runs.child import ChildEnd, Shutdown, run_child, start_child
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.json_file import write_json
from loadcheck.runs.secrets import secrets
from loadcheck.runs.sink import LogSink
from loadcheck.serving.key import ApiKey
from loadcheck.stacks.serving import SERVER, Served, argv, environment, evidence_of
from loadcheck.verdict import judge

GRACE_S = 30.0
"""How long running requests may go on once the server is shutting down."""
END_S = 15.0
"""How long the server may take to exit after that: it gives its engine 4 s (vllm/entrypoints/openai/api_server.py:228-247)."""
SHUTDOWN = Shutdown(signal.SIGTERM, only_leader=True, grace_s=GRACE_S + END_S)
"""The engine is the server's child in the same process group: a signal to the whole group would abort its running requests."""
POLL_S = 0.5
LOOPBACK = ("127.0.0.1", "::1", "localhost")
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104: the user's choice, with a warning

Ready = Callable[[Verdict], None]


def command(served: Served) -> list[str]:
    """The command of the server's process, which ends when this one does."""
    return [sys.executable, "-m", "loadcheck.engines.served", str(os.getpid()), SERVER, *argv(served)]


def check_port(host: str, port: int) -> None:
    """BadInput if the server cannot listen there: the port is in use, or the host is not an address of this machine."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(1)
    except OSError as error:
        what = f"cannot listen on {host}:{port} ({error.strerror})"
        raise BadInput(Problem("command line", what, "stop what uses it, or give another --port", "--port")) from None


@dataclass(slots=True)
class Watch:
    """Waits in a thread until the server answers; then judges its start, writes the verdict, and calls `ready` once."""

    served: Served
    folder: RunFolder
    case: Case
    ready: Ready
    child: subprocess.Popen[bytes] | None = None
    reading: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)
    verdict: Verdict | None = None

    def run(self) -> None:
        while not self.ended.wait(POLL_S):
            if self._answers() and self._log_is_written():
                self.verdict = judge_start(self.folder.log_path, self.case)
                write_json(self.folder.verdict_path, self.verdict.to_json())
                self.ready(self.verdict)
                return

    def _log_is_written(self) -> bool:
        """Whether the log has all that the server has printed; False once its pipe is closed."""
        assert self.child is not None and self.child.stdout is not None
        waiting = array("i", [0])
        with self.reading, suppress(OSError, ValueError):
            fcntl.ioctl(self.child.stdout, termios.FIONREAD, waiting)
            return waiting[0] == 0
        return False

    def _answers(self) -> bool:
        host = ANY.get(self.served.host, self.served.host)
        connection = http.client.HTTPConnection(host, self.served.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def serve(served: Served, key: ApiKey, case: Case, folder: RunFolder, ready: Ready,
          on_output: Callable[[bytes], None]) -> tuple[ChildEnd, Verdict | None]:  # fmt: skip
    """Run the server until it or this process ends; returns how it ended, and the verdict on its start (None if it never answered).

    Its log is the folder's load.log, without the key.
    """
    env = environment(child_environment(), key.text, key.expires_unix_s, folder.verdict_path, GRACE_S)
    env |= served.variables
    sink = LogSink(folder.log_path, tuple({key.text, *secrets(env)}))
    watch = Watch(served, folder, case, ready)
    thread = threading.Thread(target=watch.run, daemon=True)
    try:
        watch.child = start_child(command(served), env)
        end = run_child(watch.child, sink, lambda _: thread.start(), on_output, SHUTDOWN, watch.reading)
    finally:
        watch.ended.set()
        if thread.is_alive():
            thread.join(timeout=10)
        sink.close()
        folder.release_reserve()
    return end, watch.verdict


def judge_start(log: Path, case: Case) -> Verdict:
    """The verdict on the log of a start: by its identities, and by each figure against its prediction."""
    try:
        return judge(evidence_of(parse_run_log(log), case))
    except BadInput as error:
        return Verdict((no_log(error),))
