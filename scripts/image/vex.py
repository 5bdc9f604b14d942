"""What known vulnerabilities of the locked packages mean for this project (env/vex.toml), as OpenVEX 0.2.0.

https://github.com/openvex/spec, OPENVEX-SPEC.md: not_affected has a justification, affected an action. The product is the image, by its digest,
and the package a subcomponent, by its package URL as in the bill of materials.
"""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Literal

from packageurl import PackageURL

from loadcheck.manifest import locked_versions
from loadcheck.specs.files import Spec, load

ENV = Path(__file__).resolve().parents[2] / "env"
CONTEXT = "https://openvex.dev/ns/v0.2.0"
WRITTEN = "2026-11-29T00:00:00Z"
"""The date in the head of env/vex.toml, so that the same data gives the same document."""

Justification = Literal[
    "component_not_present",
    "vulnerable_code_not_present",
    "vulnerable_code_not_in_execute_path",
    "vulnerable_code_cannot_be_controlled_by_adversary",
    "inline_mitigations_already_exist",
]


class Hole(Spec, frozen=True, kw_only=True):
    """Known vulnerabilities of one locked package with the same assessment.

    Args:
        ids: of the CVE list.
        fixed: the first version without any of them; None if none is known.
        because, tests: of one that does not affect us, and the tests that prove it, as FILE::TEST.
        action: of one that does, what a user must do or avoid.
    """

    ids: tuple[str, ...]
    package: str
    status: Literal["not_affected", "affected"]
    fixed: str | None = None
    justification: Justification | None = None
    because: str | None = None
    tests: tuple[str, ...] = ()
    action: str | None = None

    def __post_init__(self) -> None:
        if self.status == "affected" and not self.action:
            raise ValueError(f"{self.ids[0]} is affected without an action; say what a user has to do")
        if self.status == "not_affected" and not (self.justification and self.because and self.tests):
            raise ValueError(f"{self.ids[0]} is not_affected without a proof; give justification, because and tests")


class Holes(Spec, frozen=True, kw_only=True):
    """The whole file."""

    hole: tuple[Hole, ...]


def load_holes() -> tuple[Hole, ...]:
    """All of env/vex.toml; ValueError if a vulnerability of a package is there twice, as the two could contradict each other."""
    holes = load(Holes, ENV / "vex.toml").hole
    named = Counter((hole.package, each) for hole in holes for each in hole.ids)
    if twice := sorted(each for (_, each), times in named.items() if times > 1):
        raise ValueError(f"env/vex.toml: {', '.join(twice)}: there twice; keep one")
    return holes


def openvex(digest: str, holes: tuple[Hole, ...]) -> str:
    """The document; the same to the byte for the same image and entries, as its id is a hash of its statements.

    Packages that are in no image, such as developers' tools, are left out.
    """
    inside = locked_versions()
    statements = [
        _statement(digest, hole, each, inside[hole.package])
        for hole in holes
        if hole.package in inside
        for each in hole.ids
    ]
    name = sha256(json.dumps(statements, sort_keys=True).encode()).hexdigest()
    document = {
        "@context": CONTEXT,
        "@id": f"https://openvex.dev/docs/public/vex-{name}",
        "author": "loadcheck",
        "timestamp": WRITTEN,
        "version": 1,
        "statements": statements,
    }
    return json.dumps(document, indent=2)


def _statement(digest: str, hole: Hole, name: str, version: str) -> dict[str, object]:
    package = PackageURL("pypi", name=hole.package, version=version)
    image = PackageURL("oci", name="loadcheck", version=digest)
    statement = {
        "justification": hole.justification,
        "impact_statement": hole.because,
        "action_statement": hole.action,
    }
    return {
        "vulnerability": {"name": name},
        "products": [{"@id": str(image), "subcomponents": [{"@id": str(package)}]}],
        "status": hole.status,
        **{key: value for key, value in statement.items() if value is not None},
    }
