"""Results of the GPU tests, kept if LOADCHECK_KEEP names a folder: run folders, in the layout of golden runs, and measured figures."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

IS_KEPT = "TESTS_KEEP" in os.environ
KINDS = (".json", ".jsonl", ".log", ".txt", ".out", "")  # SHA256SUMS has none
MAX_BYTES = 16 * 2**20


def keep(source: Path, name: str) -> None:
    """Keep one file, or the text files of a folder: no weights, adapters or checkpoints."""
    if source.is_file():
        _copy(source, f"{name}/{source.name}")
        return
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix in KINDS and not _is_of_weights(path, source):
            _copy(path, f"{name}/{path.relative_to(source)}")


def _copy(path: Path, name: str) -> None:
    if path.stat().st_size < MAX_BYTES and (to := _place(name)) is not None:
        shutil.copyfile(path, to)


def _is_of_weights(path: Path, source: Path) -> bool:
    return bool({"adapter", "checkpoints"} & set(path.relative_to(source).parts[:-1]))


def keep_figures(name: str, figures: Any) -> None:
    """Keep measured figures as JSON."""
    if (to := _place(f"{name}.json")) is not None:
        to.write_text(json.dumps(figures, indent=1) + "\n", encoding="ascii")


def name_of(words: tuple[str, ...]) -> str:
    """A file name for a load with these flags."""
    return re.sub(r"[^a-z0-9.=]+", "-", " ".join(words).lower()).strip("-") or "plain"


def _place(name: str) -> Path | None:
    folder = os.environ.get("TESTS_KEEP")
    if folder is None:
        return None
    path = Path(folder).absolute() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
