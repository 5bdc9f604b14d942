"""fleet bundle and verify: only what was signed is trusted."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from loadcheck import cli
from loadcheck.fleet.bundle import NAMESPACE, Fault, bundle, verify
from loadcheck.fleet.plan import read_plan
from loadcheck.fleet.statement import NAME, PREDICATE, SIGNATURE, TYPE, configuration
from loadcheck.runs.origin import lock_sha256
from loadcheck.signature import sign
from loadcheck.specs.files import changed
from tests.fleets import DIGEST, Node, fleet
from tests.judging import only_error


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two SSH keys, "mine" and "other"; skipped without ssh-keygen, or if it does not know the user."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", str(folder / name)]
        if shutil.which("ssh-keygen") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("ssh-keygen makes no keys here")
    return folder


@pytest.fixture(scope="module")
def made(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled fleet of two passing nodes, to be copied."""
    root = tmp_path_factory.mktemp("bundle") / "runs"
    root.mkdir()
    fleet(root, 2)
    assert bundle(root, keys / "mine", tar=root.parent / "runs.tar.gz").passed
    return root


@pytest.fixture
def bundle_copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


def test_the_statement_follows_in_toto(made: Path):
    """The statement is an in-toto test result over the SHA-256 of each file, configured by image, lock and profile."""
    data = json.loads((made / NAME).read_text())
    assert (data["_type"], data["predicateType"]) == (TYPE, PREDICATE)
    names = [each["name"] for each in data["subject"]]
    assert names == sorted(
        p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file() and p.name not in (NAME, SIGNATURE)
    )
    assert all(len(each["digest"]["sha256"]) == 64 for each in data["subject"])
    predicate = data["predicate"]
    assert (predicate["result"], predicate["passedTests"], predicate["failedTests"]) == (
        "PASSED",
        ["h200-0", "h200-1"],
        [],
    )
    found = {each["name"]: each["digest"]["sha256"] for each in predicate["configuration"]}
    assert found["image"] == DIGEST[7:] and found["requirements.lock"] == lock_sha256()
    plan = read_plan(made / "fleet.json")
    assert found.keys() == {"image", "requirements.lock", f"profile {plan.profile.name}"}
    other = structs.replace(plan, profile=changed(plan.profile, {"max_seq_length": 64}))
    assert configuration(other)[:2] == configuration(plan)[:2] and configuration(other)[2] != configuration(plan)[2]
    assert [each["name"] for each in configuration(structs.replace(plan, image=None))][:1] == ["requirements.lock"]
    assert configuration(None) == []


