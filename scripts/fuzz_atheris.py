"""Coverage-guided fuzzing (`make fuzz-atheris`) of untrusted input: no crash, no hang, bounded memory.

fuzz_atheris.py log|run|profile [arguments of libFuzzer, such as -max_total_time=60]. Inputs that make a target fail are kept in build/fuzz.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["loadcheck"]):
    from loadcheck.checking import gather
    from loadcheck.errors import BadInput
    from loadcheck.loading import judge_folder
    from loadcheck.plan import make_plan, plan_to_json
    from loadcheck.specs.profile import load_profile
    from loadcheck.verdict import judge

ROOT = Path(__file__).resolve().parents[1]
FOUND = ROOT / "build" / "fuzz"
RUNS = ROOT / "tests" / "runs"
H100 = RUNS / "h100" / "reference-train3"
LIMITS = ("-max_total_time=60", "-timeout=10", "-rss_limit_mb=1024", "-max_len=65536")
SCRATCH = (
    FOUND / f"scratch-{sys.argv[1] if len(sys.argv) > 1 else ''}"
)  # libFuzzer ends the process abruptly, so this is cleared at the next start


def log(data: bytes) -> None:
    """parse and check of a file."""
    path = SCRATCH / "log"
    path.write_bytes(data)
    with suppress(BadInput):
        json.dumps(judge(gather(path)).to_json(), allow_nan=False)


def run(data: bytes) -> None:
    """report of a run folder: run.json, a NUL, load.log."""
    record, _, text = data.partition(b"\0")
    (SCRATCH / "run.json").write_bytes(record)
    (SCRATCH / "load.log").write_bytes(text)
    with suppress(BadInput):
        loaded = judge_folder(SCRATCH)
        json.dumps(loaded.to_json(), allow_nan=False)
        if loaded.verdict.passed and loaded.record.outcome != "completed":
            raise AssertionError("a PASS of a run that did not end by itself")


def profile(data: bytes) -> None:
    """A profile, up to its plan."""
    path = SCRATCH / "p.toml"
    path.write_bytes(data)
    with suppress(BadInput):
        json.dumps(plan_to_json(make_plan(load_profile(str(path)))), allow_nan=False)


def seeds(target: str) -> list[bytes]:
    if target == "log":
        return [path.read_bytes() for path in (*RUNS.glob("*.txt"), *RUNS.glob("h100/*/load.log"))]
    if target == "run":
        return [
            (each / "run.json").read_bytes() + b"\0" + (each / "load.log").read_bytes() for each in RUNS.glob("h100/*")
        ]
    return [path.read_bytes() for path in (ROOT / "env" / "profiles").glob("*.toml")]


TARGETS: dict[str, Callable[[bytes], None]] = {"log": log, "run": run, "profile": profile}


def main() -> None:
    target = sys.argv[1] if len(sys.argv) > 1 else ""
    if target not in TARGETS:
        sys.exit(f"give a target: {', '.join(TARGETS)}")
    shutil.rmtree(SCRATCH, ignore_errors=True)
    corpus = SCRATCH / "corpus"
    corpus.mkdir(parents=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / str(number)).write_bytes(seed)
    os.chdir(ROOT)
    atheris.Setup(
        [sys.argv[0], *LIMITS, f"-artifact_prefix={FOUND}/{target}-", *sys.argv[2:], str(corpus)], TARGETS[target]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
