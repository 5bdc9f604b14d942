"""Exports a run as a folder for others, atomically: it is written to a temporary folder, proven, and only then renamed."""

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
from loadcheck.runs.json_file import own_file
from loadcheck.specs.files import to_data, validate

NEEDED = ("torch", "transformers", "peft", "bitsandbytes")
NOT_COPIED = (ADAPTER, CONFIG, "README.md", MANIFEST)
"""Files in the run's folder of adapters that are not copied: they are written otherwise, or not at all. The rest is the tokenizer with its template."""
HEADER_BYTES = 8
"""The first bytes of a safetensors file hold the length of its JSON header, little-endian."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An export, made or verified; a new one exists at `folder` only if the verdict is a pass."""

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


def export(adapter: Adapter, target: Path, merged: bool, echo: Callable[[str], None]) -> Exported:
    """Write a run's adapters, or the model with them merged, prove the result, and only then create the folder.

    Raises:
        BadInput: `target` is taken or cannot be written, or the base is another one.
        UnsupportedMachine: this environment lacks a package.
        StepFailed: a process died.
    """
    if not merged:
        refuse_rank(adapter)
    require(NEEDED, adapter.plan.profile)
    staging = _staging_folder(target)
    try:
        exported = _proven(adapter, staging, target, "merged" if merged else "adapters", echo)
        if exported.verdict.passed:
            _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return exported


def _staging_folder(target: Path) -> Path:
    """A new temporary folder next to the target; BadInput if the target exists, or its parent is not writable."""
    if target.exists() or target.is_symlink():
        raise BadInput(Problem(str(target), "already exists", "give a folder that does not exist yet", "DIR"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", dir=target.parent))
    except OSError as error:
        raise BadInput(
            Problem(str(target), f"cannot be created ({error.strerror})", "give another folder", "DIR")
        ) from None


def _proven(adapter: Adapter, staging: Path, target: Path, form: Form, echo: Callable[[str], None]) -> Exported:
    request = {**adapter_request(adapter), "target": str(staging), "merged": form == "merged"}
    echo("merging the adapters into their base" if form == "merged" else "writing the adapters")
    base_files = run_step("write", {**request, "adapters": str(adapter.path.resolve())})["base_files"]
    _write_rest(adapter, staging, form)
    echo("loading it again with plain transformers and peft")
    found = run_step("prove", {**request, "base_files": base_files})
    comparison = validate(Comparison, found, "the comparison")
    proof = Proof(
        loadcheck=__version__, commit=adapter.record.commit, run=adapter.record.id, run_verdict=adapter.verdict, form=form,
        model=adapter.plan.model_name, plan=plan_to_json(adapter.plan), base_files=base_files, dtype=request["dtype"], rank=adapter.rank,
        tolerance=TOLERANCES[request["dtype"]][form], notes=tuple(adapter.notes(form == "merged")), comparison=comparison, files=hashes(staging),
    )  # fmt: skip
    (staging / PROOF).write_text(json_text(to_data(proof)) + "\n", encoding="ascii")
    return Exported(target, proof, judge_proof(staging, proof, comparison))


def _write_rest(adapter: Adapter, staging: Path, form: Form) -> None:
    """Copy the tokenizer with its template and the probe, and for adapters write their config with the base's name instead of its path."""
    for path in files_of(adapter.path):
        if path.name not in NOT_COPIED:
            shutil.copy(own_file(path), staging / path.name)
    shutil.copy(own_file(adapter.folder.probe_path), staging)
    if form == "adapters":
        config = {**adapter.config, "base_model_name_or_path": base_name(adapter)}
        (staging / CONFIG).write_text(json_text(config) + "\n", encoding="ascii")


def base_name(adapter: Adapter) -> str:
    """The name by which others can get the base: its name on the hub if it is from there."""
    checkpoint = adapter.plan.checkpoint
    return adapter.plan.model_name if checkpoint is None else checkpoint.repo


def probe_dtype(path: Path) -> Any:
    """The dtype in the header of a probe; BadInput if the file is not a probe of ours."""
    try:
        with own_file(path).open("rb") as file:
            size = int.from_bytes(file.read(HEADER_BYTES), "little")
            dtype = json.loads(file.read(min(size, 1 << 20)))["__metadata__"]["dtype"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(Problem(str(path), f"is not a training's probe ({error})", "train again")) from None
    if dtype not in TOLERANCES:
        raise BadInput(Problem(str(path), f"has the dtype {dtype!r:.40}", f"known: {', '.join(TOLERANCES)}"))
    return dtype


def _publish(staging: Path, target: Path) -> None:
    """Sync every file to disk, then rename the folder."""
    staging.chmod(0o755)
    for path in (*(path for path in staging.rglob("*") if path.is_file()), staging):
        sync_path(path)
    staging.rename(target)
    sync_path(target.parent)


def verify(folder: Path, echo: Callable[[str], None]) -> Exported:
    """Check an export again: every file by its hash, then by loading it; nothing is loaded if a file has changed."""
    proof = read_proof(folder)
    echo("hashing the files")
    if file_finding(folder, proof).status is Status.FAIL:
        return Exported(folder, proof, judge_proof(folder, proof, None))
    refuse_unsafe(folder, proof.form)
    require(NEEDED, plan_from_json(proof.plan).profile)
    echo("loading it again with plain transformers and peft")
    comparison = validate(Comparison, run_step("prove", request_of(folder, proof)), "the comparison")
    return Exported(folder, proof, judge_proof(folder, proof, comparison))


def adapter_request(adapter: Adapter) -> dict[str, Any]:
    """The request that loads a run's adapters (engines/exported.py)."""
    return {
        "plan": plan_to_json(adapter.plan),
        "dtype": probe_dtype(adapter.folder.probe_path),
        "target": str(adapter.path.resolve()),
        "merged": False,
    }


def request_of(folder: Path, proof: Proof) -> dict[str, Any]:
    """The request that loads an export (engines/exported.py)."""
    return {
        "plan": proof.plan,
        "dtype": proof.dtype,
        "target": str(folder.resolve()),
        "merged": proof.form == "merged",
        "base_files": proof.base_files,
    }
