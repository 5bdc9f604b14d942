"""Time from start to first token, stage by stage: unsloth's own script against `loadcheck load`, one after the other.

python scripts/bench [--out DIR] [--rounds N] [--cold] [--set KEY=VALUE]... [--also KEY=VALUE] [--without MEASURE,...]

Each round is a run of one, then of the other (and with --also, ours once more with that setting), on the same weights: synthetic,
made before the first round. DIR gets a log and a run folder of each run, bench.json and table.md. Exit code 1 where a figure of the
two differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from loadcheck.device import read_gpu
from loadcheck.figures import Figures, Kind, figure_specs
from loadcheck.stacks import parse_log
from loadcheck.stacks.unsloth_vllm.startup import DISABLE_VARIABLE

PROFILE = "llama31-8b-instruct-4bit"
POLL_S = 0.01
PLAIN = Path(__file__).with_name("plain.py")

# What ends each stage, in order: a line of unsloth's or vLLM's that both ways print.
STAGES = {
    "interpreter and imports": r"Unsloth \S+: Fast \w+ patching",
    "config and model's class": r"Initializing a V0 LLM engine",
    "engine": r"Starting to load model",
    "weights": r"Loading model weights took",
    "LoRA slots, profile run": r"Memory profiling takes",
    "KV cache, swap space": r"Capturing cudagraphs for decoding",
    "CUDA graphs": r"Graph capturing finished",
    "Hugging Face side, adapters": r"patched \d+ layers with",
    "first token": r"first token at ([\d.]+)|\"first_token_unix_s\": ([\d.]+)",
}
TIMES = {spec.attribute for spec in figure_specs().values() if spec.kind is Kind.SECONDS}


@dataclass
class Timed:
    """One run: seconds of each stage, in order, and to the first token; and what came from the disk, which says how cold it was."""

    way: str
    disk_read_bytes: int
    stages_s: dict[str, float] = field(default_factory=dict)
    first_token_s: float = 0.0
    figures: Figures = field(default_factory=Figures)


def main() -> int:
    options = read_options()
    gpu = read_gpu()
    if gpu is None:
        print("Error: this machine: no usable NVIDIA GPU; run the bench where nvidia-smi lists one", file=sys.stderr)
        return 3
    options.out.mkdir(parents=True, exist_ok=True)
    weights = options.weights or prepare(options)
    rounds: list[list[Timed]] = []
    for number in range(1, options.rounds + 1):
        rounds.append(run_round(options, number, weights))
        print(f"round {number}: " + ", ".join(f"{run.way} {run.first_token_s:.1f} s" for run in rounds[-1]), flush=True)
        report = summary(options, gpu.name, rounds)  # of the rounds so far: a bench that is cut short keeps them
        (options.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (options.out / "table.md").write_text(table(report), encoding="utf-8")
    print(table(report))
    for text in report["differing_figures"]:
        print(f"Error: {text}", file=sys.stderr)
    return 1 if report["differing_figures"] else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--cold", action="store_true", help="forget files that were read, and compiled kernels, before each run"
    )
    parser.add_argument("--weights", type=Path, help="the weights, where an earlier bench has made them")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of both")
    parser.add_argument(
        "--also", action="append", default=[], metavar="KEY=VALUE", help="ours once more, with this setting"
    )
    parser.add_argument("--without", default="", help=f"measures to leave out, as {DISABLE_VARIABLE} names them")
    return parser.parse_args()


# -------------------------------------------------------------------------------------------------------------------- running


def prepare(options: argparse.Namespace) -> Path:
    """Load once, uncounted: the weights are made, and compiled kernels are where either way finds them."""
    run_ours("loadcheck", options.out / "ours-0", options, [])
    return Path(json.loads((options.out / "ours-0" / "weights.json").read_text(encoding="utf-8"))["directory"])


def run_round(options: argparse.Namespace, number: int, weights: Path) -> list[Timed]:
    log = options.out / f"plain-{number}.log"
    command = [sys.executable, PLAIN, weights, *options.set]
    with log.open("wb") as output:
        runs = [timed("plain script", command, log, output, options)]
    runs.append(run_ours("loadcheck", options.out / f"ours-{number}", options, []))
    if options.also:
        runs.append(
            run_ours(f"loadcheck, {', '.join(options.also)}", options.out / f"also-{number}", options, options.also)
        )
    return runs


def run_ours(way: str, folder: Path, options: argparse.Namespace, also: list[str]) -> Timed:
    settings = [each.partition("=") for each in (*options.set, *also)]
    flags = [word for key, _, value in settings for word in (f"--{key.replace('_', '-')}", value)]
    command = [
        sys.executable,
        "-m",
        "loadcheck",
        "load",
        PROFILE,
        "--weights",
        "synthetic",
        "--run-dir",
        folder,
        *flags,
    ]
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".txt").open("wb") as output:
        return timed(way, command, folder / "load.log", output, options)


def timed(way: str, command: list[Any], log: Path, output: Any, options: argparse.Namespace) -> Timed:
    """Run one way to its end, and note when each line of its log appears."""
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        DISABLE_VARIABLE: options.without,
    }
    with tempfile.TemporaryDirectory() as kernels:
        if options.cold:
            forget_files()
            environment["TRITON_CACHE_DIR"] = kernels
        read_bytes = disk_read_bytes()
        start_unix_s = time.time()
        process = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        appeared = watch(process, log)
    if process.returncode:
        print(f"Error: {way}: exit code {process.returncode}; see {log}", file=sys.stderr)
    run = Timed(way, disk_read_bytes() - read_bytes, figures=parse_log(log).attempts[-1].figures)
    set_stages(run, log.read_text(encoding="utf-8", errors="replace"), appeared, start_unix_s)
    return run


def watch(process: subprocess.Popen[bytes], log: Path) -> list[tuple[int, float]]:
    """(bytes in the log, time) each time that it has grown, until the process has ended."""
    grown: list[tuple[int, float]] = []
    size = 0
    while process.poll() is None:
        time.sleep(POLL_S)
        now = log.stat().st_size if log.exists() else 0
        if now > size:
            size = now
            grown.append((size, time.time()))
    return grown


def set_stages(run: Timed, text: str, appeared: list[tuple[int, float]], start_unix_s: float) -> None:
    before_s = 0.0
    for stage, pattern in STAGES.items():
        match = re.search(pattern, text)
        if match is None:
            raise SystemExit(f"Error: {run.way}: {stage}: its last line is not in the log; the load did not get there")
        told = next((group for group in match.groups() if group), None)
        offset = len(text[: match.start()].encode())
        at_unix_s = float(told) if told else next(at for size, at in appeared if size > offset)
        run.stages_s[stage] = round(at_unix_s - start_unix_s - before_s, 3)
        before_s = at_unix_s - start_unix_s
    run.first_token_s = round(before_s, 3)


def forget_files() -> None:
    """Drop what was read of this Python, its packages and the weights from the page cache."""
    from loadcheck.weights.cache import weights_dir

    os.sync()  # what is not yet on the disk stays in memory
    for folder in (Path(sysconfig.get_path("stdlib")), Path(sys.prefix), weights_dir()):
        for path in folder.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def disk_read_bytes() -> int:
    """What all children that have ended had to read from a disk (in blocks of 512: Linux, task_io_accounting_ops.h, task_io_get_inblock)."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock * 512


