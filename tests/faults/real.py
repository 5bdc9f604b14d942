"""Faults of the weights, with the real engine on the CPU: SmolLM2 in 4-bit, about 20 s per load."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from loadcheck.plan import make_plan
from loadcheck.specs.profile import load_profile
from loadcheck.weights import synthetic
from loadcheck.weights.cache import MANIFEST
from loadcheck.weights.lock import hash_files, to_json
from tests.faults.injectors import ROOT
from tests.faults.results import Seen

LOADCHECK = ROOT / ".venv" / "cpu" / "bin" / "loadcheck"
WEIGHTS = "model.safetensors"
Damage = Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFault:
    """One kind of damage to a checkpoint.

    Attributes:
        damage: applied to the folder of the weights.
        is_own: whether the folder is the user's (`--weights local`); otherwise it is the cache's.
        says: words that loadcheck must print.
    """

    name: str
    what: str
    damage: Damage
    is_own: bool
    outcome: str
    exit_code: int
    says: str


def flip(directory: Path) -> None:
    """Change one byte in the middle."""
    with (directory / WEIGHTS).open("r+b") as file:
        file.seek((directory / WEIGHTS).stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def truncate(directory: Path) -> None:
    os.truncate(directory / WEIGHTS, (directory / WEIGHTS).stat().st_size // 2)


def break_header(directory: Path) -> None:
    """Break the header but keep it JSON, so that the engine finds it; a file that is not safetensors is refused before a load."""
    with (directory / WEIGHTS).open("r+b") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        file.seek(8)
        file.write(header.replace(b'"data_offsets"', b'"data_0ffsets"', 1))


def overwrite(directory: Path) -> None:
    """Fill the largest tensor with noise, as a bad disk would: the file is complete, and every shape is right."""
    with (directory / WEIGHTS).open("r+b") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
        tensors = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        start, end = max(tensors, key=lambda offsets: offsets[1] - offsets[0])
        file.seek(8 + header_bytes + start)
        file.write(random.Random(1).randbytes(end - start))


def swap(directory: Path) -> None:
    """Swap in another complete checkpoint with the same shapes: no size and no hash of its own reveals it."""
    plan = make_plan(load_profile("smollm2-135m-cpu", {"weights": "synthetic"}))
    other = synthetic.prepare(plan, directory.parent / "other")
    shutil.rmtree(directory)
    shutil.copytree(other, directory)
    _sign(directory)


def shorten(directory: Path) -> None:
    """Swap in a checkpoint of the same name with one layer fewer."""
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] - 1}))
    _sign(directory)


def _sign(directory: Path) -> None:
    (directory / MANIFEST).unlink(missing_ok=True)
    (directory / MANIFEST).write_bytes(to_json(hash_files(directory)))


REAL_FAULTS = (
    WeightsFault(name="cache-corrupt", what="a byte of the cached weights is flipped: they are made anew",
                 damage=flip, is_own=False, outcome="completed", exit_code=0, says="PASS"),
    WeightsFault(name="cache-truncated", what="the cached weights are cut short: they are made anew",
                 damage=truncate, is_own=False, outcome="completed", exit_code=0, says="PASS"),
    WeightsFault(name="cache-swapped", what="another checkpoint of the same shape lies in the cache, with hashes of its own",
                 damage=swap, is_own=False, outcome="completed", exit_code=1, says="must name Paris"),
    WeightsFault(name="cache-of-another-shape", what="a checkpoint of another shape lies in the cache, with hashes of its own",
                 damage=shorten, is_own=False, outcome="completed", exit_code=1, says="FAIL weights_gib"),
    WeightsFault(name="own-header-corrupt", what="the header of the user's own safetensors file is broken",
                 damage=break_header, is_own=True, outcome="failed", exit_code=1, says="a weights file is damaged"),
    WeightsFault(name="own-truncated", what="the user's own safetensors file is cut short",
                 damage=truncate, is_own=True, outcome="failed", exit_code=1, says="a weights file is damaged"),
    WeightsFault(name="own-overwritten", what="the user's own embeddings are noise, in a file that is whole",
                 damage=overwrite, is_own=True, outcome="completed", exit_code=1, says="must name Paris"),
)  # fmt: skip


def run_real(fault: WeightsFault, warm: Path, base: Path) -> Seen:
    """Load with a damaged copy of the weights in `warm`; AssertionError if a check fails."""
    cache, run = base / "cache", base / "run"
    source = next(warm.glob("smollm2-*"))
    directory = base / "own" / "smollm2-135m-instruct-bnb-4bit" if fault.is_own else cache / "weights" / source.name
    shutil.copytree(source, directory)
    fault.damage(directory)
    own = ("--weights", "local", "--model", str(directory)) if fault.is_own else ()
    code, output = run_cpu(cache, "load", "smollm2-135m-cpu", *own, "--run-dir", str(run))
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    assert (code, record["outcome"]) == (fault.exit_code, fault.outcome), output
    assert fault.says in output, output
    assert {run_cpu(cache, command, str(run))[0] for command in ("report", "check")} == {fault.exit_code}
    assert not _running(run)
    return Seen(fault.name, "before the load", code, record["outcome"], record["reason"], 0)


def _running(run: Path) -> list[int]:
    """The processes that name a run folder: the loading process and its forks."""
    found = psutil.process_iter(["cmdline"])
    return [process.pid for process in found if str(run) in (process.info["cmdline"] or [])]


def run_cpu(cache: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [LOADCHECK, *arguments], env=dict(os.environ, LOADCHECK_CACHE=str(cache), COLUMNS="300"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=600,
    )  # fmt: skip
    return done.returncode, " ".join(done.stdout.split())
