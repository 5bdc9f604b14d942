"""Whose a fleet's statement is (`loadcheck.signature`): what is signed for it is no signature of an image."""

from __future__ import annotations

from pathlib import Path

from loadcheck import signature

NAMESPACE = "fleet@loadcheck"


def sign(path: Path, key: Path) -> None:
    """As `signature.sign`."""
    signature.sign(path, key, NAMESPACE)


def signer_of(path: Path, signed: Path, signers: Path | None) -> tuple[str | None, str]:
    """As `signature.signer_of`."""
    return signature.signer_of(path, signed, signers, NAMESPACE)
