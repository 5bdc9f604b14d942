"""From a run to a folder for others: written aside, proven, and then given its name; it is whole and proven, or not there."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadcheck import __version__
from loadcheck.disk import sync_path
from loadcheck.encoding import json_text
from loadcheck.errors import BadInput, Problem
from loadcheck.exporting.child import run_step
from loadcheck.exporting.proof import (
    PROOF,
    TOLERANCES,
    Comparison,
    Form,
    Proof,
    file_finding,
    hashes,
    judge_proof,
    read_proof,
    refuse_unsafe,
)
from loadcheck.exporting.source import ADAPTER, CONFIG, Adapter, refuse_rank
from loadcheck.findings.finding import Status, Verdict
from loadcheck.plan import plan_from_json, plan_to_json
from loadcheck.preparing import require
from loadcheck.runs.checkpoints import MANIFEST, files_of
from loadcheck.runs.folder import own_file
from loadcheck.specs.files import to_data, validate

NEEDED = ("torch", "transformers", "peft", "bitsandbytes")
NOT_COPIED = (ADAPTER, CONFIG, "README.md", MANIFEST)
"""Of the run's folder of adapters: what is written anew, in another place or not at all. The rest is the tokenizer with its template."""
HEADER_BYTES = 8
"""Of a safetensors file: the length of its JSON header, little-endian."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """An export, made or verified; it is at `folder` where the verdict is a pass."""

    folder: Path
    proof: Proof
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.proof.run,
            "export": str(self.folder),
            "form": self.proof.form,
            "notes": list(self.proof.notes),
            "comparison": to_data(self.proof.comparison),
            **self.verdict.to_json(),
        }


def export(adapter: Adapter, target: Path, merged: bool, say: Say) -> Exported:
    """Write a run's adapters, or their model with them merged, prove them, and only then have the folder be there.

    Raises:
        BadInput: `target` is taken or cannot be written, or the base is another.
        UnsupportedMachine: this environment lacks a package.
        StepFailed: a process died.
    """
    if not merged:
        refuse_rank(adapter)
    require(NEEDED, adapter.plan.profile)
    aside = _aside(target)
    try:
        exported = _proven(adapter, aside, target, "merged" if merged else "adapters", say)
        if exported.verdict.passed:
            _publish(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return exported


def _aside(target: Path) -> Path:
    """A new folder beside the target; BadInput where that is there already, or its parent is not to be written to."""
    if target.exists() or target.is_symlink():
        raise BadInput(Problem(str(target), "is there already", "name a folder that is not there yet", "DIR"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", dir=target.parent))
    except OSError as error:
        raise BadInput(
            Problem(str(target), f"cannot be made ({error.strerror})", "name another folder", "DIR")
        ) from None


def _proven(adapter: Adapter, aside: Path, target: Path, form: Form, say: Say) -> Exported:
    request = {**adapter_request(adapter), "target": str(aside), "merged": form == "merged"}
    say("merging the adapters into their base" if form == "merged" else "writing the adapters")
    base_files = run_step("write", {**request, "adapters": str(adapter.path.resolve())})["base_files"]
    _write_rest(adapter, aside, form)
    say("opening it anew with plain transformers and peft")
    found = run_step("prove", {**request, "base_files": base_files})
    comparison = validate(Comparison, found, "the comparison")
    proof = Proof(
        loadcheck=__version__, commit=adapter.record.commit, run=adapter.record.id, run_verdict=adapter.verdict, form=form,
        model=adapter.plan.model_name, plan=plan_to_json(adapter.plan), base_files=base_files, dtype=request["dtype"], rank=adapter.rank,
        tolerance=TOLERANCES[request["dtype"]][form], notes=tuple(adapter.notes(form == "merged")), comparison=comparison, files=hashes(aside),
    )  # fmt: skip
    (aside / PROOF).write_text(json_text(to_data(proof)) + "\n", encoding="ascii")
    return Exported(target, proof, judge_proof(aside, proof, comparison))


def _write_rest(adapter: Adapter, aside: Path, form: Form) -> None:
    """The tokenizer with its template, what the proof is held to, and of adapters their config, with the base by its name and not its path."""
    for path in files_of(adapter.path):
        if path.name not in NOT_COPIED:
            shutil.copy(own_file(path), aside / path.name)
    shutil.copy(own_file(adapter.folder.probe_path), aside)
    if form == "adapters":
        config = {**adapter.config, "base_model_name_or_path": base_name(adapter)}
        (aside / CONFIG).write_text(json_text(config) + "\n", encoding="ascii")


def base_name(adapter: Adapter) -> str:
    """Of the base, as others can have it: its name on the hub, where it is from there."""
    checkpoint = adapter.plan.checkpoint
    return adapter.plan.model_name if checkpoint is None else checkpoint.repo


def probe_dtype(path: Path) -> Any:
    """The dtype that a probe names in its header; BadInput where the file is none of ours."""
    try:
        with own_file(path).open("rb") as file:
            size = int.from_bytes(file.read(HEADER_BYTES), "little")
            dtype = json.loads(file.read(min(size, 1 << 20)))["__metadata__"]["dtype"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(Problem(str(path), f"is no probe of a training ({error})", "train anew")) from None
    if dtype not in TOLERANCES:
        raise BadInput(Problem(str(path), f"is of dtype {dtype!r:.40}", f"known: {', '.join(TOLERANCES)}"))
    return dtype


def _publish(aside: Path, target: Path) -> None:
    """Have every byte on the disk, then the name."""
    aside.chmod(0o755)
    for path in (*(each for each in aside.rglob("*") if each.is_file()), aside):
        sync_path(path)
    aside.rename(target)
    sync_path(target.parent)


def verify(folder: Path, say: Say) -> Exported:
    """Check an export again: every file by its hash, then opened anew; nothing is opened where a file is not as it was."""
    proof = read_proof(folder)
    say("hashing the files")
    if file_finding(folder, proof).status is Status.FAIL:
        return Exported(folder, proof, judge_proof(folder, proof, None))
    refuse_unsafe(folder, proof.form)
    require(NEEDED, plan_from_json(proof.plan).profile)
    say("opening it anew with plain transformers and peft")
    comparison = validate(Comparison, run_step("prove", request_of(folder, proof)), "the comparison")
    return Exported(folder, proof, judge_proof(folder, proof, comparison))


def adapter_request(adapter: Adapter) -> dict[str, Any]:
    """The same of a run's adapters as they are."""
    return {
        "plan": plan_to_json(adapter.plan),
        "dtype": probe_dtype(adapter.folder.probe_path),
        "target": str(adapter.path.resolve()),
        "merged": False,
    }


def request_of(folder: Path, proof: Proof) -> dict[str, Any]:
    """What a process is asked to open an export with (engines/exported.py)."""
    return {
        "plan": proof.plan,
        "dtype": proof.dtype,
        "target": str(folder.resolve()),
        "merged": proof.form == "merged",
        "base_files": proof.base_files,
    }
