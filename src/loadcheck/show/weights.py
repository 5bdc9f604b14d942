"""The locked weights, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from loadcheck.terminal import Name, print_table, print_words
from loadcheck.units import show_bytes
from loadcheck.weights.lock import LockedFile
from loadcheck.weights.verifying import CheckedModel


def _where(model: CheckedModel) -> str:
    """Where the files of a model are. A package belongs to one environment, a checkpoint of the hub to the machine."""
    if model.folder is not None:
        return str(model.folder)
    return "not on this machine" if model.locked.package is None else "not installed in this environment"


def model_json(model: CheckedModel) -> dict[str, Any]:
    """One model; `files` is empty if nothing was hashed."""
    locked = model.locked
    return {
        "name": model.name,
        "repo": locked.repo,
        "revision": locked.revision,
        "package": locked.package,
        "version": locked.version,
        "folder": None if model.folder is None else str(model.folder),
        "locked_files": len(locked.files),
        "locked_hashes": sum(file.is_known for file in locked.files),
        "verified": model.exit_code == 0,
        "files": [
            {
                "path": file.path,
                "state": file.state,
                "size_bytes": None if file.found is None else file.found.size_bytes,
                "sha256": None if file.found is None else file.found.sha256,
                "why": file.why or None,
            }
            for file in model.files
        ],
    }


def show_listed(out: Console, models: Sequence[CheckedModel]) -> None:
    """Print a line for each model."""
    rows = [
        (
            model.name,
            f"{sum(file.is_known for file in model.locked.files)} of {len(model.locked.files)}",
            Name(model.locked.repo or f"{model.locked.package} {model.locked.version}"),
            Name(_where(model)),
        )
        for model in models
    ]
    print_table(out, ("model", "hashes", "from", "here"), "lrll", rows)


def show_verified(out: Console, models: Sequence[CheckedModel]) -> None:
    """Print each file with its state, the differences, and the models that are not here."""
    here = [model for model in models if model.files]
    rows = [
        (Name(file.path), "" if file.found is None else show_bytes(int(file.found.size_bytes)), file.state)
        for model in here
        for file in model.files
    ]
    if rows:
        print_table(out, ("file", "size", ""), "lrl", rows)
    for model in here:
        for file in model.files:
            if file.why:
                print_words(out, f"{model.name}: {file.path}: {file.why}")
    for model in models:
        said = _where(model) if not model.files else "verified" if model.exit_code == 0 else "not verified"
        print_words(out, f"{model.name}: {said}")


def show_recorded(out: Console, name: str, new: Sequence[LockedFile]) -> None:
    """Print what was written, file by file."""
    for file in new:
        print_words(out, f"{name}: {file.path}: {file.size_bytes} bytes, SHA-256 {file.sha256}")
    done = f"wrote {len(new)} hashes into env/weights.lock" if new else "env/weights.lock already has every hash"
    print_words(out, done)
