"""Times one run of one way: the seconds of each stage, and the values that must be the same for every way."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadcheck.figures import Kind, figure_specs
from loadcheck.logs import Attempt
from loadcheck.stacks import parse_log
from loadcheck.stacks.unsloth_vllm.startup import DISABLE_VARIABLE, ENABLE_VARIABLE

PROFILE = "llama31-8b-instruct-4bit"
POLL_S = 0.01
PLAIN = Path(__file__).with_name("plain.py")

# The line that ends each stage, in order: unsloth or vLLM prints it in either way.
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
NOT_COMPARED = {spec.attribute for spec in figure_specs().values() if spec.kind is Kind.SECONDS} | {"peak_device_bytes"}
"""Figures that may differ between two loads: times, and the card's peak, a few MiB of which belong to the driver (LOG.md)."""
HASHES = ("adapter_sha256", "token_ids_sha256")
"""The plain script prints these as NAME=VALUE, ours in its events."""
TORCH_BYTES = ("allocated_bytes", "reserved_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "lora_slots_bytes", "adapter_bytes")  # fmt: skip
"""Bytes in our events that do not depend on the driver: two loads with the same settings must agree."""


class Aborted(Exception):  # noqa: N818  # not an error of the benchmark
    """A run without a result."""


class OutOfTime(Exception):  # noqa: N818  # not an error either
    """The benchmark reached its time limit."""


@dataclass(frozen=True)
class Way:
    """How a load is started.

    Attributes:
        name: as in the table.
        plain: whether this is unsloth's script, and not ours.
        settings: each as KEY=VALUE.
        opt_in: the measures for LOADCHECK_START_WITH.
        like: the name of the way whose figures, hashes and bytes it must equal; None if there is none.
        only_warm: whether cold rounds omit it.
    """

    name: str
    plain: bool = False
    settings: tuple[str, ...] = ()
    opt_in: tuple[str, ...] = ()
    like: str | None = None
    only_warm: bool = False

    @property
    def folder(self) -> str:
        return re.sub(r"\W+", "-", self.name)


@dataclass
class Timed:
    """One run: seconds of each stage, in order, and until the first token; bytes from the disk, which show how cold it was; the values to compare."""

    way: str
    disk_read_gb: float = 0.0
    wall_s: float = 0.0
    exit_code: int = 0
    first_token_s: float = 0.0
    stages_s: dict[str, float] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """Settings of all runs. A run is ended at `deadline_s` (of time.monotonic), and after `run_limit_s` of its own."""

    out: Path
    weights: Path | None
    without: str
    deadline_s: float
    run_limit_s: float


def run(way: Way, bench: Bench, name: str, cold: bool) -> Timed:
    """Run a way to its end; Aborted if it has no result."""
    folder = bench.out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log") if way.plain else folder / "load.log"
    log.unlink(missing_ok=True)
    with folder.with_suffix(".log" if way.plain else ".txt").open("wb") as output:
        return _timed(way, command(way, bench, folder), log, output, bench, cold)


def command(way: Way, bench: Bench, folder: Path) -> list[str]:
    if way.plain:
        return [sys.executable, str(PLAIN), str(bench.weights), *way.settings]
    settings = [each.partition("=") for each in way.settings]
    flags = [word for key, _, value in settings for word in (f"--{key.replace('_', '-')}", value)]
    ours = [sys.executable, "-m", "loadcheck", "load", PROFILE, "--weights", "synthetic", "--run-dir", str(folder)]
    return [*ours, *flags]


def environment(way: Way, bench: Bench) -> dict[str, str]:
    variables = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "VLLM_NO_USAGE_STATS": "1"}  # fmt: skip
    return {**os.environ, **variables, DISABLE_VARIABLE: bench.without, ENABLE_VARIABLE: ",".join(way.opt_in)}


