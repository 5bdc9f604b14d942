"""How a server ends: only its first process is asked, running streams finish, then the engine ends; at last all is killed."""

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadcheck.cli import serve as of_cli
from loadcheck.cli.app import run as loadcheck
from loadcheck.runs.child import Shutdown
from loadcheck.stacks.plain_vllm.serving import Served
from tests.integration.test_serve import Server, server  # noqa: F401
from tests.ports import free_port

NUM_TOKENS = 12
MANY_TOKENS = 1200
"""A minute of them."""
ENGINE = """
import sys, time
for _ in sys.stdin:
    for number in range(int(sys.argv[1])):
        time.sleep(0.05); print("token", number, flush=True)
    print("whole", flush=True)
"""
SERVER_CODE = """
import http.server, os, pathlib, signal, subprocess, sys, threading, time
log, port, engine_code, tokens, ends = sys.argv[1:]
sys.stdout.write(pathlib.Path(log).read_text())
engine = subprocess.Popen([sys.executable, "-S", "-c", engine_code, tokens], stdin=-1, stdout=-1, text=True)
print("pids", os.getpid(), engine.pid, "group", os.getpgid(0), os.getpgid(engine.pid), flush=True)
running = 0
class Streams(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global running
        self.send_response(200); self.end_headers()
        if self.path == "/stream":
            running += 1
            print("go", file=engine.stdin, flush=True)
            for line in engine.stdout:
                self.wfile.write(line.encode()); self.wfile.flush()
                if line == "whole\\n": break
            running -= 1
    def log_message(self, *_): pass
def drain():
    while running: time.sleep(0.01)
    print("engine lives", engine.poll() is None, flush=True)
    engine.terminate(); engine.wait(); os._exit(0)
def end(*_):
    print("asked", flush=True)
    if ends == "yes": threading.Thread(target=drain).start()
signal.signal(signal.SIGTERM, end)
http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Streams).serve_forever()
"""


# Once it handles the signal, as /proc shows: before, it would end the tests.
ENDS_ITS_PARENT = """
import os, pathlib, signal, time
status = pathlib.Path(f"/proc/{os.getppid()}/status")
while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> signal.SIGTERM - 1 & 1: time.sleep(0.01)
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""


class Stream(threading.Thread):
    """A client that reads a stream; `began` is set at its first token."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port, self.began = port, threading.Event()
        self.lines: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/stream")
        for line in connection.getresponse():
            self.lines.append(line.decode().strip())
            self.began.set()
        connection.close()


@pytest.fixture
def serve_and_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[str], str]]:  # noqa: F811
    """Serve, start a client's stream, send SIGTERM during it: the exit code, the client's tokens, and the server's log."""

    def serve(ends: str = "yes", repeats: int = 0, tokens: int = NUM_TOKENS) -> tuple[int, list[str], str]:
        port = free_port()
        stream = Stream(port)

        def command(served: Served) -> list[str]:
            return [
                sys.executable,
                "-S",
                "-c",
                SERVER_CODE,
                str(server.log),
                str(served.port),
                ENGINE,
                str(tokens),
                ends,
            ]

        def ready(*_: Any) -> None:
            stream.start()
            assert stream.began.wait(60)
            os.kill(os.getpid(), signal.SIGTERM)
            for _number in range(repeats):
                time.sleep(0.02)
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr("loadcheck.serving.server.command", command)
        monkeypatch.setattr(of_cli, "show_ready", ready)
        code = loadcheck(["serve", "q.toml", "--port", str(port), "--run-dir", "kept"])
        stream.join(60)
        return code, stream.lines, Path("kept/load.log").read_text()

    return serve


def _words(log: str, first: str) -> list[str]:
    return next(line for line in log.splitlines() if line.startswith(first + " ")).split()[1:]


def test_a_running_stream_finishes(serve_and_end: Callable[..., tuple[int, list[str], str]]):
    """The client gets every token while the engine is alive; then the server ends, with the verdict's exit code."""
    code, lines, log = serve_and_end()
    assert lines == [*(f"token {number}" for number in range(NUM_TOKENS)), "whole"]
    assert (code, _words(log, "engine")) == (0, ["lives", "True"])
    assert json.loads(Path("kept/verdict.json").read_text())["verdict"] == "pass"


def test_sigterm_delivered_twice_cuts_no_stream(
    serve_and_end: Callable[..., tuple[int, list[str], str]], monkeypatch: pytest.MonkeyPatch
):
    """timeout(1) signals its child, and then the child's group: the second signal does not end the grace period."""
    monkeypatch.setattr("loadcheck.runs.child.REPEAT_S", 60.0)  # "at once" on a busy machine
    code, lines, log = serve_and_end(repeats=2)
    assert (code, lines[-1], log.splitlines().count("asked")) == (0, "whole", 1)


def test_a_terminals_signals_do_not_reach_the_server(serve_and_end: Callable[..., tuple[int, list[str], str]]):
    """Ctrl-C goes to the foreground group. The server and its engine are in another one, and we ask them once."""
    _, _, log = serve_and_end()
    server_pid, _, _, group, of_engine = _words(log, "pids")
    assert group == of_engine == server_pid != str(os.getpgid(0))
    assert log.splitlines().count("asked") == 1


def test_a_server_that_does_not_end_is_killed(
    serve_and_end: Callable[..., tuple[int, list[str], str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """After the grace period the server and its engine are killed, with a message."""
    monkeypatch.setattr("loadcheck.serving.server.SHUTDOWN", Shutdown(signal.SIGTERM, only_leader=True, grace_s=0.2))
    code, lines, log = serve_and_end(ends="no", tokens=MANY_TOKENS)
    assert (code, "whole" in lines) == (0, False)
    assert "the server did not shut down cleanly (exit code -9); see kept/load.log" in capsys.readouterr().out
    for pid in map(int, _words(log, "pids")[:2]):
        with suppress(psutil.NoSuchProcess):
            assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_without_an_answer_nothing_is_judged(
    server: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """If it is ended before the first answer: exit 1, naming who asked for it."""
    monkeypatch.setattr("loadcheck.serving.server.command", lambda _: [sys.executable, "-S", "-c", ENDS_ITS_PARENT])
    assert loadcheck(["serve", "q.toml", "--port", str(free_port()), "--run-dir", "kept"]) == 1
    assert (
        "stopped before the server answered, so its start was not judged; see kept/load.log" in capsys.readouterr().out
    )
