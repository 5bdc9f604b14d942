"""The provenance of an image: an in-toto statement with SLSA provenance, signed with the builder's own SSH key.

https://slsa.dev/spec/v1.0/provenance: the subject is the image by its digest; what it was built from are the resolved dependencies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from loadcheck import signature
from loadcheck.disk import read_at_most
from loadcheck.errors import BadInput, LoadcheckError, Problem
from loadcheck.runs.json_file import own_file
from loadcheck.runs.origin import LOCK, lock_sha256, read_origin

NAMESPACE = "image@loadcheck"
TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:loadcheck:image:v1"
"""The build of this repository's Dockerfile; its parameters are those of `make build`."""
STATEMENT_VARIABLE, SIGNERS_VARIABLE = "LOADCHECK_PROVENANCE", "LOADCHECK_SIGNERS"
StatementT = TypeVar("StatementT")
MAX_BYTES = 1 << 20
MAKE_ONE = "make one with scripts/image/oci, or pull it with the image"


class Descriptor(msgspec.Struct, frozen=True):
    """An artifact with its digests, such as {"sha256": …} or {"gitCommit": …}."""

    name: str = ""
    uri: str = ""
    digest: dict[str, str] = {}


class BuildDefinition(msgspec.Struct, frozen=True, rename="camel"):
    """What was built, and from what."""

    build_type: str
    external_parameters: dict[str, Any] = {}
    resolved_dependencies: list[Descriptor] = []


class Builder(msgspec.Struct, frozen=True):
    """Who built it, as stated; only the signature proves who made the statement."""

    id: str


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """When it was built, as RFC 3339 in UTC, so that two times can be compared as text."""

    finished_on: str = ""


class RunDetails(msgspec.Struct, frozen=True):
    """Who built it, and when."""

    builder: Builder
    metadata: Metadata = Metadata()


class Predicate(msgspec.Struct, frozen=True, rename="camel"):
    """SLSA's provenance predicate."""

    build_definition: BuildDefinition
    run_details: RunDetails


class Statement(msgspec.Struct, frozen=True, rename={"type": "_type", "predicate_type": "predicateType"}):
    """An in-toto statement. Unknown keys are ignored, as in-toto requires."""

    type: Literal["https://in-toto.io/Statement/v1"]
    subject: list[Descriptor]
    predicate_type: Literal["https://slsa.dev/provenance/v1"]
    predicate: Predicate

    @property
    def digest(self) -> str:
        """The image's digest, as registries write it."""
        return f"sha256:{self.subject[0].digest.get('sha256', '')}" if len(self.subject) == 1 else ""

    @property
    def finished_on(self) -> str:
        return self.predicate.run_details.metadata.finished_on

    def dependency(self, name: str) -> Mapping[str, str]:
        """The digests of one thing that it was built from; empty if the statement does not name it."""
        found = self.predicate.build_definition.resolved_dependencies
        return next((entry.digest for entry in found if entry.name == name), {})


@dataclass(frozen=True, slots=True)
class Provenance:
    """A statement, who signed it, and its faults."""

    statement: Statement
    signer: str | None
    faults: tuple[str, ...]


def read_statement(path: Path) -> Statement:
    """Read a statement; BadInput if it is missing, or not a statement on an image."""
    return read_stated(path, Statement, MAX_BYTES, "an image", MAKE_ONE)


def read_stated(path: Path, record_type: type[StatementT], max_bytes: int, subject: str, remedy: str) -> StatementT:
    """Read a statement as a record of this type; BadInput if it is missing, too large, or not on such a subject."""
    try:
        return msgspec.json.decode(read_at_most(own_file(path), max_bytes), type=record_type)
    except OSError as error:
        raise BadInput(Problem(str(path), f"no statement ({error.strerror})", remedy)) from None
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise BadInput(Problem(str(path), f"no statement on {subject} ({error})", remedy)) from None


def verify(path: Path, signers: Path | None, digest: str | None, seen: Path | None = None) -> Provenance:
    """Check a statement's signature (`path`.sig), that it is about the image with this digest, and that it is not older than `seen`.

    Args:
        digest: "sha256:…"; None if unknown.
        seen: the statement of the image that was pulled last. An older statement means that the tag was moved back.
    """
    statement = read_statement(path)
    signer, why = signature.signer_of(path, path.with_name(path.name + ".sig"), signers, NAMESPACE)
    faults = [] if signer is not None else [why]
    faults += _faults(statement, digest, seen)
    return Provenance(statement, signer, tuple(faults))


def _faults(statement: Statement, digest: str | None, seen: Path | None) -> Iterator[str]:
    if digest is not None and statement.digest != digest:
        yield f"it is about the image {statement.digest or 'without a digest'}, not {digest}"
    if seen is not None and seen.exists():
        last = read_statement(seen)
        if statement.finished_on < last.finished_on:
            yield f"it was built on {statement.finished_on or 'no date'}, before the one pulled last ({last.finished_on}): the tag was moved back"


def of_this_process(environ: Mapping[str, str]) -> Provenance | str | None:
    """The statement that LOADCHECK_PROVENANCE names, compared with the running image, commit and lock. None if none is named; an error message if it
    cannot be read."""
    named = environ.get(STATEMENT_VARIABLE)
    if not named:
        return None
    signers = environ.get(SIGNERS_VARIABLE)
    try:
        found = verify(Path(named), Path(signers) if signers else None, read_origin(environ).image)
    except LoadcheckError as error:
        return str(error)
    differing = tuple(_differing(found.statement, environ))
    return Provenance(found.statement, found.signer, (*found.faults, *differing))


def _differing(statement: Statement, environ: Mapping[str, str]) -> Iterator[str]:
    lock, ours = statement.dependency(f"env/{LOCK}").get("sha256"), lock_sha256()
    if lock != ours:
        yield f"it was built from another {LOCK} ({lock or 'not stated'}) than the one here ({ours})"
    commit, here = statement.dependency("source").get("gitCommit"), environ.get("LOADCHECK_COMMIT")
    if here and commit != here:
        yield f"it was built from the commit {commit or 'not stated'}, but {here} runs here"
