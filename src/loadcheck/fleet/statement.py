"""The statement of a bundle: an in-toto statement about every file of a fleet's runs, with the verdict as a test result.

https://github.com/in-toto/attestation, spec/v1/statement.md and spec/predicates/test-result.md. Our additions are under `loadcheck`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from loadcheck import __version__
from loadcheck.encoding import json_text
from loadcheck.errors import BadInput, Problem
from loadcheck.fleet.plan import FleetPlan
from loadcheck.fleet.seal import sha256_of
from loadcheck.fleet.tars import MAX_FILE_BYTES
from loadcheck.fleet.verdict import FleetVerdict
from loadcheck.provenance import read_stated
from loadcheck.runs.json_file import own_file
from loadcheck.runs.origin import LOCK
from loadcheck.specs.profile import settings_by_key
from loadcheck.units import show_bytes

NAME, SIGNATURE = "statement.json", "statement.json.sig"
TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://in-toto.io/attestation/test-result/v0.1"
MAX_BYTES = 512 * 1024 * 1024
"""Far larger than a statement about 100,000 runs, so that a hostile one cannot fill memory."""


class Subject(msgspec.Struct, frozen=True):
    """A file, by its path relative to the statement's folder."""

    name: str
    digest: dict[str, str]


class Predicate(msgspec.Struct, frozen=True, rename="camel"):
    """A test result; the tests are the nodes."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: list[dict[str, Any]] = []
    passed_tests: list[str] = []
    failed_tests: list[str] = []
    loadcheck: dict[str, Any] = {}


class Statement(msgspec.Struct, frozen=True, rename={"type": "_type", "predicate_type": "predicateType"}):
    """An in-toto statement. Unknown keys are ignored, as in-toto requires."""

    type: Literal["https://in-toto.io/Statement/v1"]
    subject: list[Subject]
    predicate_type: Literal["https://in-toto.io/attestation/test-result/v0.1"]
    predicate: Predicate


def make_statement(root: Path, verdict: FleetVerdict) -> Statement:
    """The statement about every file below `root`; BadInput if one is a link or a device, as that may be another file elsewhere."""
    passed = [node.node for node in verdict.nodes if node.status == "pass"]
    failed = [node.node for node in verdict.nodes if node.status != "pass"]
    predicate = Predicate(
        result="PASSED" if verdict.passed else "FAILED",
        configuration=configuration(verdict.plan),
        passed_tests=passed,
        failed_tests=failed,
        loadcheck={
            "version": __version__,
            "created_at": datetime.now(timezone.utc).isoformat(),
            "counts": verdict.counts,
            "findings": [finding.to_json() for finding in verdict.findings],
        },
    )
    subjects = [Subject(name, {"sha256": stated_sha256(root / name)}) for name in files_below(root)]
    return Statement(TYPE, subjects, PREDICATE, predicate)


def stated_sha256(path: Path) -> str:
    """The SHA-256 of a file of a bundle; BadInput if it is a link, a device, or too large to be read in a reasonable time."""
    if own_file(path).stat().st_size > MAX_FILE_BYTES:
        what = f"is larger than {show_bytes(MAX_FILE_BYTES)}"
        raise BadInput(Problem(str(path), what, "remove it from the folder of the runs"))
    return sha256_of(path)


def configuration(plan: FleetPlan | None) -> list[dict[str, Any]]:
    """The configuration of the test as resource descriptors: the image, the lock, the profile."""
    return [] if plan is None else list(_resources(plan))


def _resources(plan: FleetPlan) -> Iterator[dict[str, Any]]:
    if plan.image is not None and plan.digest is not None:
        yield {"name": "image", "uri": plan.image, "digest": {"sha256": plan.digest.removeprefix("sha256:")}}
    if plan.lock_sha256 is not None:
        yield {"name": LOCK, "digest": {"sha256": plan.lock_sha256}}
    settings = json.dumps(settings_by_key(plan.profile), sort_keys=True).encode()
    yield {"name": f"profile {plan.profile.name}", "digest": {"sha256": sha256(settings).hexdigest()}}


def files_below(root: Path) -> Iterator[str]:
    """Yield every file below `root` by its path with "/", sorted, except the statement and its signature."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted([*names, *(name for name in folders if (Path(folder) / name).is_symlink())]):
            found = own_file(Path(folder) / name).relative_to(root).as_posix()
            if found not in (NAME, SIGNATURE):
                yield found


def statement_text(statement: Statement) -> str:
    return json_text(msgspec.to_builtins(statement)) + "\n"


def read_statement(path: Path) -> Statement:
    """Read a statement; BadInput if it is missing or invalid."""
    return read_stated(path, Statement, MAX_BYTES, "a fleet", "make one with loadcheck fleet bundle")
