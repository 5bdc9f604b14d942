"""A server's process from its start to its end: watched until it answers, its start judged by its log, ended with grace."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loadcheck.checking import gather
from loadcheck.errors import BadInput, Problem
from loadcheck.findings.finding import Check, Finding, Status, Verdict
from loadcheck.loading import child_environment
from loadcheck.predict.account import Prediction
from loadcheck.runs.child import ChildEnd, run_child, start_child
from loadcheck.runs.folder import RunFolder, write_json
from loadcheck.runs.secrets import secrets
from loadcheck.runs.sink import LogSink
from loadcheck.serving.key import ApiKey
from loadcheck.stacks.serving import SERVER, SERVING_STACK, Served, argv, environment
from loadcheck.verdict import judge

GRACE_S = 30.0
"""How long requests that run may go on once the server is asked to end."""
POLL_S = 0.5
LOOPBACK = ("127.0.0.1", "::1", "localhost")
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104: asked for by the user, and warned of

Ready = Callable[[Verdict], None]


def command(served: Served) -> list[str]:
    """The server's process; it ends when this one does."""
    return [sys.executable, "-m", "loadcheck.engines.served", str(os.getpid()), SERVER, *argv(served)]


def check_port(host: str, port: int) -> None:
    """BadInput where nothing can listen there: the port is in use, or the host is none of this machine's."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(1)
    except OSError as error:
        what = f"{host}:{port} cannot be listened on ({error.strerror})"
        raise BadInput(Problem("command line", what, "end what uses it, or give another --port", "--port")) from None


@dataclass(slots=True)
class Watch:
    """Waits, beside the server, until it answers; then its start is judged and kept, and `ready` is called once."""

    served: Served
    folder: RunFolder
    prediction: Prediction
    ready: Ready
    ended: threading.Event
    verdict: Verdict | None = None

    def run(self) -> None:
        while not self.ended.wait(POLL_S):
            if self._answers():
                self.verdict = judge_start(self.folder.log_path, self.prediction)
                write_json(self.folder.verdict_path, self.verdict.to_json())
                self.ready(self.verdict)
                return

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


def serve(served: Served, key: ApiKey, prediction: Prediction, folder: RunFolder, ready: Ready,
          on_output: Callable[[bytes], None]) -> tuple[ChildEnd, Verdict | None]:  # fmt: skip
    """Run the server to its end or ours; gives how it ended, and the verdict on its start, None where it never answered.

    Its log is server.log's place in the folder, without the key.
    """
    env = environment(child_environment(), key.text, key.expires_unix_s, folder.verdict_path)
    sink = LogSink(folder.log_path, tuple({key.text, *secrets(env)}))
    watch = Watch(served, folder, prediction, ready, threading.Event())
    thread = threading.Thread(target=watch.run, daemon=True)
    try:
        end = run_child(start_child(command(served), env), sink, lambda _: thread.start(), on_output, GRACE_S)
    finally:
        watch.ended.set()
        if thread.is_alive():
            thread.join(timeout=10)
        sink.close()
        folder.release_reserve()
    return end, watch.verdict


def judge_start(log: Path, prediction: Prediction) -> Verdict:
    """The engine's own lines against each other, and the weights against the prediction; a log that says nothing proves nothing."""
    try:
        evidence = gather(log)
    except BadInput as error:
        return Verdict((Finding(figure="log", check=Check.SHAPE, status=Status.FAIL, why=str(error)),))
    found = judge(replace(evidence, stack=SERVING_STACK, profile=None, expected=None))
    return Verdict(
        (*found.findings, _weights(evidence.attempt.figures.weights_bytes, prediction.figures.weights_bytes))
    )


WEIGHTS_STEP_BYTES = 110_000
"""Half a digit of the four that the engine prints of a GiB, twice."""


def _weights(measured: int | None, predicted: int | None) -> Finding:
    if measured is None or predicted is None:
        return Finding(
            figure="weights_gib", check=Check.MODEL, status=Status.SKIPPED, why="the weights are not in the log"
        )
    ok = abs(measured - predicted) <= WEIGHTS_STEP_BYTES
    why = f"the weights take {measured:,} bytes, and {predicted:,} were predicted"
    remedy = "" if ok else "it is another model than the one that was asked for"
    return Finding(
        figure="weights_gib", check=Check.MODEL, status=Status.OK if ok else Status.FAIL, why=why, remedy=remedy
    )
