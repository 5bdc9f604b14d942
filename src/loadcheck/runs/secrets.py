"""The tokens of the hub that are set on this machine, so that what is written can be free of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
MIN_CHARS = 8
"""What is shorter is no token, and blotting it out would damage the log."""


def hub_tokens(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (where it is set, the token), where the hub's client looks, in its order (huggingface_hub/utils/_auth.py:41).

    White space around a token is none of it, as for the client; an empty one is yielded too.
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
    """Every token to blot out, longest first: one may begin another."""
    found = {token for _, token in hub_tokens(environ) if len(token) >= MIN_CHARS}
    return tuple(sorted(found, key=len, reverse=True))
