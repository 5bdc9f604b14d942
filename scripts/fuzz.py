"""Feed damaged logs to the parser and the judgement (`make fuzz`): no crash, no hang, no wrong PASS.

Each input is a real log, randomly damaged in one to six ways. A PASS is wrong if the log is the T4 reference, whose every memory figure and
count has one value, and one of them is read differently. The exception is graph memory, which is fitted to a card, so it may differ if the
log no longer names the card. Failing inputs are kept in build/fuzz.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.figures import Kind, figure_specs
from loadcheck.logs.endings import ENDINGS
from loadcheck.specs.gpu import find_gpu
from loadcheck.stacks import DIALECT, parse_log
from loadcheck.verdict import judge

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "tests" / "runs" / "t4_llama31-8b_reference.txt"
FOUND = ROOT / "build" / "fuzz"
ANCHORS = [*DIALECT.anchors, *(literal for literal, _ in ENDINGS), 'loadcheck: {"event": "', "\x1b[31m"]
NUMBERS = ["0", "-1", "nan", "inf", "1e999", "9" * 400, "0.0000001", "-0.00", "1,2,3", "١٢", "5.3541", "1353"]
JUDGED = {Kind.COUNT, Kind.MEMORY, Kind.PERCENT, Kind.RATIO}
HANG_S = 5

Damage = Callable[[random.Random, str], str]


def flip(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text))
    return text[:at] + chr(rng.choice([rng.randrange(1, 128), rng.randrange(0x2000), 0x1B, 10, 13])) + text[at + 1 :]


def digit(rng: random.Random, text: str) -> str:
    places = [at for at, char in enumerate(text) if char.isdigit()]
    if not places:
        return text
    at = rng.choice(places)
    return text[:at] + rng.choice("0123456789") + text[at + 1 :]


def number(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text))
    while at < len(text) and not text[at].isdigit():
        at += 1
    end = at
    while end < len(text) and (text[end].isdigit() or text[end] == "."):
        end += 1
    return text[:at] + rng.choice(NUMBERS) + text[end:]


def cut(rng: random.Random, text: str) -> str:
    start = rng.randrange(len(text))
    return text[:start] + text[start + rng.randrange(1, 400) :]


def repeat(rng: random.Random, text: str) -> str:
    start = rng.randrange(len(text))
    end = start + rng.randrange(1, 400)
    return text[:end] + text[start:end] * rng.choice([1, 1, 1, 30]) + text[end:]


def swap_lines(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]
    return rng.choice(["\n", "\n", "\r\n", "\r", " "]).join(lines)


def inject(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice(ANCHORS) + rng.choice(NUMBERS) + text[at:]


def truncate(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text)) + 1]


DAMAGES: tuple[Damage, ...] = (flip, flip, digit, digit, digit, number, cut, repeat, swap_lines, inject, truncate)


def seeds() -> list[tuple[str, bool]]:
    """(text, whether it is the reference) of every kept log."""
    logs = [
        *(ROOT / "tests" / "runs").glob("*.txt"),
        *(ROOT / "tests" / "runs").glob("h100/*/load.log"),
    ]
    return [(log.read_text(encoding="utf-8", errors="replace"), log == REFERENCE) for log in sorted(logs)]


def damaged(rng: random.Random, text: str) -> str:
    for _ in range(rng.randrange(1, 7)):
        text = rng.choice(DAMAGES)(rng, text) or "x"
    return text


def judged_values(path: Path) -> dict[str, object]:
    attempt = parse_log(path).last
    specs = figure_specs()
    return {name: value for name, value in attempt.figures.known().items() if specs[name].kind in JUDGED}


def is_misread(path: Path, reference: dict[str, object]) -> bool:
    """Whether a judged figure differs from the reference, except for the graph memory of an unknown card."""
    values = judged_values(path)
    changed = {name for name in {*values, *reference} if values.get(name) != reference.get(name)}
    if find_gpu(str(parse_log(path).last.figures.gpu_name)) is None:
        changed.discard("cuda_graph_bytes")
    return bool(changed)


def _hang(_number: int, _frame: object) -> None:
    raise TimeoutError(f"no answer in {HANG_S} s")


def work(job: tuple[int, int]) -> list[str]:
    """`count` inputs from one random seed; a line for each that failed."""
    seed, count = job
    signal.signal(signal.SIGALRM, _hang)
    rng, logs, wrong = random.Random(seed), seeds(), []
    reference = judged_values(REFERENCE)
    with tempfile.TemporaryDirectory(prefix="loadcheck-fuzz-") as folder:
        path = Path(folder) / "log.txt"
        for n in range(count):
            text, is_reference = rng.choice(logs) if n % 2 else (REFERENCE.read_text(), True)
            path.write_text(damaged(rng, text), encoding="utf-8", errors="replace")
            if (what := problem_with(path, reference if is_reference else None)) is not None:
                keep = FOUND / f"{seed}-{n}.txt"
                keep.parent.mkdir(parents=True, exist_ok=True)
                keep.write_bytes(path.read_bytes())
                wrong.append(f"{keep}: {what}")
    return wrong


def problem_with(path: Path, reference: dict[str, object] | None) -> str | None:
    """What went wrong with this input; None if nothing did."""
    signal.alarm(HANG_S)
    try:
        verdict = judge(gather(path))
        verdict.to_json()
        if verdict.passed and reference is not None and is_misread(path, reference):
            return "a wrong PASS"
    except BadInput:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=20_000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    step = 500
    jobs = [(arguments.seed + number, step) for number in range(-(-arguments.n // step))]
    start_s, wrong, done = time.monotonic(), 0, 0
    with multiprocessing.Pool() as pool:
        for lines in pool.imap_unordered(work, jobs):
            done += step
            wrong += len(lines)
            for line in lines:
                print(line, flush=True)
            if done % 20_000 == 0:
                print(f"{done} inputs, {wrong} wrong, {time.monotonic() - start_s:.0f} s", file=sys.stderr, flush=True)
    print(f"{done} inputs, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
