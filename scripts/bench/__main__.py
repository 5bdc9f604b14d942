"""Compare the time from start to first token, stage by stage: unsloth's own script and `loadcheck load`, one after the other.

python -m scripts.bench [--out DIR] [--rounds N] [--cold-rounds N] [--plain-rounds N] [--limit-s S] [--continue] [--with MEASURE,...] ...

A warm round runs the plain script, ours, ours with few sequences (--also), the last two again with the opt-in measures (--with), and the last
once more with a measure that may cost time (--trial). A cold round has the plain script and ours, with opt-in measures if there are any. All use
the same synthetic weights, made before the first round. A round begins only if it is expected to end before the limit; a run that exceeds the
limit is ended. DIR gets a log and a run folder of each run, and after each round bench.json and table.md of all rounds; --continue adds to
them. A way that fails is missing from its round. Exit code 1 if something differs that must not, or a run failed; 4 if rounds are left.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loadcheck.device import read_gpu
from loadcheck.stacks.unsloth_vllm.startup import DISABLE_VARIABLE, ENABLE_VARIABLE, OPT_IN
from scripts.bench.reporting import PLAIN, Rounds, differences, medians, table
from scripts.bench.timing import Aborted, Bench, OutOfTime, Timed, Way, import_once, run

KINDS = ("warm", "cold")
ASSUMED_S = {True: 90.0, False: 30.0}
"""The expected time of the plain script, and of ours, before either has run (H200)."""
LEFT = 4
TRIAL = "huge_pages"


@dataclass
class State:
    """The state of the benchmark: complete rounds, failures, and the rounds that are left."""

    rounds: Rounds
    failures: list[str]
    left: list[str]


def main() -> int:
    options = read_options()
    gpu = read_gpu()
    if gpu is None:
        print(
            "Error: this machine: no usable NVIDIA GPU; run the benchmark where nvidia-smi lists one", file=sys.stderr
        )
        return 3
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    deadline_s = time.monotonic() + options.limit_s
    options.out.mkdir(parents=True, exist_ok=True)
    ways = ways_of(options)
    state = saved_state(options.out) if options.resume else State({}, [], [])
    metadata = {"gpu": gpu.name, "driver_cuda": gpu.driver_cuda, "date": time.strftime("%Y-%m-%d"), "commit": commit(),
             "settings": {"both": options.set, "also": options.also, "with": options.opt_in, "trial": options.trial, "without": options.without}}  # fmt: skip

    def save() -> None:
        write(options.out, metadata, ways, state)

    try:
        bench = prepare(options, deadline_s)
        run_rounds(options, bench, ways, state, save)
    except (Aborted, OutOfTime, KeyboardInterrupt) as error:
        state.failures.append(str(error) or "the user ended it")
    save()
    print((options.out / "table.md").read_text(encoding="utf-8"))
    wrong = [*differences(state.rounds, ways), *state.failures]
    for text in wrong:
        print(f"Error: {text}", file=sys.stderr)
    print("".join(f"Left: {text}\n" for text in state.left), end="", file=sys.stderr)
    return 1 if wrong else LEFT if state.left else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=3, help="warm ones")
    parser.add_argument("--cold-rounds", type=int, default=2, help="read files and compiled kernels are dropped before each run")  # fmt: skip
    parser.add_argument("--plain-rounds", type=int, default=2, help="how many rounds of each kind have the plain script, the longest")  # fmt: skip
    parser.add_argument("--run-limit-s", type=float, default=240.0, help="for one run")
    parser.add_argument("--limit-s", type=float, default=780.0, help="for all of it")
    parser.add_argument("--continue", dest="resume", action="store_true", help="keep the complete rounds in DIR, and run the rest")  # fmt: skip
    parser.add_argument("--weights", type=Path, help="the weights, if an earlier benchmark has made them")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all ways")
    parser.add_argument("--also", default="conservativeness=0.041", metavar="KEY=VALUE", help="run ours again with this setting; empty: do not")  # fmt: skip
    parser.add_argument("--with", dest="opt_in", default=",".join(name for name in OPT_IN if name != TRIAL), help=f"opt-in measures of two further ways, in the format of {ENABLE_VARIABLE}; empty: none")  # fmt: skip
    parser.add_argument("--trial", default=TRIAL, help="an opt-in measure that may cost time: run the last of these ways again with it, warm; empty: do not")  # fmt: skip
    parser.add_argument(
        "--without", default="", help=f"measures to switch off in ours, in the format of {DISABLE_VARIABLE}"
    )
    return parser.parse_args()


def ways_of(options: argparse.Namespace) -> list[Way]:
    """All ways, the plain script first: the others' times are given as fractions of its time."""
    both, also = tuple(options.set), (options.also,) if options.also else ()
    opt_in = tuple(name for name in options.opt_in.split(",") if name)
    ways = [Way(PLAIN, plain=True, settings=both), Way("ours", settings=both, like=PLAIN)]
    if also:
        ways.append(Way("few sequences", settings=both + also))
    if opt_in:
        ways += [Way(f"{way.name} + opt-in", False, way.settings, opt_in, way.name) for way in ways[1:]]
    if options.trial:
        last = ways[-1]
        ways.append(Way(f"{last.name} + {options.trial}", False, last.settings, (*last.opt_in, options.trial), last.name, only_warm=True))  # fmt: skip
    return ways


