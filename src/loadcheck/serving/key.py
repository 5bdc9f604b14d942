"""The API key of a server: given in a file or a variable, or generated; never an argument, never in a log."""

from __future__ import annotations

import os
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from loadcheck.errors import BadInput, Problem

VARIABLE = "LOADCHECK_API_KEY"
MIN_CHARS, MAX_CHARS = 16, 512
SECONDS = 3600


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and its expiry.

    Attributes:
        is_new: whether it was generated here, so that the user must be shown it.
        expires_unix_s: None if it is valid as long as the server runs.
    """

    text: str
    is_new: bool
    expires_unix_s: float | None = None

    def __repr__(self) -> str:
        return "ApiKey(…)"


def api_key(file: Path | None, hours: float | None) -> ApiKey:
    """The key in a file, else in LOADCHECK_API_KEY, else a new one; BadInput for a key that is weak, invalid or readable by others."""
    expires_s = None if hours is None else time.time() + hours * SECONDS
    if file is not None:
        return ApiKey(_checked(_read(file), str(file)), is_new=False, expires_unix_s=expires_s)
    given = os.environ.get(VARIABLE)
    if given is not None:
        return ApiKey(_checked(given.strip(), VARIABLE), is_new=False, expires_unix_s=expires_s)
    return ApiKey(secrets.token_urlsafe(32), is_new=True, expires_unix_s=expires_s)


def _read(file: Path) -> str:
    try:
        if file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            raise BadInput(Problem(str(file), "can be read by others", f"chmod 600 {file}", "--api-key-file"))
        with file.open(encoding="ascii") as opened:
            return opened.read(MAX_CHARS + 2).strip()
    except (OSError, ValueError) as error:
        raise BadInput(
            Problem(str(file), f"cannot be read ({error})", "name a file with a key", "--api-key-file")
        ) from None


def _checked(key: str, where: str) -> str:
    if not MIN_CHARS <= len(key) <= MAX_CHARS or not key.isascii() or not key.isprintable() or " " in key:
        what = f"is not a key of {MIN_CHARS} to {MAX_CHARS} printable characters without blanks"
        raise BadInput(Problem(where, what, "make one with `openssl rand -hex 32`, or give none: one is generated"))
    return key
