"""Signs a fleet's statement (`loadcheck.signature`) in its own namespace, so that its signature is not valid for an image."""

from __future__ import annotations

from pathlib import Path

from loadcheck import signature

NAMESPACE = "fleet@loadcheck"


def sign(path: Path, key: Path) -> None:
    """Like `signature.sign`."""
    signature.sign(path, key, NAMESPACE)


def signer_of(path: Path, signed: Path, signers: Path | None) -> tuple[str | None, str]:
    """Like `signature.signer_of`."""
    return signature.signer_of(path, signed, signers, NAMESPACE)
