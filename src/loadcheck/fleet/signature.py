"""Whose a fleet's statement is: by the user's own SSH key (`loadcheck.signature`), or by a key of cosign's where cosign is there."""

from __future__ import annotations

import subprocess
from pathlib import Path

from loadcheck import signature
from loadcheck.errors import BadInput, Problem, UnsupportedMachine

NAMESPACE = "fleet@loadcheck"
COSIGN = "cosign"
_PRIVATE = (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----", b"-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----")
_PUBLIC = (b"-----BEGIN PUBLIC KEY-----",)
"""As `cosign generate-key-pair` writes them."""


def sign(path: Path, key: Path) -> None:
    """As `signature.sign`; by cosign with a key of its own, and by no service on a network.

    cosign has no namespaces: what is signed is told from other statements by its predicateType.
    """
    if not _begins(key, _PRIVATE):
        signature.sign(path, key, NAMESPACE)
        return
    signed = path.with_name(path.name + ".sig")
    signed.unlink(missing_ok=True)
    # It asks for the password itself, on stderr, where COSIGN_PASSWORD does not say it.
    command = [
        "sign-blob",
        "--yes",
        "--tlog-upload=false",
        "--key",
        str(key),
        "--output-signature",
        str(signed),
        str(path),
    ]
    if _run(command, None).returncode or not signed.is_file():
        raise BadInput(Problem(str(key), "cosign cannot sign with it (above)", "give its password", "--key"))


def signer_of(path: Path, signed: Path, signers: Path | None) -> tuple[str | None, str]:
    """As `signature.signer_of`; `signers` may be a public key of cosign's, too, and its file's name is then the signer's."""
    if signers is None or not _begins(signers, _PUBLIC) or not signed.is_file() or signed.is_symlink():
        return signature.signer_of(path, signed, signers, NAMESPACE)
    # The log of what was signed is on a network, and nothing of it was written there.
    command = [
        "verify-blob",
        "--insecure-ignore-tlog=true",
        "--key",
        str(signers),
        "--signature",
        str(signed),
        str(path),
    ]
    result = _run(command, subprocess.PIPE)
    if result.returncode == 0:
        return signers.name, ""
    said = result.stderr.decode(errors="replace").strip().splitlines()
    return None, f"it is not signed by {signers}: {said[0] if said else 'cosign says no more'}"


def _begins(file: Path, marks: tuple[bytes, ...]) -> bool:
    """False, too, where it cannot be read: whoever reads it next says why."""
    try:
        with file.open("rb") as content:
            return content.read(100).startswith(marks)
    except OSError:
        return False


def _run(arguments: list[str], stderr: int | None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run([COSIGN, *arguments], stdout=subprocess.PIPE, stderr=stderr, check=False)
    except FileNotFoundError:
        remedy = "install it (Debian 13 has it), or sign with a key of SSH"
        raise UnsupportedMachine(Problem(COSIGN, "is not on this machine", remedy)) from None
