"""`loadcheck weights`: compares every locked model's files on this machine with env/weights.lock, and records unknown hashes in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import msgspec

from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem, suggestion
from loadcheck.specs.files import env_dir, read_toml, validate
from loadcheck.weights.cache import MANIFEST, RECORD, weights_dir
from loadcheck.weights.lock import (
    LockedFile,
    LockedModel,
    WeightsLock,
    hash_file,
    load_weights_lock,
    read_hashed,
    visible_files,
)
from loadcheck.weights.mirror import SUMS

State = Literal["as locked", "as recorded", "unknown", "differs", "missing", "not locked"]
PASSING: tuple[State, ...] = ("as locked", "as recorded")
LOCK = "env/weights.lock"


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file, and the result of comparing it.

    Args:
        state: "as recorded" means equal to the first download here, which was checked against the commit's listing; "unknown" has no known hash.
        found: the file on disk; None if it is missing.
        why: what differs; empty if nothing does.
    """

    path: str
    state: State
    found: LockedFile | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A locked model on this machine; if it is not here, `folder` is None and there are no files."""

    name: str
    locked: LockedModel
    folder: Path | None
    files: tuple[CheckedFile, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 if every file was compared with a hash and is equal; a file that could not be compared does not pass."""
        passed = bool(self.files) and all(file.state in PASSING for file in self.files)
        return EXIT_PASS if passed else EXIT_FAIL


def locked_models(name: str | None) -> dict[str, LockedModel]:
    """All models of the lock, or the one of that name; BadInput if there is none."""
    models = load_weights_lock().models
    if name is None:
        return models
    if name not in models:
        raise BadInput(Problem(LOCK, f"has no model {name!r}", suggestion(name, models), "models"))
    return {name: models[name]}


def folder_of(model: LockedModel) -> Path | None:
    """The folder of the model's locked files: the hub's are in the cache, a package's where it is installed; None if they are not here."""
    if model.package is not None:
        try:
            return Path(str(distribution(model.package).locate_file("")))
        except PackageNotFoundError:
            return None
    if model.revision is None:
        return None
    configs = (weights_dir() / model.revision[:12]).glob("[!.]*/config.json")
    return next((config.parent for config in sorted(configs)), None)


def verify(name: str, model: LockedModel, folder: Path | None = None) -> CheckedModel:
    """Hash every file of the model, in `folder` or where it is kept, and compare. About 1 s per GB.

    Other files in a folder of the hub's weights are "not locked".
    """
    root = folder or folder_of(model)
    if root is None:
        return CheckedModel(name, model, None)
    recorded = {} if model.package else _recorded(root)
    locked = {file.path: file for file in model.files}
    present = () if model.package else _present(root)
    files = (_checked(root, path, locked.get(path), recorded.get(path)) for path in dict.fromkeys((*locked, *present)))
    return CheckedModel(name, model, root, tuple(files))


def _checked(root: Path, path: str, locked: LockedFile | None, recorded: LockedFile | None) -> CheckedFile:
    if not (root / path).is_file():
        return CheckedFile(path, "missing", None, "is not there")
    found, in_lock = hash_file(root, root / path), locked is not None and locked.is_known
    known = locked if in_lock else recorded
    if known is None:
        state: State = "not locked" if locked is None else "unknown"
        return CheckedFile(
            path, state, found, f"{LOCK} does not {'name it' if locked is None else 'know its hash yet'}"
        )
    why = known.difference(found)
    state = "differs" if why else "as locked" if in_lock else "as recorded"
    return CheckedFile(path, state, found, why or "")


def _recorded(root: Path) -> dict[str, LockedFile]:
    """The recorded files of the first download into this folder; empty without a readable record."""
    try:
        files = read_hashed(root.parent / RECORD)
    except (OSError, msgspec.DecodeError):
        return {}
    return {file.path: file for file in files}


def _present(root: Path) -> Iterator[str]:
    """Every file that an engine could read: all but hidden ones and our own manifests."""
    names = (path.relative_to(root).as_posix() for path in visible_files(root))
    yield from (name for name in names if name not in (MANIFEST, SUMS))


def record(checked: CheckedModel) -> tuple[LockedFile, ...]:
    """Add the hashes of just verified files to the lock where it has none yet; returns the added files.

    BadInput if a file is missing or differs, so that no known hash is ever overwritten, and if the lock cannot be written.
    """
    bad = [file for file in checked.files if file.state in ("missing", "differs")]
    if bad:
        where = str(checked.folder)
        raise BadInput(Problem(f"{where}/{file.path}", file.why, "download it again, then record it") for file in bad)
    unknown = {file.path for file in checked.locked.files if not file.is_known}
    new = tuple(file.found for file in checked.files if file.found is not None and file.path in unknown)
    if new:
        _write(checked.name, new)
    return new


def _write(name: str, new: tuple[LockedFile, ...]) -> None:
    path = env_dir() / "weights.lock"
    try:
        text = recorded_text(path.read_text(encoding="utf-8"), name, new)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        remedy = "run it in a checkout of your own, where env/ can be written to"
        raise BadInput(Problem(str(path), f"cannot be written ({error.strerror})", remedy)) from None
    load_weights_lock.cache_clear()
    validate(WeightsLock, read_toml(path), str(path))


def recorded_text(text: str, name: str, new: tuple[LockedFile, ...]) -> str:
    """The lock's text with the unknown entries of one model filled in; all else, comments included, stays the same. BadInput for a missing entry."""
    head = re.search(rf'^\[models\."?{re.escape(name)}"?\]$', text, re.MULTILINE)
    begin = head.end() if head else len(text)
    following = re.compile(r"^\[", re.MULTILINE).search(text, begin)
    end = following.start() if following else len(text)
    section, problems = text[begin:end], []
    for file in new:
        entry = f'path = "{file.path}", size_bytes = '
        unknown, known = f'{entry}"unknown", sha256 = "unknown"', f'{entry}{file.size_bytes}, sha256 = "{file.sha256}"'
        if section.count(unknown) != 1:
            problems.append(Problem(LOCK, f"has no line with {unknown}", "write it by hand", f"models.{name}.files"))
        section = section.replace(unknown, known)
    if problems:
        raise BadInput(problems)
    return text[:begin] + section + text[end:]
