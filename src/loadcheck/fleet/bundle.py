"""`loadcheck fleet bundle` and `verify`: packs and signs a fleet's evidence, and verifies it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

from loadcheck import __version__, signature
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, LoadcheckError, Problem, remedy_of
from loadcheck.fleet.gather import gather_folder
from loadcheck.fleet.plan import NAME as PLAN
from loadcheck.fleet.plan import read_plan, write_plan
from loadcheck.fleet.statement import (
    NAME,
    SIGNATURE,
    Statement,
    configuration,
    files_below,
    make_statement,
    read_statement,
    stated_sha256,
    statement_text,
)
from loadcheck.fleet.verdict import FleetVerdict
from loadcheck.runs.private import write_whole

NAMESPACE = "fleet@loadcheck"
"""A signature on a fleet is not valid for an image."""


def bundle(root: Path, key: Path, plan_file: Path | None = None, tar: Path | None = None) -> FleetVerdict:
    """Gather the runs, write and sign a statement, and with `tar` pack everything into one file; returns the signed verdict.

    A fleet that fails is bundled, too; its statement says so. BadInput if the key cannot sign, or a file cannot be written.
    """
    if plan_file is not None:
        write_plan(read_plan(plan_file), root / PLAN)
    verdict = gather_folder(root)
    if not verdict.nodes:
        raise BadInput(Problem(str(root), "holds no run folder", "give the folder that the nodes wrote into"))
    try:
        write_whole(root / NAME, statement_text(make_statement(root, verdict)))
        signature.sign(root / NAME, key, NAMESPACE)
        if tar is not None:
            _pack(root, tar)
    except OSError as error:
        raise BadInput(Problem(str(error.filename or root), str(error.strerror), remedy_of(error))) from None
    return verdict


def _pack(root: Path, tar: Path) -> None:
    """Write the tar, with the statement first, so that a streaming reader knows what follows."""
    names = [NAME, SIGNATURE, *files_below(root)]
    with tarfile.open(tar, "w:gz" if tar.suffix in (".gz", ".tgz") else "w") as archive:
        for name in names:
            archive.add(root / name, name, recursive=False)


class Fault(Enum):
    """Why a bundle is not accepted."""

    FORGED = "forged"
    CHANGED = "changed"
    MISSING = "missing"
    ADDED = "added"
    VERDICT = "verdict"


@dataclass(frozen=True, slots=True)
class Verified:
    """A statement, its signer, and the faults found."""

    statement: Statement
    signer: str | None
    faults: tuple[tuple[Fault, str], ...]

    @property
    def is_believed(self) -> bool:
        return self.signer is not None and not self.faults

    @property
    def exit_code(self) -> int:
        """0 for a fleet that passed, both as signed and as judged again; a genuine statement of a failure is no pass."""
        return EXIT_PASS if self.is_believed and self.statement.predicate.result == "PASSED" else EXIT_FAIL

    def to_json(self) -> dict[str, Any]:
        predicate = self.statement.predicate
        return {
            "verified": self.is_believed,
            "verdict": {"PASSED": "pass"}.get(predicate.result, "fail"),
            "signer": self.signer,
            "files": len(self.statement.subject),
            "passed": len(predicate.passed_tests),
            "failed": predicate.failed_tests,
            "configuration": predicate.configuration,
            "faults": [{"kind": fault.value, "what": what} for fault, what in self.faults],
        }


def verify(root: Path, signers: Path | None) -> Verified:
    """Check the signature, then every file, then judge the runs again, all without a network.

    BadInput if there is no statement.
    """
    statement = read_statement(root / NAME)
    signer, why = signature.signer_of(root / NAME, root / SIGNATURE, signers, NAMESPACE)
    faults = [] if signer is not None else [(Fault.FORGED, why)]
    faults += _files(root, statement)
    if not faults:  # judging changed files would be pointless
        faults += _judged_again(root, statement)
    return Verified(statement, signer, tuple(faults))


def _files(root: Path, statement: Statement) -> Iterator[tuple[Fault, str]]:
    """Check that every signed file is unchanged, and that none is missing or was added."""
    named: set[str] = set()
    for subject in statement.subject:
        path = root / subject.name
        if (
            PurePosixPath(subject.name).is_absolute()
            or ".." in PurePosixPath(subject.name).parts
            or subject.name in named
        ):
            yield Fault.FORGED, f"{subject.name!r} is not a path within this bundle, or is listed twice"
            continue
        named.add(subject.name)
        if path.is_symlink() or not path.is_file():
            yield Fault.MISSING, f"{subject.name} is missing"
        elif stated_sha256(path) != subject.digest.get("sha256"):
            yield Fault.CHANGED, f"{subject.name} is not what was signed"
    try:
        for name in files_below(root):
            if name not in named:
                yield Fault.ADDED, f"{name} was not signed"
    except LoadcheckError as error:
        yield Fault.ADDED, str(error.problems[0])


def _judged_again(root: Path, statement: Statement) -> Iterator[tuple[Fault, str]]:
    """Check that judging the runs again gives the stated verdict, node by node."""
    predicate, verdict = statement.predicate, gather_folder(root)
    passed = {node.node for node in verdict.nodes if node.status == "pass"}
    made_by = predicate.loadcheck.get("version")
    by = "" if made_by == __version__ else f" (stated by loadcheck {made_by}, judged by {__version__})"
    if verdict.passed is not (predicate.result == "PASSED"):
        yield (
            Fault.VERDICT,
            f"the statement says {predicate.result}, and judged again the fleet is {verdict.status}{by}",
        )
    if configuration(verdict.plan) != predicate.configuration:
        yield Fault.VERDICT, "the stated image, lock or profile is not that of the plan"
    differ = sorted(passed ^ set(predicate.passed_tests))
    if differ:
        yield Fault.VERDICT, f"judged again, other nodes pass than stated: {', '.join(differ[:5])}{by}"
