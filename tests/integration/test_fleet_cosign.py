"""fleet bundle and verify with cosign itself, if it is installed: with the user's own key, and without a network."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from loadcheck import cli
from loadcheck.fleet.statement import NAME, SIGNATURE
from tests.fleets import fleet

NEEDS_COSIGN = pytest.mark.skipif(shutil.which("cosign") is None, reason="cosign is not installed (Debian 13 has it)")


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two key pairs without passwords, "mine" and "other"; any network request fails."""
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("mine", "other"):
        command = ["cosign", "generate-key-pair", "--output-key-prefix", name]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=os.environ)
    return tmp_path


@NEEDS_COSIGN
def test_a_signature_of_cosign_is_verified(keys: Path, capsys: pytest.CaptureFixture[str]):
    """A signature is verified by its public key and by no other; one byte added to the statement makes it fail."""
    root = keys / "runs"
    root.mkdir()
    fleet(root, 2)
    assert cli.run(["fleet", "bundle", str(root), "--key", str(keys / "mine.key"), "--json"]) == 0
    capsys.readouterr()

    def verified(signers: str) -> tuple[int, object, list[str]]:
        code = cli.run(["fleet", "verify", str(root), "--signers", str(keys / signers), "--json"])
        data = json.loads(capsys.readouterr().out)
        return code, data["signer"], [fault["kind"] for fault in data["faults"]]

    assert verified("mine.pub") == (0, "mine.pub", [])
    assert verified("other.pub") == (1, None, ["forged"])
    (root / NAME).write_text((root / NAME).read_text() + " ")
    assert verified("mine.pub") == (1, None, ["forged"])
    (root / SIGNATURE).unlink()
    assert verified("mine.pub") == (1, None, ["forged"])


@NEEDS_COSIGN
def test_a_key_with_a_wrong_password_signs_nothing(keys: Path, monkeypatch: pytest.MonkeyPatch):
    """With a wrong password: exit code 2, and no earlier signature is left beside the new statement."""
    root = keys / "runs"
    root.mkdir()
    fleet(root, 1)
    (root / SIGNATURE).write_text("of before")
    monkeypatch.setenv("COSIGN_PASSWORD", "another")
    assert cli.run(["fleet", "bundle", str(root), "--key", str(keys / "mine.key")]) == 2
    assert not (root / SIGNATURE).exists()


def test_without_cosign_nothing_is_signed_or_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without cosign the exit code is 3, and the error says what would work."""
    fleet(tmp_path / "runs", 1)
    (tmp_path / "mine.key").write_text("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
    (tmp_path / "mine.pub").write_text("-----BEGIN PUBLIC KEY-----\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.run(["fleet", "bundle", str(tmp_path / "runs"), "--key", str(tmp_path / "mine.key")]) == 3
    (tmp_path / "runs" / SIGNATURE).write_text("MEUCIQ==")
    assert cli.run(["fleet", "verify", str(tmp_path / "runs"), "--signers", str(tmp_path / "mine.pub")]) == 3
