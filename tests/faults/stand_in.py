"""Stands in for the engine's process: prints the log of a real load, and injects a fault at one moment.

python -m tests.faults.stand_in prepare|load RUN_DIR PARENT_PID, with the fault in LOADCHECK_STAND_IN as JSON: `moment` (a key of
MOMENTS), `action` (a function below), `scratch` (the folder through which it and the test signal each other).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from loadcheck.engines.child import die_with_parent
from tests.hastened import hastened

LOG = Path(__file__).resolve().parents[1] / "runs" / "h100" / "reference-train3" / "load.log"
MOMENTS = {
    "weights made": b'"weights_ready"',
    "start": b"detected platform",
    "plan": b"Num Sequences",
    "weights": b"Loading model weights took",
    "profiled": b"PyTorch activation peak",
    "blocks": b"# CUDA blocks",
    "graphs": b"Capturing CUDA graph shapes",
    "ready": b"init engine",
    "adapters": b'"event": "adapters"',
    "answer": b'"event": "answer"',
    "end": b'"event": "peak"',
}
"""Moments of a load, each by a word of the last line printed."""

PATIENCE_S = 60.0
GO_ON = (
    "flood",
    "binary",
    "latin_1",
    "token",
    "token_in_pieces",
    "leave_a_process",
    "leave_a_talker",
    "meet",
    "fill",
    "speak",
)
"""Actions after which the load completes."""


def main(step: str, _run_dir: str, parent: str) -> None:
    """Print the step's part of the log."""
    die_with_parent(int(parent))
    fault = json.loads(os.environ["LOADCHECK_STAND_IN"])
    scratch = Path(fault["scratch"])
    with (scratch / "pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    lines = LOG.read_bytes().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if MOMENTS["weights made"] in line) + 1
    done = 0 if step == "prepare" else sum(map(len, lines[:first]))
    for line in lines[:first] if step == "prepare" else lines[first:]:
        say(hastened(line.decode()).encode())
        done += len(line)
        if not (scratch / "printed").exists() and MOMENTS[fault["moment"]] in line:
            (scratch / "printed").write_text(str(done))
            globals()[fault["action"]](scratch)
            if fault["action"] not in GO_ON:
                sys.exit(f"{fault['action']} came back")
    if step == "load":
        (scratch / "printed").write_text(str(done))


def say(line: bytes) -> None:
    """Write all of it. Once written, the parent can read it, whatever happens to this process."""
    while line:
        line = line[os.write(1, line) :]


def say_as_text(line: bytes) -> None:
    """Print like Python, in the configured encoding."""
    print(line.decode(), end="", flush=True)


# ------------------------------------------------------------------------------------------- what ends the process at once


def kill(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segv(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def abort(_: Path) -> None:
    os.abort()


def fail(_: Path) -> None:
    raise RuntimeError("CUDA error: unspecified launch failure")


def end_early(_: Path) -> None:
    os._exit(0)


def eat_memory(_: Path) -> None:
    """Exceed the control group's limit, page by page."""
    eaten: list[bytearray] = []
    while len(eaten) < 1024:
        eaten.append(bytearray(os.urandom(1) * (1 << 20)))


# ----------------------------------------------------------------------------------------------- what waits for the test


def pause(scratch: Path) -> None:
    (scratch / "here").touch()
    time.sleep(PATIENCE_S)


def hang(scratch: Path) -> None:
    """Block in native code that responds to nothing."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    pause(scratch)


def stop(scratch: Path) -> None:
    (scratch / "here").touch()
    os.kill(os.getpid(), signal.SIGSTOP)


def close_output(scratch: Path) -> None:
    os.close(1)
    os.close(2)
    pause(scratch)


def leave_and_pause(scratch: Path) -> None:
    leave_a_process(scratch)
    pause(scratch)


def leave_and_die(scratch: Path) -> None:
    leave_a_talker(scratch)
    kill(scratch)


def meet(scratch: Path) -> None:
    """Wait until the test has done its part, then continue."""
    (scratch / "here").touch()
    deadline_s = time.monotonic() + PATIENCE_S
    while not (scratch / "go").exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------- what only makes a noise


def flood(_: Path) -> None:
    """Print 200 MB of meaningless lines."""
    piece = b"INFO 11-24 04:46:13 some.py:1] a line that says nothing at all, again and again and again\n" * 12_000
    for _number in range(185):
        say(piece)


def fill(_: Path) -> None:
    """Print more than the run folder's small disk holds."""
    for _number in range(40):
        say(b"INFO 11-24 04:46:13 some.py:1] a line that says nothing at all, again and again and again\n" * 100)


def binary(_: Path) -> None:
    say(b"\xff\xfe\0\x9b[31m" + bytes(range(256)) * 8_000 + b"\n")


def latin_1(_: Path) -> None:
    say("Téléchargement terminé ; größer, ¿qué?\n".encode("latin-1"))


def speak(_: Path) -> None:
    """From here on print text in the environment's encoding."""
    globals()["say"] = say_as_text


def token(_: Path) -> None:
    secret = os.environ["CANARY"]
    say(
        f"WARNING:huggingface_hub: trying again after error 401 for https://user:{secret}@huggingface.co/api (token {secret})\n".encode()
    )


def token_in_pieces(_: Path) -> None:
    for char in f"Authorization: Bearer {os.environ['CANARY']}\n":
        say(char.encode())
        time.sleep(0.002)


def leave_a_process(scratch: Path) -> None:
    """Leave a process in its own group that sleeps with our output open."""
    _leave(scratch, "import time; time.sleep(600)")


def leave_a_talker(scratch: Path) -> None:
    """Leave a process that prints forever."""
    _leave(scratch, "import time\nwhile True: print('still here', flush=True); time.sleep(0.01)")


def _leave(scratch: Path, code: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", code], preexec_fn=os.setpgrp)  # noqa: PLW1509: no threads here
    (scratch / "left").write_text(str(child.pid))


if __name__ == "__main__":
    main(*sys.argv[1:])
