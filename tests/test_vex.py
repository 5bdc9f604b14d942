"""Known vulnerabilities as OpenVEX, and the audit with a database in OSV's format."""

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

from tests.conftest import ROOT, thinned

sys.path.insert(0, str(ROOT / "scripts" / "image"))
vex: Any = import_module("vex")
audit: Any = import_module("audit")
sbom: Any = import_module("sbom")
provenance: Any = import_module("provenance")
HOLES = vex.load_holes()
VERSIONS = audit.all_versions()


@pytest.mark.parametrize("hole", thinned(HOLES), ids=lambda hole: hole.ids[0])
def test_each_entry_is_of_a_locked_version_with_existing_tests(hole):
    """Each entry is of a version in a lock, and its named tests exist."""
    versions = VERSIONS[hole.package]
    assert hole.fixed is None or all(Version(version) < Version(hole.fixed) for version in versions)
    for test in hole.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test


def test_packages_in_no_image_are_in_none():
    """An entry that says "in no image" is in neither the image's locks nor the CPU's, and the image's document omits it."""
    (locks,) = VERSIONS["cryptography"].values()
    assert locks == ("engines",)
    assert "cryptography" not in vex.openvex("sha256:abc", HOLES)


def test_every_lock_is_read():
    """A package in several locks is listed with all of them, and with both versions if they differ."""
    (torch,) = VERSIONS["torch"].values()
    assert torch[0] == "requirements" and "cpu" in torch
    assert {path.stem for path in (ROOT / "env").glob("*.lock")} - {"weights"} == {
        lock for each in VERSIONS.values() for locks in each.values() for lock in locks
    }


def test_the_document_follows_openvex():
    """The document has the keys that OpenVEX requires, each status with its reason, and is the same for the same image."""
    document = json.loads(vex.openvex("sha256:abc", HOLES))
    assert {"@context", "@id", "author", "timestamp", "version", "statements"} == set(document)
    assert document["@context"] == "https://openvex.dev/ns/v0.2.0"
    for statement in document["statements"]:
        assert statement["vulnerability"]["name"] and statement["products"][0]["subcomponents"][0]["@id"].startswith(
            "pkg:pypi/"
        )
        wanted = {"not_affected": {"justification", "impact_statement"}, "affected": {"action_statement"}}[
            statement["status"]
        ]
        assert set(statement) == {"vulnerability", "products", "status"} | wanted
    assert vex.openvex("sha256:abc", HOLES) == vex.openvex("sha256:abc", HOLES)


@pytest.mark.parametrize(
    "entry",
    [{"status": "affected"}, {"status": "not_affected", "justification": "component_not_present", "because": "so"}],
)
def test_a_statement_without_its_reason_is_refused(entry):
    """An affected entry needs an action, and one that is not affected a test."""
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
    """A version is affected if listed, or between introduced and fixed; git events are ignored."""
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


def test_an_explained_vulnerability_passes(tmp_path, monkeypatch, capsys):
    """A vulnerability explained under an alias passes, with the explanation."""
    assert run_audit(monkeypatch, database(tmp_path, record(versions=["2.5.1"]))) == 0
    assert "not_affected: a pickle runs code" in capsys.readouterr().out


def test_an_unexplained_vulnerability_fails(tmp_path, monkeypatch, capsys):
    """An unexplained one fails, also from a ZIP. Withdrawn ones, other versions and packages outside the locks are ignored."""
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


def pypa_database(folder: Path, holes: Any) -> None:
    """A database in PyPA's format: YAML in vulns/PACKAGE/ID.yaml, other YAML beside it, and a workflow."""
    for hole in holes:
        for name in hole.ids:
            events = [{"introduced": "0"}, *([{"fixed": hole.fixed}] if hole.fixed else [])]
            made = {
                "id": f"PYSEC-{name}", "published": "2026-07-01T00:00:00Z", "aliases": [name],
                "affected": [{"package": {"name": hole.package, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
            }  # fmt: skip
            path = folder / "vulns" / hole.package / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.dump(made, Dumper=yaml.CSafeDumper))
    (folder / "triage").mkdir()
    (folder / "triage" / "false_positives.yaml").write_text("false_positives: [CVE-1]\n")
    (folder / ".github").mkdir()
    (folder / ".github" / "a.yaml").write_text("{ no: yaml")


def test_a_database_in_pypas_form_is_read(tmp_path, monkeypatch, capsys):
    """Each entry of env/vex.toml is found in it once and explained, and none is reported as unknown to it."""
    pypa_database(tmp_path, HOLES)
    assert run_audit(monkeypatch, tmp_path) == 0
    out = capsys.readouterr().out
    count = sum(len(hole.ids) for hole in HOLES)
    assert out.splitlines()[-1].startswith(f"{count} holes in ") and "the newest of 2026-07-01" in out
    assert "not in this database" not in out


def test_missing_vulnerabilities_are_reported(tmp_path, monkeypatch, capsys):
    """A vulnerability that env/vex.toml lacks fails; one that the database lacks is reported without failing."""
    pypa_database(tmp_path, HOLES[1:])
    monkeypatch.setattr(audit, "load_holes", lambda: HOLES[:-1])
    assert run_audit(monkeypatch, tmp_path) == 1
    out = capsys.readouterr().out
    assert out.count("NOT IN env/vex.toml") == len(HOLES[-1].ids)
    assert f"{HOLES[0].package} {HOLES[0].ids[0]}: in env/vex.toml, and not in this database" in out


def test_a_version_in_yaml_is_text():
    """0.10 is not 0.1."""
    text = b"id: PYSEC-1\naffected:\n- versions: [0.10, 1.0]\n"
    assert audit._record("a.yaml", text)["affected"][0]["versions"] == ["0.10", "1.0"]


def test_a_vulnerability_has_one_entry(monkeypatch):
    """Two entries for one vulnerability are refused, as they could contradict each other."""
    monkeypatch.setattr(vex, "load", lambda *_: vex.Holes(hole=(*HOLES, HOLES[0])))
    with pytest.raises(ValueError, match=f"{HOLES[0].ids[0]}: there twice; keep one"):
        vex.load_holes()


@pytest.mark.parametrize("content", [None, "[]", "{", '{"id": "A", "affected": []}'])
def test_an_invalid_database_exits_2(tmp_path, monkeypatch, capsys, content):
    """A missing or damaged database, another format, and one without PyPI records exit 2 with one line."""
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert run_audit(monkeypatch, tmp_path if content else "") == 2
    assert capsys.readouterr().err.startswith("Error: ")


def test_sbom_and_vex_are_of_the_same_image(tmp_path, monkeypatch):
    """The VEX document is on a component of the bill of materials, and on the same image by its digest."""
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
    document = json.loads((tmp_path / "vex.openvex.json").read_text())["statements"][0]["products"][0]
    assert document["subcomponents"][0]["@id"] in listed
    assert document["@id"].removeprefix("pkg:oci/loadcheck@").replace("%3A", ":") == manifest["digest"]
