"""Signatures by the user's own SSH key and OpenSSH's own tool (ssh-keygen -Y, OpenSSH 8.1 and newer; PROTOCOL.sshsig)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from loadcheck.errors import BadInput, Problem, UnsupportedMachine

TOOL = "ssh-keygen"
_PUBLIC = re.compile(r"(?:ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]+(?: .*)?")
PRINCIPAL = "signer"
"""Of a public key that is given alone."""


def sign(path: Path, key: Path, namespace: str) -> None:
    """Write `path`.sig with a private key, or a public one whose private half an agent holds. BadInput where the key cannot sign.

    Args:
        namespace: what is signed for one purpose is no signature for another.
    """
    path.with_name(path.name + ".sig").unlink(missing_ok=True)
    result = _run(["-Y", "sign", "-f", str(key), "-n", namespace, str(path)])
    if result.returncode:
        raise BadInput(Problem(str(key), f"cannot sign: {_said(result)}", "give a private key of SSH", "--key"))


def signer_of(path: Path, signature: Path, signers: Path | None, namespace: str) -> tuple[str | None, str]:
    """Who of `signers` signed `path` for `namespace`; None where nobody of them did, and why.

    Args:
        signers: a file of OpenSSH's allowed signers (ssh-keygen(1), ALLOWED SIGNERS), or one public key.
    """
    if not signature.is_file() or signature.is_symlink():
        return None, f"there is no {signature.name}"
    if signers is None:
        unknown = _run(["-Y", "check-novalidate", "-n", namespace, "-s", str(signature)], path)
        whose = "is by nobody whom you named (--signers)"
        return None, f"the signature {whose}: {_said(unknown)}" if unknown.returncode == 0 else _said(unknown)
    with _allowed(signers) as file:
        found = _run(["-Y", "find-principals", "-f", str(file), "-s", str(signature)])
        if found.returncode or not found.stdout.strip():
            return None, f"its key is none of {signers}"
        name = found.stdout.decode(errors="replace").splitlines()[0].split(",")[0]
        verify = ["-Y", "verify", "-f", str(file), "-I", name, "-n", namespace, "-s", str(signature)]
        result = _run(verify, path)
    return (name, "") if result.returncode == 0 else (None, _said(result))


@contextmanager
def _allowed(signers: Path) -> Iterator[Path]:
    """A file of allowed signers: `signers`, or one made of the public key that it is."""
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


def _run(arguments: list[str], stdin: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """UnsupportedMachine without ssh-keygen. A passphrase is asked for on the terminal, by ssh-keygen itself."""
    content = b"" if stdin is None else stdin.read_bytes()
    try:
        return subprocess.run([TOOL, *arguments], input=content, capture_output=True, check=False)
    except FileNotFoundError:
        raise UnsupportedMachine(Problem(TOOL, "is not on this machine", "install OpenSSH's client")) from None


def _said(result: subprocess.CompletedProcess[bytes]) -> str:
    lines = (result.stderr + result.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else f"{TOOL} ended with exit code {result.returncode}"
