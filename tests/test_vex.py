"""What is said of known holes, as OpenVEX, and the audit by a database in OSV's format."""

import io
import json
import re
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "image"))
vex: Any = import_module("vex")
audit: Any = import_module("audit")
sbom: Any = import_module("sbom")
provenance: Any = import_module("provenance")
HOLES = vex.load_holes()


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.ids[0])
def test_each_hole_is_of_a_locked_version_and_has_its_proof(hole):
    """The lock still has it, and the tests that are named are there."""
    versions = audit.all_versions()[hole.package]
    assert hole.fixed is None or all(Version(version) < Version(hole.fixed) for version in versions)
    for test in hole.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test


def test_what_is_said_to_be_in_no_image_is_in_none():
    """Neither the image's locks nor that of the load on the CPU pins it, and the image's document leaves it out."""
    (locks,) = audit.all_versions()["cryptography"].values()
    assert locks == ("engines",)
    assert "cryptography" not in vex.openvex("sha256:abc", HOLES)


def test_every_lock_is_looked_at():
    """A package of several locks is named with all of them, one of two versions with both."""
    versions = audit.all_versions()
    (torch,) = versions["torch"].values()
    assert torch[0] == "requirements" and "cpu" in torch
    assert {path.stem for path in (ROOT / "env").glob("*.lock")} - {"weights"} == {
        lock for each in versions.values() for locks in each.values() for lock in locks
    }


def test_the_document_is_openvex():
    """The keys that its specification asks for, each status with its reason; of the same image the same."""
    document = json.loads(vex.openvex("sha256:abc", HOLES))
    assert {"@context", "@id", "author", "timestamp", "version", "statements"} == set(document)
    assert document["@context"] == "https://openvex.dev/ns/v0.2.0"
    for said in document["statements"]:
        assert said["vulnerability"]["name"] and said["products"][0]["subcomponents"][0]["@id"].startswith("pkg:pypi/")
        wanted = {"not_affected": {"justification", "impact_statement"}, "affected": {"action_statement"}}[
            said["status"]
        ]
        assert set(said) == {"vulnerability", "products", "status"} | wanted
    assert vex.openvex("sha256:abc", HOLES) == vex.openvex("sha256:abc", HOLES)


@pytest.mark.parametrize(
    "entry",
    [{"status": "affected"}, {"status": "not_affected", "justification": "component_not_present", "because": "so"}],
)
def test_a_statement_without_its_reason_is_refused(entry):
    """An affected one has an action, one that is not affected a test."""
    with pytest.raises(ValueError, match="without a"):
        vex.Hole(ids=("CVE-1",), package="torch", **entry)


def record(package: str = "torch", **affected: Any) -> dict[str, Any]:
    package_ = {"ecosystem": "PyPI", "name": package}
    return {"id": "GHSA-1", "aliases": ["CVE-2025-32434"], "affected": [{"package": package_, **affected}]}


def span(*events: dict[str, str]) -> list[dict[str, Any]]:
    return [{"type": "ECOSYSTEM", "events": list(events)}]