# ------------------------------------------------------------------------------------------------------------------ comparing


def differences(rounds: list[list[Timed]]) -> list[str]:
    """Each figure that the two ways of a round, at the same settings, do not have in common."""
    found = []
    for number, (plain, ours, *_) in enumerate(rounds, 1):
        mine = ours.figures.known()
        for name, value in plain.figures.known().items():
            if name not in TIMES and mine.get(name) != value:
                found.append(f"round {number}: {name}: plain {value}, ours {mine.get(name)}")
    return found


def summary(options: argparse.Namespace, gpu: str, rounds: list[list[Timed]]) -> dict[str, Any]:
    ways = list(zip(*rounds, strict=True))
    first_token_s = [median(run.first_token_s for run in way) for way in ways]
    return {
        "gpu": gpu,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "cold": options.cold,
        "settings": {"both": options.set, "also": options.also, "without": options.without},
        "ways": [way[0].way for way in ways],
        "first_token_s": [round(value, 2) for value in first_token_s],
        "ratio": [round(value / first_token_s[0], 3) for value in first_token_s],
        "stages_s": {stage: [round(median(run.stages_s[stage] for run in way), 2) for way in ways] for stage in STAGES},
        "differing_figures": differences(rounds),
        "rounds": [
            [
                {
                    "way": run.way,
                    "first_token_s": run.first_token_s,
                    "disk_read_gb": round(run.disk_read_bytes / 1e9, 2),
                    "stages_s": run.stages_s,
                }
                for run in each
            ]
            for each in rounds
        ],
    }


def commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout if shutil.which("git") else ""
    return found.strip() or os.environ.get("LOADCHECK_COMMIT", "unknown")


def table(report: dict[str, Any]) -> str:
    caches = "cold" if report["cold"] else "warm"
    heading = f"Medians of {len(report['rounds'])} rounds, {report['gpu']}, {report['date']}, commit {report['commit']}, {caches} caches."
    rows = [
        ("seconds", *report["ways"]),
        ("---", *["---:"] * len(report["ways"])),
        *((stage, *(f"{value:.1f}" for value in values)) for stage, values in report["stages_s"].items()),
        ("start to first token", *(f"{value:.1f}" for value in report["first_token_s"])),
        ("ratio", *(f"{value:.2f}" for value in report["ratio"])),
    ]
    return heading + "\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    raise SystemExit(main())
