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
    """Two keys without a passphrase, mine and other; skipped where ssh-keygen is not, or knows no such user."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        if shutil.which("ssh-keygen") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("ssh-keygen makes no keys here")
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A layout of an image of two layers."""
    folder = tmp_path / "oci"
    (folder / "blobs" / "sha256").mkdir(parents=True)
    config = provenance._put(folder, b"{}", provenance.CONFIG_TYPE)
    layers = [
        provenance._put(folder, content, "application/vnd.oci.image.layer.v1.tar") for content in (b"base", b"code")
    ]
    write_index(folder, {"schemaVersion": 2, "mediaType": provenance.MANIFEST_TYPE, "config": config, "layers": layers})
    return folder


def write_index(folder: Path, manifest: dict[str, Any]) -> None:
    """Have the layout hold this image, as "latest"."""
    entry = provenance._put(folder, json.dumps(manifest).encode(), provenance.MANIFEST_TYPE)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


@pytest.fixture
def signed(image: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A statement on it, of today, signed by mine."""
    monkeypatch.setenv("COMMIT", COMMIT)
    return stated(image, keys / "mine", tmp_path / "provenance.json", NEW)


def stated(image: Path, key: Path, path: Path, finished_on: str) -> Path:
    path.write_text(json.dumps(provenance.statement(image, finished_on)))
    signature.sign(path, key, NAMESPACE)
    return path


def test_a_statement_says_what_the_image_was_built_from(image, signed, keys):
    """SLSA's provenance of the image: commit, locks, base and builder, each by its digest, as its own reader reads it."""
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
def test_what_is_not_signed_by_whom_you_name_is_refused(forge, says, image, signed, keys):
    """One fault, that says which."""
    forge(signed, keys)
    found = verify(signed, keys / "mine.pub", layout.image_digest(image))
    assert found.signer is None and len(found.faults) == 1 and says in found.faults[0]


def test_a_statement_on_another_image_is_refused(signed, keys):
    """However genuine."""
    (fault,) = verify(signed, keys / "mine.pub", "sha256:" + "0" * 64).faults
    assert "and not sha256:000" in fault


def test_a_tag_that_was_moved_back_is_refused(image, signed, keys, tmp_path):
    """An older image, signed by the same key; the same one again is taken."""
    digest, old = layout.image_digest(image), stated(image, keys / "mine", tmp_path / "old.json", OLD)
    (fault,) = verify(old, keys / "mine.pub", digest, seen=signed).faults
    assert "the tag was moved back" in fault
    assert verify(signed, keys / "mine.pub", digest, seen=old).faults == ()
    assert verify(signed, keys / "mine.pub", digest, seen=signed).faults == ()
    assert verify(old, keys / "mine.pub", digest, seen=tmp_path / "never.json").faults == ()


@pytest.mark.parametrize("text", ["{", "[]", '{"_type": "https://in-toto.io/Statement/v0.1"}', ""])
def test_what_is_no_statement_is_said_in_a_line(text, tmp_path):
    """Of another form, empty, or not there."""
    (tmp_path / "a.json").write_text(text)
    for name in ("a.json", "none.json"):
        with pytest.raises(BadInput, match=rf"{name}: no statement"):
            read_statement(tmp_path / name)


def test_a_layer_that_was_changed_is_found(image):
    """By its name, which is its hash; so is a manifest that was changed, and a blob that is not there."""
    assert list(provenance.changed_blobs(image)) == []
    code = layout.blob(image, f"sha256:{sha256(b'code').hexdigest()}")
    code.write_bytes(b"evil")
    assert list(provenance.changed_blobs(image)) == [f"sha256:{code.name} was changed"]
    code.unlink()
    assert list(provenance.changed_blobs(image)) == [f"sha256:{code.name} is missing"]
    layout.blob(image, layout.image_digest(image)).write_bytes(b"{}")
    assert list(provenance.changed_blobs(image)) == [f"{layout.image_digest(image)} was changed"]


def test_a_statement_travels_as_an_image(signed, tmp_path):
    """Packed and unpacked, both files are the same to the byte; an image of another kind is none."""
    provenance.pack(signed, tmp_path / "packed")
    assert list(provenance.changed_blobs(tmp_path / "packed")) == []
    provenance.unpack(tmp_path / "packed", tmp_path / "back.json")
    for end in ("", ".sig"):
        assert (tmp_path / f"back.json{end}").read_bytes() == Path(f"{signed}{end}").read_bytes()


def test_the_script_refuses_with_exit_1(image, signed, keys, monkeypatch, capsys):
    """And says whose the image is where it takes it."""
    digest, signers = layout.image_digest(image), str(keys / "mine.pub")
    for words, code in (((signers, digest), 0), ((signers, "sha256:0"), 1), ((str(keys / "other.pub"), digest), 1)):
        monkeypatch.setattr(sys, "argv", ["provenance.py", "verify", str(signed), *words])
        assert provenance.main() == code
    said = capsys.readouterr()
    assert f"{digest}: built from {COMMIT} on {NEW}, signed by signer" in said.out
    assert said.err.count("Error: ") == 2


# ---- doctor


def environment(signed: Path, keys: Path, **more: str) -> dict[str, str]:
    return {"LOADCHECK_PROVENANCE": str(signed), "LOADCHECK_SIGNERS": str(keys / "mine.pub"), **more}


def findings(environ: dict[str, str]) -> list[tuple[Level, str]]:
    plan = make_plan(load_profile("smollm2-135m-cpu"))
    machine = Machine(provenance=of_this_process(environ))
    return [(each.level, each.what) for each in origin.check_provenance(machine, plan)]


def test_doctor_says_nothing_without_a_statement():
    """A checkout has none."""
    assert findings({}) == []


def test_doctor_holds_what_runs_against_the_statement(image, signed, keys):
    """The image, the commit and the lock are those that were signed."""
    own = environment(signed, keys, LOADCHECK_IMAGE=layout.image_digest(image), LOADCHECK_COMMIT=COMMIT)
    assert findings(own) == [(Level.OK, f"built from {COMMIT}, signed by signer")]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"LOADCHECK_IMAGE": "sha256:" + "1" * 64}, "and not sha256:111"),
        ({"LOADCHECK_COMMIT": "f" * 40}, "and here runs ffff"),
        ({"LOADCHECK_SIGNERS": ""}, "by nobody whom you named"),
        ({"LOADCHECK_PROVENANCE": "/nowhere.json"}, "no statement"),
    ],
)
def test_doctor_finds_what_is_not_as_signed(more, says, signed, keys):
    """Each is a problem of its own."""
    ((level, what),) = findings(environment(signed, keys) | more)
    assert level is Level.PROBLEM and says in what


def test_doctor_finds_another_lock(signed, keys, monkeypatch):
    """What is installed was not built from the lock that was signed."""
    monkeypatch.setattr("loadcheck.provenance.lock_sha256", lambda: "0" * 64)
    ((level, what),) = findings(environment(signed, keys))
    assert level is Level.PROBLEM and "another requirements.lock" in what


def test_the_command_asks_for_it(signed, keys, monkeypatch, capsys):
    """`doctor` names the check beside all others."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    for name, value in environment(signed, keys).items():
        monkeypatch.setenv(name, value)
    cli.run(["doctor", "--profile", "smollm2-135m-cpu", "--json"])
    checks = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert checks["provenance"]["level"] == "ok"