@pytest.mark.parametrize(
    ("version", "affected", "expected"),
    [
        ("2.5.1", {"versions": ["2.5.1"]}, True),
        ("2.5.1", {"ranges": span({"introduced": "0"}, {"fixed": "2.6.0"})}, True),
        ("2.6.0", {"ranges": span({"introduced": "0"}, {"fixed": "2.6.0"})}, False),
        ("2.5.1", {"ranges": span({"introduced": "2.5.1"}, {"last_affected": "2.5.1"})}, True),
        ("2.5.2", {"ranges": span({"introduced": "2.5.1"}, {"last_affected": "2.5.1"})}, False),
        ("1.0", {"ranges": span({"introduced": "2"}, {"fixed": "3"})}, False),
        ("3.5", {"ranges": span({"introduced": "2"}, {"fixed": "3"}, {"introduced": "3.4"})}, True),
        ("1.0", {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_a_version_is_affected_as_osv_evaluates_it(version, affected, expected):
    """Listed, or between introduced and fixed; the events of git are none of ours."""
    assert audit.is_affected(version, affected) is expected


def run_audit(monkeypatch, database: Path | str) -> int:
    monkeypatch.setattr(sys, "argv", ["audit.py", str(database)])
    return int(audit.main())


def database(tmp_path: Path, *records: dict[str, Any]) -> Path:
    folder = tmp_path / "osv"
    folder.mkdir()
    for number, one in enumerate(records):
        (folder / f"{number}.json").write_text(json.dumps(one))
    return folder


def test_a_hole_that_is_explained_passes(tmp_path, monkeypatch, capsys):
    """By an alias, with what is said of it."""
    assert run_audit(monkeypatch, database(tmp_path, record(versions=["2.5.1"]))) == 0
    assert "not_affected: a pickle runs code" in capsys.readouterr().out


def test_a_hole_that_nobody_explained_fails(tmp_path, monkeypatch, capsys):
    """In a ZIP, too; what is withdrawn, of another version or of a package that is not locked is none."""
    unknown = {**record(versions=["2.5.1"]), "aliases": ["CVE-1"]}
    others = [
        {**unknown, "withdrawn": "2025-01-01T00:00:00Z"},
        record(versions=["9"]),
        record("not-locked", versions=["1"]),
    ]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, one in enumerate([unknown, *others]):
            archive.writestr(f"{number}.json", json.dumps(one))
    assert run_audit(monkeypatch, tmp_path / "all.zip") == 1
    assert capsys.readouterr().out.count("NOT IN env/vex.toml") == 1


def as_pypa_has_it(folder: Path, holes: Any) -> None:
    """A made database in the form of PyPA's: YAML in vulns/PACKAGE/ID.yaml, other YAML beside it, and a workflow."""
    for hole in holes:
        for name in hole.ids:
            events = [{"introduced": "0"}, *([{"fixed": hole.fixed}] if hole.fixed else [])]
            made = {
                "id": f"PYSEC-{name}", "published": "2026-07-01T00:00:00Z", "aliases": [name],
                "affected": [{"package": {"name": hole.package, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
            }  # fmt: skip
            path = folder / "vulns" / hole.package / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(made))
    (folder / "triage").mkdir()
    (folder / "triage" / "false_positives.yaml").write_text("false_positives: [CVE-1]\n")
    (folder / ".github").mkdir()
    (folder / ".github" / "a.yaml").write_text("{ no: yaml")


def test_a_database_in_pypas_form_is_read(tmp_path, monkeypatch, capsys):
    """Each hole of env/vex.toml is found in it once and explained, and none is called unknown to it."""
    as_pypa_has_it(tmp_path, HOLES)
    assert run_audit(monkeypatch, tmp_path) == 0
    out = capsys.readouterr().out
    count = sum(len(hole.ids) for hole in HOLES)
    assert out.splitlines()[-1].startswith(f"{count} holes in ") and "the newest of 2026-07-01" in out
    assert "not in this database" not in out


def test_each_hole_that_is_missing_is_told(tmp_path, monkeypatch, capsys):
    """One that env/vex.toml has not fails; one that the database has not is named, and is no failure."""
    as_pypa_has_it(tmp_path, HOLES[1:])
    monkeypatch.setattr(audit, "load_holes", lambda: HOLES[:-1])
    assert run_audit(monkeypatch, tmp_path) == 1
    out = capsys.readouterr().out
    assert out.count("NOT IN env/vex.toml") == len(HOLES[-1].ids)
    assert f"{HOLES[0].package} {HOLES[0].ids[0]}: in env/vex.toml, and not in this database" in out


def test_a_version_in_yaml_is_text():
    """0.10 is no 0.1."""
    text = b"id: PYSEC-1\naffected:\n- versions: [0.10, 1.0]\n"
    assert audit._record("a.yaml", text)["affected"][0]["versions"] == ["0.10", "1.0"]


def test_a_hole_is_explained_once(monkeypatch):
    """Two entries for one could contradict each other."""
    monkeypatch.setattr(vex, "load", lambda *_: vex.Holes(hole=(*HOLES, HOLES[0])))
    with pytest.raises(ValueError, match=f"{HOLES[0].ids[0]}: there twice; keep one"):
        vex.load_holes()


@pytest.mark.parametrize("content", [None, "[]", "{", '{"id": "A", "affected": []}'])
def test_no_database_is_no_pass(tmp_path, monkeypatch, capsys, content):
    """Missing, of another form, damaged, or without a record of PyPI: exit 2, in a line."""
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert run_audit(monkeypatch, tmp_path if content else "") == 2
    assert capsys.readouterr().err.startswith("Error: ")


def test_the_bill_of_materials_comes_with_it(tmp_path, monkeypatch):
    """Of the same image, by its digest."""
    wheel = b"Name: torch\nVersion: 2.5.1\n\n"
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        entry = tarfile.TarInfo("opt/venv/lib/python3.11/site-packages/torch-2.5.1.dist-info/METADATA")
        entry.size = len(wheel)
        tar.addfile(entry, io.BytesIO(wheel))
    layout = tmp_path / "oci"
    config = provenance._put(layout, b"{}", provenance.CONFIG_TYPE)
    layers = [provenance._put(layout, layer.getvalue(), "application/vnd.oci.image.layer.v1.tar")]
    manifest = provenance._put(
        layout, json.dumps({"config": config, "layers": layers}).encode(), provenance.MANIFEST_TYPE
    )
    (layout / "index.json").write_text(json.dumps({"manifests": [manifest]}))
    monkeypatch.setattr(sys, "argv", ["sbom.py", str(layout), str(tmp_path)])
    assert sbom.main() == 0
    listed = {each["purl"] for each in json.loads((tmp_path / "sbom.cdx.json").read_text())["components"]}
    said = json.loads((tmp_path / "vex.openvex.json").read_text())["statements"][0]["products"][0]
    assert said["subcomponents"][0]["@id"] in listed
    assert said["@id"].removeprefix("pkg:oci/loadcheck@").replace("%3A", ":") == manifest["digest"]
