"""Run the tests that need a GPU, in parts, side by side on the cards of this host; all results go into one folder and one archive.

    python3 scripts/gpu_tests.py KEPT                            (every part in sequence, on the first card)
    python3 scripts/gpu_tests.py KEPT load,traced resume,trained,merged  (two cards: the first runs the parts of the first group, the second those of the second)
    python3 scripts/gpu_tests.py KEPT fleet                      (uses every card)

It needs .venv/dev and .venv/gpu, but no network. After --limit seconds, running tests are interrupted, so that KEPT.tar.gz is written in time.
Exit 0: all requested parts passed, and no test was skipped for lack of a card, make or .venv/gpu. tests/gpu/README.md says what each part shows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GPU = "tests/gpu/"
PARTS = {
    "stack": ["test_serve.py", "test_reach_stack.py", "test_unused.py", "test_kernels.py"],
    "load": ["test_gpu_load.py"],
    "traced": ["test_traced.py"],
    "serve": ["test_serve_for_real.py"],
    "make": ["test_make_serve.py"],
    "resume": ["test_resume.py"],
    "trained": ["test_round_trip.py"],
    "merged": ["test_serve_merged.py"],
    "fleet": ["test_fleet_gpus.py"],
}
ON_ALL_CARDS = "fleet"
SKIPPED_FOR_LACK = re.compile(r"SKIPPED .*(no usable NVIDIA GPU|is not installed$|has no make)")
END_S = 25
"""The time that an interrupted session has to end what it started."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path, metavar="KEPT")
    parser.add_argument("groups", nargs="*", metavar="PART,…", default=[",".join(PARTS)])
    parser.add_argument("--limit", type=float, default=570.0, metavar="SECONDS")
    options = parser.parse_args()
    groups = [word.split(",") for word in options.groups]
    if unknown := {part for parts in groups for part in parts} - {*PARTS}:
        parser.error(f"{', '.join(sorted(unknown))}: unknown part; known: {', '.join(PARTS)}")
    if len(groups) > 1 and any(ON_ALL_CARDS in parts for parts in groups):
        parser.error(f"{ON_ALL_CARDS} uses every card: run it by itself")
    cards = uuids()
    if len(groups) > max(1, len(cards)):
        parser.error(f"{len(groups)} groups for {len(cards)} cards")
    kept: Path = options.kept.absolute()
    kept.mkdir(parents=True, exist_ok=True)
    codes = run(
        [(parts, kept / f"pytest-{'-'.join(parts)}.txt", card(parts, cards, at)) for at, parts in enumerate(groups)],
        kept,
        options.limit,
    )
    print(
        f"kept in {shutil.make_archive(str(kept), 'gztar', kept.parent, kept.name)[: -len('.tar.gz')]}.tar.gz",
        flush=True,
    )
    return max(codes)


def card(parts: list[str], cards: list[str], at: int) -> str | None:
    """The card of a session; None for the one that uses all, or if there is none."""
    return None if ON_ALL_CARDS in parts or not cards else cards[at]


def uuids() -> list[str]:
    """The UUIDs of this host's GPUs, by NVML in the stack's environment."""
    code = "import json; from loadcheck.device import read_gpus; print(json.dumps([uuid for uuid, _ in read_gpus()]))"
    completed = subprocess.run(
        [str(ROOT / ".venv/gpu/bin/python"), "-c", code], capture_output=True, text=True, check=False
    )
    found: list[str] = json.loads(completed.stdout or "[]")
    return found


def run(sessions: list[tuple[list[str], Path, str | None]], kept: Path, limit_s: float) -> list[int]:
    """Run the sessions side by side; returns their exit codes."""
    deadline_s = time.monotonic() + limit_s
    running = [start(parts, output, gpu, kept) for parts, output, gpu in sessions]
    for process in running:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            print("time limit reached: interrupted", flush=True)
            interrupt(running)
    return [show_results(output, process.returncode) for (_, output, _), process in zip(sessions, running, strict=True)]


def start(parts: list[str], output: Path, gpu: str | None, kept: Path) -> subprocess.Popen[bytes]:
    tests = [GPU + name for part in parts for name in PARTS[part]]
    command = [
        str(ROOT / ".venv/dev/bin/python"),
        "-X",
        "utf8",
        "-m",
        "pytest",
        "-n",
        "0",
        "-v",
        "--durations",
        "0",
        "-p",
        "no:cacheprovider",
    ]
    env = {**os.environ, "LOADCHECK_KEEP": str(kept)} | ({"LOADCHECK_GPU": gpu} if gpu else {})
    print(f"{', '.join(parts)} on {gpu or 'every card'}: {output}", flush=True)
    with output.open("wb") as out:
        return subprocess.Popen(
            [*command, *tests], cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def interrupt(running: list[subprocess.Popen[bytes]]) -> None:
    """Interrupt each session like Ctrl-C, so that fixtures end what they started; kill those that remain."""
    for process in running:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
    deadline_s = time.monotonic() + END_S
    for process in running:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def show_results(output: Path, code: int) -> int:
    """Print how each test ended; returns the exit code, or 1 if a requested test was skipped."""
    text = output.read_text(encoding="utf-8", errors="replace")
    lines = [
        line
        for line in text.splitlines()
        if re.search(r" (PASSED|FAILED|ERROR|SKIPPED)|^(E  |FAILED|ERROR|SKIPPED|=+ .* in )|s (call|setup) ", line)
    ]
    print(f"\n{output.name}: exit code {code}", *lines[-150:], sep="\n", flush=True)
    return code or int(bool(re.search(SKIPPED_FOR_LACK.pattern, text, re.MULTILINE)))


if __name__ == "__main__":
    sys.exit(main())
