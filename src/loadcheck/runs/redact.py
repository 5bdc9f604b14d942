"""Removes tokens from what is written and shown: verbatim, encoded, and split by terminal codes or line breaks."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast
from urllib.parse import quote

REDACTED = b"[secret]"
_ESCAPE = rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
_GAP = re.compile(rb"(?:" + _ESCAPE + rb"|[\r\n][ \t]*)+")
_TAIL_GAP = re.compile(_GAP.pattern + rb"|\x1b(?:\[[0-?]*[ -/]*)?\Z")
"""What may come between two characters of a token: terminal codes, and a line break with the next line's indentation."""

# The published forms of tokens (GitHub's secret scanning patterns; huggingface_hub's, OpenAI's and AWS's documentation).
_PREFIXES = (b"hf_", b"sk-", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_", b"glpat-", b"AKIA", b"ASIA")
_STARTS = (*_PREFIXES, b"authorization:", b"bearer ", b"basic ")
_FORMS = (
    (rb"hf_(?:jwt_|oauth_)?", rb"[A-Za-z0-9_.-]", 30),
    (rb"sk-", rb"[A-Za-z0-9_-]", 20),
    (rb"gh[pousr]_", rb"[A-Za-z0-9]", 30),
    (rb"github_pat_", rb"[A-Za-z0-9_]", 22),
    (rb"glpat-", rb"[A-Za-z0-9_-]", 20),
    (rb"A[KS]IA", rb"[A-Z0-9]", 16),
)
# No letter or digit before it; tested behind the first letter, so that a search skips to the next such letter.
_LOOKS = re.compile(
    rb"|".join(
        rb"%b(?<![A-Za-z0-9]%b)%b(?:(?:%b)*%b){%d,}" % (start[:1], start[:1], start[1:], _ESCAPE, char, num)
        for start, char, num in _FORMS
    )
)
_HEADER = re.compile(
    rb"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)\s+|\b(?:bearer|basic)\s+(?=[A-Za-z0-9._~+/=-]{20}))"
    rb"(?:(?:" + _ESCAPE + rb")*[A-Za-z0-9._~+/=-])+"
)
_HEADER_WORDS = (b"authorization", b"bearer", b"basic")
"""Nearly all output has none of them, and looking for them takes a tenth of the pattern's time."""
_MAX_HELD_BYTES = 4096
_BEGUN = re.compile(
    rb"(?:(?<![A-Za-z0-9])(?:%b)|(?i:authorization[\"']?\s*[:=]|\b(?:bearer|basic)\s))[^\r\n]{0,%d}\Z"
    % (rb"|".join(map(re.escape, _PREFIXES)), _MAX_HELD_BYTES)
)


class Redactor:
    """Replaces every known token, in any of its encodings, and whatever has the form of a token, with [secret].

    Args:
        secrets: the tokens that are known (`loadcheck.runs.secrets.secrets`).
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if secret for form in encodings(secret.encode(errors="surrogateescape"))}
        self._forms = sorted(forms, key=len, reverse=True)  # longest first: one may be the beginning of another
        self._window = 4 * max(map(len, (*self._forms, *_STARTS))) + 256

    def raw(self, data: bytes) -> bytes:
        """`data` without tokens."""
        return self.token_forms(self.known_tokens(data))

    def known_tokens(self, data: bytes) -> bytes:
        """`data` without the known tokens, in any encoding."""
        if not self._forms:
            return data
        stripped = _GAP.sub(b"", data)
        return self._without_known(data) if any(form in stripped for form in self._forms) else data

    def token_forms(self, data: bytes) -> bytes:
        """`data` without what has the form of a token, or is the credential of an HTTP header."""
        found = _LOOKS.sub(REDACTED, data)
        lower = found.lower()
        return _HEADER.sub(rb"\1" + REDACTED, found) if any(word in lower for word in _HEADER_WORDS) else found

    def text(self, text: str) -> str:
        """Like `raw`, for text."""
        return self.raw(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")

    def data(self, data: Any) -> Any:
        """Like `text`, for every string in the data of a JSON file."""
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, dict):
            return {self.data(key): self.data(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.data(item) for item in data]
        return data

    def num_held(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of a token, and must be held back until more arrives.

        A known token may continue on the next line, if it was wrapped; what only has the form of a token may not. Held bytes are lost if this
        process is killed, so a complete line is not held back for its last letter.
        """
        end = data[max(len(data) - self._window, 0) :]
        line = re.split(rb"[\r\n]", end)[-1]
        begun = _BEGUN.search(data, max(len(data) - _MAX_HELD_BYTES, 0))
        return max(_held(end, self._forms), _held(line, _STARTS), len(data) - begun.start() if begun else 0)

    def _without_known(self, data: bytes) -> bytes:
        stripped, places = _stripped(data, _GAP)
        pattern = re.compile(b"|".join(map(re.escape, self._forms)))
        out, end = bytearray(), 0
        for match in pattern.finditer(stripped):
            out += data[end : places[match.start()]] + REDACTED
            end = places[match.end() - 1] + 1
        return bytes(out + data[end:])


class _Redacted:
    """A text stream that redacts what is written; everything else is the wrapped stream's."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream, self._redactor = stream, redactor

    def write(self, text: str) -> int:
        self._stream.write(self._redactor.text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach"):  # click would write to them directly if the encoding is ASCII
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def redacted_output(secrets: Iterable[str]) -> Iterator[None]:
    """Within the block, redact everything printed to stdout and stderr."""
    redactor, before = Redactor(secrets), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = (cast(TextIO, stream and _Redacted(stream, redactor)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def encodings(secret: bytes) -> Iterator[bytes]:
    """A token verbatim, in a URL, in JSON, in hex, and in base64.

    Base64 encodes groups of three bytes, so the form depends on how many bytes come before, such as the user name of Basic authentication: there
    are three forms. Their first and last characters are left out, as they hold bits of the neighbouring bytes.
    """
    yield secret
    yield quote(secret, safe="").encode()
    yield json.dumps(secret.decode(errors="surrogateescape"))[1:-1].encode()
    yield secret.hex().encode()
    for num_before in range(3):
        first, last = -(-8 * num_before // 6), 8 * (num_before + len(secret)) // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(bytes(num_before) + secret)[first:last]


def _stripped(data: bytes, gap: re.Pattern[bytes]) -> tuple[bytes, list[int]]:
    """`data` without gaps, and the original position of each remaining byte."""
    out, places, end = bytearray(), list[int](), 0
    for match in gap.finditer(data):
        out += data[end : match.start()]
        places.extend(range(end, match.start()))
        end = match.end()
    places.extend(range(end, len(data)))
    return bytes(out + data[end:]), places


def _held(data: bytes, starts: Iterable[bytes]) -> int:
    """How many bytes at the end of `data` may be the beginning of one of `starts`, gaps included."""
    stripped, places = _stripped(data, _TAIL_GAP)
    overlap = max((_overlap(stripped.lower(), start.lower()) for start in starts), default=0)
    return len(data) - places[len(places) - overlap] if overlap else 0


def _overlap(data: bytes, start: bytes) -> int:
    """The length of the longest suffix of `data` that is a proper prefix of `start`."""
    return next((n for n in range(min(len(start) - 1, len(data)), 0, -1) if data.endswith(start[:n])), 0)
