"""Where an image comes from: what is stated, signed, and refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli, signature
from loadcheck.doctor import origin
from loadcheck.errors import BadInput
from loadcheck.machine import Level, Machine
from loadcheck.plan import make_plan
from loadcheck.provenance import NAMESPACE, of_this_process, read_statement, verify
from loadcheck.runs.origin import lock_sha256
from loadcheck.specs.profile import load_profile
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "image"))
provenance: Any = import_module("provenance")
layout: Any = import_module("layout")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEW, OLD = "2026-11-29T10:00:00Z", "2026-11-28T10:00:00Z"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keys without a passphrase, mine and other; skipped without ssh-keygen, or if it does not know the user."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        if shutil.which("ssh-keygen") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("ssh-keygen makes no keys here")
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image layout with two layers."""
    folder = tmp_path / "oci"
    (folder / "blobs" / "sha256").mkdir(parents=True)
    config = provenance._put(folder, b"{}", provenance.CONFIG_TYPE)
    layers = [
        provenance._put(folder, content, "application/vnd.oci.image.layer.v1.tar") for content in (b"base", b"code")
    ]
    write_index(folder, {"schemaVersion": 2, "mediaType": provenance.MANIFEST_TYPE, "config": config, "layers": layers})
    return folder


def write_index(folder: Path, manifest: dict[str, Any]) -> None:
    """Tag this image as "latest" in the layout."""
    entry = provenance._put(folder, json.dumps(manifest).encode(), provenance.MANIFEST_TYPE)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