def _timed(way: Way, arguments: list[str], log: Path, output: Any, bench: Bench, cold: bool) -> Timed:
    """Run one way to its end, and record when each line of its log appears."""
    variables = environment(way, bench)
    with tempfile.TemporaryDirectory() as kernels:
        if cold:
            forget_files()
            variables["TRITON_CACHE_DIR"] = kernels
        read_bytes, start_unix_s = disk_read_bytes(), time.time()
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        appeared = watch(process, log, way.name, bench)
    read_gb, wall_s = (disk_read_bytes() - read_bytes) / 1e9, time.time() - start_unix_s
    timed = Timed(way.name, round(read_gb, 2), round(wall_s, 3), process.returncode)
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    set_stages(timed, text, appeared, start_unix_s)
    timed.said = values_to_compare(parse_log(log).attempts[-1], text)
    return timed


def watch(process: subprocess.Popen[bytes], log: Path, name: str, bench: Bench) -> list[tuple[int, float]]:
    """(bytes in the log, time) whenever the log has grown, until the process has ended.

    Aborted or OutOfTime if it takes too long; it and its children have been ended by then.
    """
    grown: list[tuple[int, float]] = []
    size, limit_s = 0, time.monotonic() + bench.run_limit_s
    try:
        while process.poll() is None:
            if time.monotonic() > bench.deadline_s:
                raise OutOfTime(f"{name}: the time limit was reached")
            if time.monotonic() > limit_s:
                raise Aborted(f"{name}: took more than {bench.run_limit_s:.0f} s")
            time.sleep(POLL_S)
            now = log.stat().st_size if log.exists() else 0
            if now > size:
                size = now
                grown.append((size, time.time()))
    finally:
        end(process)
    return grown


def end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt it like Ctrl-C, so that our load ends its engine; then kill the rest of its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def set_stages(timed: Timed, text: str, appeared: list[tuple[int, float]], start_unix_s: float) -> None:
    before_s = 0.0
    for stage, pattern in STAGES.items():
        match = re.search(pattern, text)
        if match is None:
            raise Aborted(f"{timed.way}: exit code {timed.exit_code}; the last line of {stage!r} is not in the log")
        stated_s = next((group for group in match.groups() if group), None)
        offset = len(text[: match.start()].encode())
        at_unix_s = float(stated_s) if stated_s else next((at for size, at in appeared if size > offset), time.time())
        timed.stages_s[stage] = round(at_unix_s - start_unix_s - before_s, 3)
        before_s = at_unix_s - start_unix_s
    timed.first_token_s = round(before_s, 3)


def values_to_compare(attempt: Attempt, text: str) -> dict[str, Any]:
    """The values to compare: every figure except those of `NOT_COMPARED`, the hashes, and, for ours, torch's bytes at each stage."""
    found: dict[str, Any] = {name: value for name, value in attempt.figures.known().items() if name not in NOT_COMPARED}
    found |= {name: match[1] for name in HASHES if (match := re.search(rf"^{name}=(\w+)$", text, re.MULTILINE))}
    for line in text.splitlines():
        event = _event(line)
        for name in (*HASHES, *TORCH_BYTES):
            if event.get(name) is not None:
                found[name if name in HASHES else f"{event['event']}.{name}"] = event[name]
    return found


def _event(line: str) -> dict[str, Any]:
    _, mark, data = line.partition('loadcheck: {"event"')
    if not mark:
        return {}
    try:
        event = json.loads('{"event"' + data)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


# ---------------------------------------------------------------------------------------------------------------------- caches


def forget_files() -> None:
    """Drop the files of this Python, its packages and the weights from the page cache."""
    from loadcheck.weights.cache import weights_dir

    os.sync()  # dirty pages would stay in memory
    for folder in (Path(sysconfig.get_path("stdlib")), Path(sys.prefix), weights_dir()):
        for path in folder.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def import_once() -> None:
    """Read all that the plain script imports into memory; our load reads only a part of it."""
    subprocess.run([sys.executable, "-c", "import unsloth"], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False)  # fmt: skip


def disk_read_bytes() -> int:
    """The bytes that all ended children read from a disk (in blocks of 512: Linux, task_io_accounting_ops.h, task_io_get_inblock)."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock * 512
