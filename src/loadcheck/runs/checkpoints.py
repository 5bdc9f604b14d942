"""Checkpoints that appear atomically: written to a temporary folder, synced to disk with a manifest of SHA-256 hashes, then renamed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from loadcheck.disk import sha256_of, sync_path
from loadcheck.errors import BadInput, Problem

MANIFEST = "files.json"
"""Written last: the SHA-256 of every other file of a checkpoint."""
KEPT = 2
"""How many of its newest checkpoints a run keeps."""
_NAME = re.compile(r"checkpoint-(\d+)")


def publish(written: Path, target: Path) -> None:
    """Write the manifest of a folder, sync all of it to disk, then rename it to `target`, so that a reader sees it whole or not at all."""
    hashes = {str(path.relative_to(written)): sha256_of(path) for path in files_of(written)}
    (written / MANIFEST).write_text(json.dumps(hashes, indent=1) + "\n", encoding="ascii")
    for path in [*files_of(written), written]:
        sync_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    written.replace(target)
    sync_path(target.parent)


def drop_old(folder: Path) -> None:
    """Remove all but the newest checkpoints."""
    for old in checkpoints(folder)[:-KEPT]:
        with suppress(OSError):
            (old / MANIFEST).unlink()  # first, so that a half removed folder is not a checkpoint
            shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    found = {int(match[1]): path for path in _folders(folder) if (match := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found) if (found[step] / MANIFEST).exists()]


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which it was written."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def check_whole(checkpoint: Path) -> None:
    """BadInput if a file of it is missing or has changed."""
    if wrong := changed_files(checkpoint):
        what, remedy = f"is not a whole checkpoint ({', '.join(wrong)})", "resume from another run, or train anew"
        raise BadInput(Problem(str(checkpoint), what, remedy))


def changed_files(folder: Path) -> list[str]:
    """In words, what is missing or has changed in a folder that `publish` wrote; empty if nothing is."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        return [
            f"{name}: not what was written" for name, wanted in hashes.items() if sha256_of(folder / name) != wanted
        ]
    except (OSError, ValueError, AttributeError) as error:
        return [str(error)]


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def files_of(folder: Path) -> list[Path]:
    """Every file of a folder, sorted, the manifest last."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST) + [
        path for path in (folder / MANIFEST,) if path.exists()
    ]