def test_a_signed_bundle_is_verified(made: Path, keys: Path, capsys: pytest.CaptureFixture[str]):
    """A bundle is verified from its folder or a tar, by a public key or a file of allowed signers, which names the signer."""
    allowed = keys / "allowed"
    allowed.write_text(f'a.person@example namespaces="{NAMESPACE}" {(keys / "mine.pub").read_text()}')
    for target, signers, name in (
        (made, keys / "mine.pub", "signer"),
        (made.parent / "runs.tar.gz", allowed, "a.person@example"),
    ):
        assert cli.run(["fleet", "verify", str(target), "--signers", str(signers), "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert (data["verified"], data["verdict"], data["signer"], data["faults"]) == (True, "pass", name, [])


def _edited(path: Path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


def _resigned(root: Path, keys: Path, old: bytes, new: bytes) -> None:
    """A false statement, signed with the right key."""
    _edited(root / NAME, old, new)
    sign(root / NAME, keys / "mine", NAMESPACE)


def _with_a_link(root: Path, keys: Path) -> None:
    (root / "h200-0/1/load.log").unlink()
    (root / "h200-0/1/load.log").symlink_to(root / "h200-1/1/load.log")


def _with_a_linked_signature(root: Path, keys: Path) -> None:
    (root / SIGNATURE).rename(root.parent / SIGNATURE)
    (root / SIGNATURE).symlink_to(root.parent / SIGNATURE)


def _for_another_purpose(root: Path, keys: Path) -> None:
    (root / SIGNATURE).unlink()
    command = ["ssh-keygen", "-Y", "sign", "-f", str(keys / "mine"), "-n", "git", str(root / NAME)]
    subprocess.run(command, check=True, capture_output=True)


FAULTS: dict[str, tuple[Callable[[Path, Path], object], set[Fault]]] = {
    "an edited log": (lambda r, k: _edited(r / "h200-0/1/load.log", b"5.3541", b"5.3542"), {Fault.CHANGED}),
    "an edited plan": (lambda r, k: _edited(r / "fleet.json", b"h200-1", b"h200-2"), {Fault.CHANGED}),
    "a file that is missing": (lambda r, k: (r / "h200-1/1/run.json").unlink(), {Fault.MISSING}),
    "a node that is missing": (lambda r, k: shutil.rmtree(r / "h200-1"), {Fault.MISSING}),
    "a node that was added": (lambda r, k: Node(r, "h200-2", 2), {Fault.ADDED}),
    "a file that was added": (lambda r, k: (r / "h200-0" / "note.txt").write_text("x"), {Fault.ADDED}),
    "a link": (lambda r, k: (r / "h200-0" / "x").symlink_to("/etc"), {Fault.ADDED}),
    "a file that became a link": (_with_a_link, {Fault.MISSING, Fault.ADDED}),
    "an edited statement": (lambda r, k: _edited(r / NAME, b'"pass": 2', b'"pass": 3'), {Fault.FORGED}),
    "a forged signature": (lambda r, k: _edited(r / SIGNATURE, b"\n", b"A\n"), {Fault.FORGED}),
    "an empty signature": (lambda r, k: (r / SIGNATURE).write_text(""), {Fault.FORGED}),
    "no signature": (lambda r, k: (r / SIGNATURE).unlink(), {Fault.FORGED}),
    "another's signature": (lambda r, k: sign(r / NAME, k / "other", NAMESPACE), {Fault.FORGED}),
    "a signature for another purpose": (_for_another_purpose, {Fault.FORGED}),
    "a pass that was none": (lambda r, k: _resigned(r, k, b'"PASSED"', b'"FAILED"'), {Fault.VERDICT}),
    "a node that did not pass": (lambda r, k: _resigned(r, k, b'"h200-1"\n', b'"h200-9"\n'), {Fault.VERDICT}),
    "another image": (lambda r, k: _resigned(r, k, DIGEST.encode(), b"sha256:" + b"b" * 64), {Fault.VERDICT}),
    "a file outside": (lambda r, k: _resigned(r, k, b'"fleet.json"', b'"../fleet.json"'), {Fault.FORGED, Fault.ADDED}),
    "a file of this machine": (lambda r, k: _resigned(r, k, b'"fleet.json"', f'"{r}/fleet.json"'.encode()), {Fault.FORGED, Fault.ADDED}),
    "a signature elsewhere": (_with_a_linked_signature, {Fault.FORGED, Fault.ADDED}),
    "another profile": (lambda r, k: _resigned(r, k, b'"profile ', b'"profile of '), {Fault.VERDICT}),
    "another lock": (lambda r, k: _resigned(r, k, lock_sha256().encode(), b"c" * 64), {Fault.VERDICT}),
    "a file twice": (lambda r, k: _resigned(r, k, b'"h200-1/1/run.json"', b'"h200-1/1/load.log"'), {Fault.FORGED, Fault.ADDED}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tampered_bundle_is_refused(bundle_copy: Path, keys: Path, fault: str):
    """Forged, changed, missing and added files, and a verdict that the runs do not give, are refused and named."""
    befall, kinds = FAULTS[fault]
    befall(bundle_copy, keys)
    found = verify(bundle_copy, keys / "mine.pub")
    assert {kind for kind, _ in found.faults} == kinds
    assert not found.is_believed and found.exit_code == 1


@pytest.mark.parametrize("name", ["runs.tar", "runs.tgz"])
def test_a_bundle_has_every_file_once(bundle_copy: Path, keys: Path, tmp_path: Path, name: str):
    """A tar, compressed by its name, has the statement, its signature and each stated file once, and is verified as the folder is."""
    bundle(bundle_copy, keys / "mine", tar=tmp_path / name)
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") is (name == "runs.tgz")
    with tarfile.open(tmp_path / name) as archive:
        names = archive.getnames()
    stated = [each["name"] for each in json.loads((bundle_copy / NAME).read_text())["subject"]]
    assert names == [NAME, SIGNATURE, *stated]
    assert cli.run(["fleet", "verify", str(tmp_path / name), "--signers", str(keys / "mine.pub")]) == 0


def test_a_plan_from_elsewhere_is_signed_with_the_runs(bundle_copy: Path, keys: Path, tmp_path: Path):
    """With --plan the fleet is judged by that plan, which is then a signed file of the bundle."""
    plan = tmp_path / "plan.json"
    plan.write_bytes((bundle_copy / "fleet.json").read_bytes().replace(b"h200-1", b"h200-7"))
    (bundle_copy / "fleet.json").unlink()
    assert not bundle(bundle_copy, keys / "mine", plan).passed
    assert b"h200-7" in (bundle_copy / "fleet.json").read_bytes()
    assert verify(bundle_copy, keys / "mine.pub").is_believed


def test_a_folder_without_runs_is_not_signed(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A folder without a run is an error, not a fleet of no nodes, and nothing is written."""
    assert cli.run(["fleet", "bundle", str(tmp_path), "--key", str(keys / "mine")]) == 2
    assert "holds no run folder" in only_error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_tar_that_cannot_be_written_is_bad_input(bundle_copy: Path, keys: Path, capsys: pytest.CaptureFixture[str]):
    """Where the tar cannot be written, the error names it; exit 2."""
    words = [
        "fleet",
        "bundle",
        str(bundle_copy),
        "--key",
        str(keys / "mine"),
        "--tar",
        str(bundle_copy / "none" / "a.tar"),
    ]
    assert cli.run(words) == 2
    assert "none/a.tar" in only_error(capsys)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_signers_that_cannot_be_read_are_bad_input(
    bundle_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
):
    """A file of signers that is not there, or is no text, exits 2 and is named."""
    signers = tmp_path / "signers"
    if content is not None:
        signers.write_bytes(content)
    assert cli.run(["fleet", "verify", str(bundle_copy), "--signers", str(signers)]) == 2
    assert "signers: --signers: cannot be read" in only_error(capsys)


COSIGN = """#!/bin/sh
case "$FAKE_COSIGN-$1" in
refusing-*) echo "invalid signature" >&2; exit 1 ;;
working-sign-blob) echo signed >"$7" ;;
esac
"""


@pytest.fixture
def cosign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A stand-in for cosign: "working", "refusing" by its exit code, or "idle", which signs nothing and exits with 0; and its keys."""
    (tmp_path / "cosign").write_text(COSIGN)
    (tmp_path / "cosign").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "key").write_text("-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----\n")
    (tmp_path / "key.pub").write_text("-----BEGIN PUBLIC KEY-----\n")
    return lambda how: monkeypatch.setenv("FAKE_COSIGN", how)


@pytest.mark.parametrize("how", ["refusing", "idle"])
def test_what_cosign_did_not_sign_is_not_signed(
    bundle_copy: Path, tmp_path: Path, cosign: Callable[[str], None], how: str
):
    """If cosign fails or writes no signature, the exit code is 2, and an earlier signature is not kept."""
    cosign(how)
    assert cli.run(["fleet", "bundle", str(bundle_copy), "--key", str(tmp_path / "key")]) == 2
    assert not (bundle_copy / SIGNATURE).exists()


def test_only_what_cosign_accepts_is_believed(
    bundle_copy: Path, tmp_path: Path, cosign: Callable[[str], None], capsys: pytest.CaptureFixture[str]
):
    """cosign's exit code decides whether a signature is believed."""
    cosign("working")
    assert cli.run(["fleet", "bundle", str(bundle_copy), "--key", str(tmp_path / "key")]) == 0
    for how, code, signer in (("working", 0, "key.pub"), ("refusing", 1, None)):
        cosign(how)
        capsys.readouterr()
        assert cli.run(["fleet", "verify", str(bundle_copy), "--signers", str(tmp_path / "key.pub"), "--json"]) == code
        data = json.loads(capsys.readouterr().out)
        assert (data["verified"], data["signer"]) == (code == 0, signer)


def test_an_untrusted_key_is_refused(bundle_copy: Path, keys: Path, capsys: pytest.CaptureFixture[str]):
    """A valid signature of an untrusted key is refused, and its key is named."""
    assert cli.run(["fleet", "verify", str(bundle_copy)]) == 1
    out = capsys.readouterr().out
    assert "by nobody whom you named" in out and "SHA256:" in out and out.splitlines()[-1].startswith("NOT VERIFIED")


def test_a_genuine_statement_of_a_failure_is_no_pass(bundle_copy: Path, keys: Path, capsys: pytest.CaptureFixture[str]):
    """A signed statement of a failure is verified as FAILED, with exit code 1."""
    shutil.rmtree(bundle_copy / "h200-1")
    assert cli.run(["fleet", "bundle", str(bundle_copy), "--key", str(keys / "mine")]) == 1
    assert cli.run(["fleet", "verify", str(bundle_copy), "--signers", str(keys / "mine.pub"), "--json"]) == 1
    data = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert (data["verified"], data["verdict"], data["failed"]) == (True, "fail", ["h200-1"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"_type": "https://in-toto.io/Statement/v0.1"}', "[" * 100_000])
def test_an_invalid_statement_is_bad_input(bundle_copy: Path, keys: Path, text: str):
    """An invalid statement exits 2."""
    (bundle_copy / NAME).write_text(text)
    assert cli.run(["fleet", "verify", str(bundle_copy), "--signers", str(keys / "mine.pub")]) == 2


def test_a_truncated_tar_is_bad_input(made: Path, tmp_path: Path, keys: Path):
    """A truncated tar is refused, although statement and signature come first in it."""
    whole = (made.parent / "runs.tar.gz").read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert cli.run(["fleet", "verify", str(tmp_path / "half.tar.gz"), "--signers", str(keys / "mine.pub")]) == 2
    with tarfile.open(made.parent / "runs.tar.gz") as archive:
        assert archive.getnames()[:2] == [NAME, SIGNATURE]


def test_a_key_that_cannot_sign_is_bad_input(bundle_copy: Path, tmp_path: Path):
    """A key that cannot sign exits 2."""
    assert cli.run(["fleet", "bundle", str(bundle_copy), "--key", str(tmp_path / "none")]) == 2


def test_without_ssh_keygen_verify_exits_3(
    bundle_copy: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Without ssh-keygen the exit code is 3."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.run(["fleet", "verify", str(bundle_copy), "--signers", str(keys / "mine.pub")]) == 3


def test_an_endless_file_is_refused(bundle_copy: Path, keys: Path):
    """An endless file is refused with exit 2, when bundling and when verifying, whoever signed it."""
    with (bundle_copy / "h200-1" / "1" / "load.log").open("ab") as file:
        file.truncate(1 << 42)
    assert cli.run(["fleet", "verify", str(bundle_copy), "--signers", str(keys / "mine.pub")]) == 2
    assert cli.run(["fleet", "bundle", str(bundle_copy), "--key", str(keys / "mine")]) == 2
