"""Finds the secrets that are set on this machine, so that they can be redacted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_OTHERS = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY(?:_ID)?|SECRET_KEY)$", re.IGNORECASE)
MIN_CHARS = 8
"""Anything shorter is not a token, and redacting it would damage the log."""


def hub_tokens(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (where it is set, the token) from where the hub's client looks, in its order (huggingface_hub/utils/_auth.py:41).

    White space around a token is stripped, as the client does; an empty token is yielded, too.
    """
    for name in TOKEN_VARIABLES:
        if name in environ:
            yield name, environ[name].strip()
    home = Path(environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    file = Path(environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    try:
        yield str(file), file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return


def secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Every token to redact, longest first, as one may be the beginning of another: the hub's, and those of variables named like secrets."""
    found = {token for _, token in hub_tokens(environ) if len(token) >= MIN_CHARS}
    found |= {value for name, value in environ.items() if _OTHERS.search(name) and _is_token(value)}
    return tuple(sorted(found, key=len, reverse=True))


def _is_token(value: str) -> bool:
    """Whether a variable that is named like a secret holds one, and not a word, a sentence, or the path of a file."""
    return len(value) >= 2 * MIN_CHARS and not re.search(r"\s", value) and not value.startswith(("/", "~", "."))
