"""Signs and verifies with the user's own key: an SSH key (ssh-keygen -Y, OpenSSH 8.1 and newer; PROTOCOL.sshsig), or a cosign key if cosign is
installed.

cosign has no namespaces: statements that it signed are told apart by their predicateType, which each reader checks.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from loadcheck.errors import BadInput, Problem, UnsupportedMachine

TOOL = "ssh-keygen"
COSIGN = "cosign"
_COSIGN_PRIVATE = (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----", b"-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----")
_COSIGN_PUBLIC = (b"-----BEGIN PUBLIC KEY-----",)
"""As `cosign generate-key-pair` writes them."""
_PUBLIC = re.compile(r"(?:ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]+(?: .*)?")
PRINCIPAL = "signer"
"""The signer's name if only a public key is given."""


def sign(path: Path, key: Path, namespace: str) -> None:
    """Write `path`.sig with a private key, or with an SSH public key whose private key an agent holds. BadInput if the key cannot sign.

    Args:
        namespace: the purpose; a signature is not valid for another one.
    """
    signed = path.with_name(path.name + ".sig")
    signed.unlink(missing_ok=True)
    if _begins(key, _COSIGN_PRIVATE):
        _sign_by_cosign(path, key, signed)
        return
    result = _run(["-Y", "sign", "-f", str(key), "-n", namespace, str(path)])
    if result.returncode:
        raise BadInput(Problem(str(key), f"cannot sign: {_message_of(result)}", "give a private key of SSH", "--key"))


def signer_of(path: Path, signature: Path, signers: Path | None, namespace: str) -> tuple[str | None, str]:
    """Which of `signers` signed `path` for `namespace`; or None, and why there is none.

    Args:
        signers: an OpenSSH allowed signers file (ssh-keygen(1), ALLOWED SIGNERS), or one public key; for a cosign key, its file name is the signer.
    """
    if not signature.is_file() or signature.is_symlink():
        return None, f"there is no {signature.name}"
    if signers is not None and _begins(signers, _COSIGN_PUBLIC):
        return _signer_by_cosign(path, signature, signers)
    if signers is None:
        unknown = _run(["-Y", "check-novalidate", "-n", namespace, "-s", str(signature)], path)
        whose = "is by nobody whom you named (--signers)"
        return None, f"the signature {whose}: {_message_of(unknown)}" if unknown.returncode == 0 else _message_of(
            unknown
        )
    with _allowed(signers) as file:
        found = _run(["-Y", "find-principals", "-f", str(file), "-s", str(signature)])
        if found.returncode or not found.stdout.strip():
            return None, f"its key is none of {signers}"
        name = found.stdout.decode(errors="replace").splitlines()[0].split(",")[0]
        verify = ["-Y", "verify", "-f", str(file), "-I", name, "-n", namespace, "-s", str(signature)]
        result = _run(verify, path)
    return (name, "") if result.returncode == 0 else (None, _message_of(result))


@contextmanager
def _allowed(signers: Path) -> Iterator[Path]:
    """An allowed signers file: `signers` itself, or one made from it if it is a public key."""
    try:
        text = signers.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(Problem(str(signers), f"cannot be read ({error})", "name a public key", "--signers")) from None
    if _PUBLIC.fullmatch(text) is None:
        yield signers
        return
    with TemporaryDirectory(prefix="loadcheck-signers-") as folder:
        file = Path(folder) / "allowed_signers"
        file.write_text(f"{PRINCIPAL} {text}\n", encoding="utf-8")
        yield file


def _sign_by_cosign(path: Path, key: Path, signed: Path) -> None:
    """Sign without any network service. cosign prompts for the password on stderr unless COSIGN_PASSWORD is set."""
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
    if _cosign(command, None).returncode or not signed.is_file():
        raise BadInput(Problem(str(key), "cosign cannot sign with it (above)", "give its password", "--key"))


def _signer_by_cosign(path: Path, signed: Path, signers: Path) -> tuple[str | None, str]:
    """Verify without the transparency log, which is on a network, and to which nothing was written."""
    command = [
        "verify-blob",
        "--insecure-ignore-tlog=true",
        "--key",
        str(signers),
        "--signature",
        str(signed),
        str(path),
    ]
    result = _cosign(command, subprocess.PIPE)
    if result.returncode == 0:
        return signers.name, ""
    said = result.stderr.decode(errors="replace").strip().splitlines()
    return None, f"it is not signed by {signers}: {said[0] if said else 'cosign says no more'}"


def _begins(file: Path, marks: tuple[bytes, ...]) -> bool:
    """Whether a file begins with one of these; False if it cannot be read, which the next reader reports."""
    try:
        with file.open("rb") as content:
            return content.read(100).startswith(marks)
    except OSError:
        return False


def _cosign(arguments: list[str], stderr: int | None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run([COSIGN, *arguments], stdout=subprocess.PIPE, stderr=stderr, check=False)
    except FileNotFoundError:
        remedy = "install it (Debian 13 has it), or sign with a key of SSH"
        raise UnsupportedMachine(Problem(COSIGN, "is not on this machine", remedy)) from None


def _run(arguments: list[str], stdin: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """UnsupportedMachine without ssh-keygen. A passphrase is asked for on the terminal, by ssh-keygen itself."""
    content = b"" if stdin is None else stdin.read_bytes()
    try:
        return subprocess.run([TOOL, *arguments], input=content, capture_output=True, check=False)
    except FileNotFoundError:
        raise UnsupportedMachine(Problem(TOOL, "is not on this machine", "install OpenSSH's client")) from None


def _message_of(result: subprocess.CompletedProcess[bytes]) -> str:
    lines = (result.stderr + result.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else f"{TOOL} ended with exit code {result.returncode}"
