"""Which packages of env/*.lock have known vulnerabilities, by your database, and what env/vex.toml says of each: audit.py FOLDER|ZIP (`make audit`).

The database is in OSV's format (https://ossf.github.io/osv-schema/): JSON or YAML files below a folder, such as a clone of PyPA's
advisory-database, or the ZIP of one ecosystem from osv.dev. No network is used. Entries of env/vex.toml that the database does not have for
the locked version are listed, too. Exit codes: 0 if every vulnerability is in env/vex.toml, 1 if one is not, 2 if there is no database.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from vex import Hole, load_holes

from loadcheck.manifest import LOCKS

ENV = Path(__file__).resolve().parents[2] / "env"

ECOSYSTEM = "PyPI"
FORMS = (".json", ".yaml", ".yml")


PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
Versions = dict[str, dict[str, tuple[str, ...]]]
"""The versions of each package, and the locks that have each."""


@dataclass(frozen=True, slots=True)
class Vulnerable:
    """One record of the database that applies to a locked version. `locks` are those that have it."""

    id: str
    names: frozenset[str]
    package: str
    version: str
    locks: tuple[str, ...]
    summary: str


class DatabaseError(ValueError):
    """What is wrong with the database, and what to do."""


def records(database: Path) -> Iterator[dict[str, Any]]:
    """Every record of the database; DatabaseError if there is none, or one cannot be read."""
    try:
        for name, text in _texts(database):
            if (record := _record(name, text)) is not None:
                yield record
    except (OSError, ValueError, BadZipFile, yaml.YAMLError) as error:
        if isinstance(error, DatabaseError):
            raise
        raise DatabaseError(f"{database}: cannot be read ({error}); fetch the database again") from None


def _record(name: str, text: bytes) -> dict[str, Any] | None:
    """One file's record; None for other YAML files, which a repository also has. All YAML is read as text: 0.10 is a version."""
    if name.endswith(".json"):
        record = json.loads(text)
        if not isinstance(record, dict) or "id" not in record:
            raise DatabaseError(f"{name}: is no record of OSV; give the folder of a database in OSV's format")
        return record
    record = yaml.load(text, yaml.CBaseLoader)  # it makes texts, lists and tables alone
    return record if isinstance(record, dict) and {"id", "affected"} <= record.keys() else None


def _texts(database: Path) -> Iterator[tuple[str, bytes]]:
    if database.suffix == ".zip":
        with ZipFile(database) as archive:
            for name in archive.namelist():
                if name.endswith(FORMS):
                    yield f"{database}/{name}", archive.read(name)
        return
    for path in sorted(database.rglob("*")):
        if path.suffix in FORMS and not any(part.startswith(".") for part in path.relative_to(database).parts):
            yield str(path), path.read_bytes()


def all_versions() -> Versions:
    """Every version that a lock pins: of the image, of the load on the CPU, and of developers' tools."""
    found: Versions = {}
    for lock in sorted(ENV.glob("*.lock"), key=lambda path: (path.name not in LOCKS, path.name)):
        for name, version in PIN.findall(lock.read_text(encoding="utf-8")):
            locks = found.setdefault(canonicalize_name(name), {})
            locks[version] = (*locks.get(version, ()), lock.stem)
    return found


def holes_of(versions: Versions, database: Path) -> tuple[list[Vulnerable], int, str]:
    """The affected locked versions, how many records of PyPI the database has, and the day of its newest."""
    found, seen, newest = [], 0, ""
    for record in records(database):
        newest = max(newest, str(record.get("published", ""))[:10])
        for affected in record.get("affected", ()):
            package = affected.get("package", {})
            if package.get("ecosystem") != ECOSYSTEM:
                continue
            seen += 1
            name = canonicalize_name(package.get("name", ""))
            if record.get("withdrawn"):
                continue
            names = frozenset((record["id"], *record.get("aliases", ())))
            for version, locks in versions.get(name, {}).items():
                if is_affected(version, affected):
                    found.append(Vulnerable(record["id"], names, name, version, locks, record.get("summary", "")))
    return found, seen, newest


def is_affected(version: str, affected: dict[str, Any]) -> bool:
    """Whether a version is listed, or in a range, as OSV's schema evaluates them."""
    if version in affected.get("versions", ()):
        return True
    ranges = (each for each in affected.get("ranges", ()) if each.get("type") in ("ECOSYSTEM", "SEMVER"))
    return any(_in_range(Version(version), each.get("events", ())) for each in ranges)


def _in_range(version: Version, events: list[dict[str, str]]) -> bool:
    inside = False
    for kind, at in sorted((_at(event) for event in events), key=lambda pair: (pair[1], pair[0])):
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside


def _at(event: dict[str, str]) -> tuple[str, Version]:
    """One event and its version; an invalid Python version sorts last, so that no range ends there."""
    kind, text = next(iter(event.items()))
    try:
        return kind, Version(text)
    except InvalidVersion:
        return kind, Version("999999999")


def entry_of(found: Vulnerable, holes: tuple[Hole, ...]) -> Hole | None:
    """The entry of env/vex.toml for a record, by any of its names."""
    return next((hole for hole in holes if found.names & set(hole.ids) and hole.package == found.package), None)


def unknown_to_database(found: list[Vulnerable], holes: tuple[Hole, ...]) -> list[str]:
    """Entries of env/vex.toml for the locked versions that the database lacks."""
    known = {(each.package, name) for each in found for name in each.names}
    return [f"{hole.package} {name}" for hole in holes for name in hole.ids if (hole.package, name) not in known]


def main() -> int:
    database = Path(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1] else None
    versions = all_versions()
    try:
        if database is None or not database.exists():
            raise DatabaseError(f"AUDIT_DB: {database or 'not set'}: no database; give a folder or ZIP in OSV's format")
        found, seen, newest = holes_of(versions, database)
        if not seen:
            raise DatabaseError(f"{database}: has no record of {ECOSYSTEM}; give the database of that ecosystem")
    except DatabaseError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    unsaid = show(found, load_holes())
    print(
        f"{len(found)} holes in {len(versions)} locked packages by {seen} records, the newest of {newest or 'no day'}; "
        f"{unsaid} not in env/vex.toml"
    )
    return 1 if unsaid else 0


def show(found: list[Vulnerable], holes: tuple[Hole, ...]) -> int:
    """Print each vulnerability with its entry, and entries beyond the database; returns how many have no entry."""
    unsaid = 0
    for each in found:
        hole = entry_of(each, holes)
        unsaid += hole is None
        entry = "NOT IN env/vex.toml" if hole is None else f"{hole.status}: {hole.because or hole.action}"
        where = ", ".join(each.locks)
        print(
            f"{each.package} {each.version} ({where})  {', '.join(sorted(each.names))}  {each.summary[:100]}\n  {entry}"
        )
    for line in unknown_to_database(found, holes):
        print(f"{line}: in env/vex.toml, and not in this database")
    return unsaid


if __name__ == "__main__":
    raise SystemExit(main())