@pytest.fixture
def signed(image: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A statement on the image, of today, signed by mine."""
    monkeypatch.setenv("COMMIT", COMMIT)
    return stated(image, keys / "mine", tmp_path / "provenance.json", NEW)


def stated(image: Path, key: Path, path: Path, finished_on: str) -> Path:
    path.write_text(json.dumps(provenance.statement(image, finished_on)))
    signature.sign(path, key, NAMESPACE)
    return path


def test_a_statement_says_what_the_image_was_built_from(image, signed, keys):
    """The statement is SLSA provenance of the image: commit, locks, base and builder, each with its digest, as its own reader reads it."""
    data, read = json.loads(signed.read_text()), read_statement(signed)
    assert (data["_type"], data["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert data["predicate"]["runDetails"]["builder"]["id"] == "urn:loadcheck:builder:buildah"
    assert read.digest == layout.image_digest(image) and read.dependency("source") == {"gitCommit": COMMIT}
    assert read.dependency("env/requirements.lock") == {"sha256": lock_sha256()}
    assert len(read.dependency("base")["sha256"]) == 64
    found = verify(signed, keys / "mine.pub", layout.image_digest(image))
    assert (found.signer, found.faults) == ("signer", ())


def changed_statement(path: Path) -> None:
    path.write_text(path.read_text().replace(COMMIT, COMMIT[::-1]))


FORGED = {
    "a statement that was edited": (lambda path, _: changed_statement(path), "Could not verify"),
    "another's signature": (lambda path, keys: signature.sign(path, keys / "other", NAMESPACE), "its key is none of"),
    "a signature for a fleet": (
        lambda path, keys: signature.sign(path, keys / "mine", "fleet@loadcheck"),
        "Could not verify",
    ),
    "no signature": (lambda path, _: path.with_name(path.name + ".sig").unlink(), "there is no provenance.json.sig"),
}


@pytest.mark.parametrize(("forge", "says"), FORGED.values(), ids=FORGED)
def test_a_statement_not_signed_by_the_given_key_is_refused(forge, says, image, signed, keys):
    """A statement not signed by the given key is refused with one fault that names the reason."""
    forge(signed, keys)
    found = verify(signed, keys / "mine.pub", layout.image_digest(image))
    assert found.signer is None and len(found.faults) == 1 and says in found.faults[0]


def test_a_statement_on_another_image_is_refused(signed, keys):
    """A genuine statement on another image is refused."""
    (fault,) = verify(signed, keys / "mine.pub", "sha256:" + "0" * 64).faults
    assert "not sha256:000" in fault


def test_an_older_image_is_refused(image, signed, keys, tmp_path):
    """An older image signed by the same key is refused; the same one again is accepted."""
    digest, old = layout.image_digest(image), stated(image, keys / "mine", tmp_path / "old.json", OLD)
    (fault,) = verify(old, keys / "mine.pub", digest, seen=signed).faults
    assert "the tag was moved back" in fault
    assert verify(signed, keys / "mine.pub", digest, seen=old).faults == ()
    assert verify(signed, keys / "mine.pub", digest, seen=signed).faults == ()
    assert verify(old, keys / "mine.pub", digest, seen=tmp_path / "never.json").faults == ()


@pytest.mark.parametrize("text", ["{", "[]", '{"_type": "https://in-toto.io/Statement/v0.1"}', ""])
def test_an_invalid_statement_is_reported_on_one_line(text, tmp_path):
    """Another format, an empty file and a missing file are reported on one line."""
    (tmp_path / "a.json").write_text(text)
    for name in ("a.json", "none.json"):
        with pytest.raises(BadInput, match=rf"{name}: no statement"):
            read_statement(tmp_path / name)


def test_a_changed_layer_is_found(image):
    """A changed layer is found by its name, which is its hash; so are a changed manifest and a missing blob."""
    assert list(provenance.changed_blobs(image)) == []
    code = layout.blob(image, f"sha256:{sha256(b'code').hexdigest()}")
    code.write_bytes(b"evil")
    assert list(provenance.changed_blobs(image)) == [f"sha256:{code.name} was changed"]
    code.unlink()
    assert list(provenance.changed_blobs(image)) == [f"sha256:{code.name} is missing"]
    layout.blob(image, layout.image_digest(image)).write_bytes(b"{}")
    assert list(provenance.changed_blobs(image)) == [f"{layout.image_digest(image)} was changed"]


def test_a_statement_can_be_packed_as_an_image(signed, tmp_path):
    """Packed as an image and unpacked, both files are the same to the byte; another kind of image is refused."""
    provenance.pack(signed, tmp_path / "packed")
    assert list(provenance.changed_blobs(tmp_path / "packed")) == []
    provenance.unpack(tmp_path / "packed", tmp_path / "back.json")
    for end in ("", ".sig"):
        assert (tmp_path / f"back.json{end}").read_bytes() == Path(f"{signed}{end}").read_bytes()


def test_the_script_refuses_with_exit_1(image, signed, keys, monkeypatch, capsys):
    """The script exits 1 on refusal, and names the signer otherwise."""
    digest, signers = layout.image_digest(image), str(keys / "mine.pub")
    for words, code in (((signers, digest), 0), ((signers, "sha256:0"), 1), ((str(keys / "other.pub"), digest), 1)):
        monkeypatch.setattr(sys, "argv", ["provenance.py", "verify", str(signed), *words])
        assert provenance.main() == code
    output = capsys.readouterr()
    assert f"{digest}: built from {COMMIT} on {NEW}, signed by signer" in output.out
    assert output.err.count("Error: ") == 2


# ---- doctor


def environment(signed: Path, keys: Path, **more: str) -> dict[str, str]:
    return {"LOADCHECK_PROVENANCE": str(signed), "LOADCHECK_SIGNERS": str(keys / "mine.pub"), **more}


def findings(environ: dict[str, str]) -> list[tuple[Level, str]]:
    plan = make_plan(load_profile("smollm2-135m-cpu"))
    machine = Machine(provenance=of_this_process(environ))
    return [(each.level, each.what) for each in origin.check_provenance(machine, plan)]


def test_doctor_reports_nothing_without_a_statement():
    """doctor has no finding in a checkout, which has no statement."""
    assert findings({}) == []


def test_doctor_accepts_the_signed_image(image, signed, keys):
    """doctor accepts the signed image, commit and lock."""
    own = environment(signed, keys, LOADCHECK_IMAGE=layout.image_digest(image), LOADCHECK_COMMIT=COMMIT)
    assert findings(own) == [(Level.OK, f"built from {COMMIT}, signed by signer")]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"LOADCHECK_IMAGE": "sha256:" + "1" * 64}, "not sha256:111"),
        ({"LOADCHECK_COMMIT": "f" * 40}, "but ffffffff"),
        ({"LOADCHECK_SIGNERS": ""}, "by nobody whom you named"),
        ({"LOADCHECK_PROVENANCE": "/nowhere.json"}, "no statement"),
    ],
)
def test_doctor_finds_differences_from_the_statement(more, says, signed, keys):
    """Each difference from the signed statement is a problem."""
    ((level, what),) = findings(environment(signed, keys) | more)
    assert level is Level.PROBLEM and says in what


def test_doctor_finds_another_lock(signed, keys, monkeypatch):
    """doctor finds that the installed lock is not the signed one."""
    monkeypatch.setattr("loadcheck.provenance.lock_sha256", lambda: "0" * 64)
    ((level, what),) = findings(environment(signed, keys))
    assert level is Level.PROBLEM and "another requirements.lock" in what


def test_the_doctor_command_checks_the_statement(signed, keys, monkeypatch, capsys):
    """The command `doctor` lists the check beside all others."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    monkeypatch.setattr("loadcheck.doctor.facts.distributions", tuple)  # comparing each installed file takes a while
    for name, value in environment(signed, keys).items():
        monkeypatch.setenv(name, value)
    cli.run(["doctor", "--profile", "smollm2-135m-cpu", "--json"])
    checks = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert checks["provenance"]["level"] == "ok"