def ways_in(ways: Sequence[Way], kind: str, with_plain: bool) -> list[Way]:
    """The ways of a round. A cold one is long, so it has only the plain script and those with opt-in measures, if there are any."""
    opt_in = [way for way in ways if way.opt_in and not way.only_warm]
    chosen = [way for way in ways if way.plain] + opt_in if kind == "cold" and opt_in else ways
    return [way for way in chosen if (with_plain or not way.plain) and (kind == "warm" or not way.only_warm)]


# ---------------------------------------------------------------------------------------------------------------------- rounds


def prepare(options: argparse.Namespace, deadline_s: float) -> Bench:
    """If there are no weights yet, load once, not counted: this makes them, and compiles the kernels for either way."""
    bench = Bench(options.out, options.weights, options.without, deadline_s, options.run_limit_s)
    found = options.out / "ours-0" / "weights.json"
    if bench.weights is None and not (options.resume and found.exists()):
        opt_in = (
            ("kernels",) if "kernels" in options.opt_in.split(",") else ()
        )  # it leaves its marker beside the kernels
        run(Way("ours", settings=tuple(options.set), opt_in=opt_in), bench, "ours-0", cold=False)
    weights = bench.weights or Path(json.loads(found.read_text(encoding="utf-8"))["directory"])
    return replace(bench, weights=weights)


def run_rounds(
    options: argparse.Namespace, bench: Bench, ways: Sequence[Way], state: State, save: Callable[[], None]
) -> None:
    """Run the wanted rounds that are not there yet, until the time limit."""
    wanted = {"warm": options.rounds, "cold": options.cold_rounds}
    todo = [(kind, n) for kind in KINDS for n in range(len(state.rounds.get(kind, [])) + 1, wanted[kind] + 1)]
    state.left = [f"{kind} round {number}" for kind, number in todo]
    if any(kind == "warm" for kind, _ in todo):
        import_once()
    for kind, number in todo:
        chosen = ways_in(ways, kind, number <= options.plain_rounds)
        if time.monotonic() + expected_s(state.rounds.get(kind, []), chosen) > bench.deadline_s:
            return
        try:
            runs = run_round(bench, chosen, kind, number, state)
        except OutOfTime:
            return
        finally:
            save()
        state.rounds.setdefault(kind, []).append(runs)
        state.left.remove(f"{kind} round {number}")
        print(f"{kind} round {number}: " + ", ".join(f"{each.way} {each.first_token_s:.1f} s" for each in runs), flush=True)  # fmt: skip
        save()


def run_round(bench: Bench, ways: Sequence[Way], kind: str, number: int, state: State) -> list[Timed]:
    """One run of each way; a failed run is reported and omitted. OutOfTime at the benchmark's limit."""
    runs = []
    for way in ways:
        try:
            runs.append(run(way, bench, f"{kind}-{number}-{way.folder}", kind == "cold"))
        except Aborted as error:
            state.failures.append(f"{kind} round {number}: {error}")
    return runs


def expected_s(rounds: Sequence[Sequence[Timed]], ways: Sequence[Way]) -> float:
    """The expected time of a round of these ways: each way's longest so far, and a little more, as runs end shortly after their process."""
    longest: dict[str, float] = {}
    for runs in rounds:
        for each in runs:
            longest[each.way] = max(each.wall_s, longest.get(each.way, 0.0))
    return 1.05 * sum(longest.get(way.name, ASSUMED_S[way.plain]) for way in ways)


# ----------------------------------------------------------------------------------------------------------------------- files


def write(out: Path, metadata: dict[str, Any], ways: Sequence[Way], state: State) -> None:
    heading = f"{metadata['gpu']}, {metadata['date']}, commit {metadata['commit']}."
    report = {
        **metadata,
        "medians_s": {kind: medians(each) for kind, each in state.rounds.items()},
        "differing": differences(state.rounds, ways),
        "failures": state.failures,
        "left": state.left,
        "rounds": {kind: [[asdict(run) for run in each] for each in rounds] for kind, rounds in state.rounds.items()},
    }
    _replace(out / "bench.json", json.dumps(report, indent=1) + "\n")
    _replace(out / "table.md", table(state.rounds, heading))


def _replace(path: Path, text: str) -> None:
    """Replace the file atomically, as it is written again after each round."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def saved_state(out: Path) -> State:
    """The complete rounds of an earlier benchmark in this folder."""
    path = out / "bench.json"
    if not path.exists():
        return State({}, [], [])
    data = json.loads(path.read_text(encoding="utf-8"))
    return State({kind: [[Timed(**run) for run in each] for each in rounds] for kind, rounds in data["rounds"].items()}, data["failures"], [])  # fmt: skip


def commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout if shutil.which("git") else ""
    return found.strip() or os.environ.get("LOADCHECK_COMMIT", "unknown")


if __name__ == "__main__":
    raise SystemExit(main())
