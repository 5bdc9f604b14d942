"""Tokens out of what is written and shown: as they are, encoded, and broken by a terminal's codes or the end of a line."""

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
"""What may stand between two characters of a token: codes of a terminal, and a line's end with what the next line is indented by."""

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
_LOOKS = re.compile(
    rb"(?<![A-Za-z0-9])(?:"
    + rb"|".join(rb"%b(?:(?:%b)*%b){%d,}" % (start, _ESCAPE, char, num) for start, char, num in _FORMS)
    + rb")"
)
_HEADER = re.compile(
    rb"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)\s+|\b(?:bearer|basic)\s+(?=[A-Za-z0-9._~+/=-]{20}))"
    rb"(?:(?:" + _ESCAPE + rb")*[A-Za-z0-9._~+/=-])+"
)
_MAX_HELD_BYTES = 4096
_BEGUN = re.compile(
    rb"(?:(?<![A-Za-z0-9])(?:%b)|(?i:authorization[\"']?\s*[:=]|\b(?:bearer|basic)\s))[^\r\n]{0,%d}\Z"
    % (rb"|".join(map(re.escape, _PREFIXES)), _MAX_HELD_BYTES)
)


class Redactor:
    """Puts [secret] for every known token, in any of its encodings, and for what has the form of one.

    Args:
        secrets: the tokens that are known (`loadcheck.runs.secrets.secrets`).
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if secret for form in encodings(secret.encode(errors="surrogateescape"))}
        self._forms = sorted(forms, key=len, reverse=True)  # one may begin another
        self._window = 4 * max(map(len, (*self._forms, *_STARTS))) + 256

    def raw(self, data: bytes) -> bytes:
        """`data` without tokens."""
        return self.looks(self.known(data))

    def known(self, data: bytes) -> bytes:
        """`data` without the tokens that are known, in any encoding."""
        if not self._forms:
            return data
        stripped = _GAP.sub(b"", data)
        return self._without_known(data) if any(form in stripped for form in self._forms) else data

    def looks(self, data: bytes) -> bytes:
        """`data` without what has the form of a token, or is the credential of a header."""
        return _HEADER.sub(rb"\1" + REDACTED, _LOOKS.sub(REDACTED, data))

    def text(self, text: str) -> str:
        """As `raw`, of text."""
        return self.raw(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")

    def data(self, data: Any) -> Any:
        """As `text`, of every text in what goes into a JSON file."""
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, dict):
            return {self.data(key): self.data(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.data(each) for each in data]
        return data

    def num_held(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of a token, and must wait for what comes next.

        A known token may go on in the next line, where a page broke it; what only has the form of one may not. Whatever is held is lost
        where this process is killed, so a line that is whole is not held for its last letter.
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
    """A stream of text that shows no token; all else is the stream's own."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream, self._redactor = stream, redactor

    def write(self, text: str) -> int:
        self._stream.write(self._redactor.text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach"):  # click would write there itself where the encoding is ASCII
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def redacted_output(secrets: Iterable[str]) -> Iterator[None]:
    """Within it nothing that is printed, for people or as JSON, on stdout or on stderr, holds a token."""
    redactor, before = Redactor(secrets), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = (cast(TextIO, stream and _Redacted(stream, redactor)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def encodings(secret: bytes) -> Iterator[bytes]:
    """A token as it is, in a URL, in JSON, in hex, and in base64.

    In base64 it depends on what stands before it, such as the user's name of Basic authentication: of three bytes each, so that
    there are three forms. Their first and last characters are left out, which hold bits of the neighbours.
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
    """`data` without gaps, and where each of its bytes was."""
    out, places, end = bytearray(), list[int](), 0
    for match in gap.finditer(data):
        out += data[end : match.start()]
        places.extend(range(end, match.start()))
        end = match.end()
    places.extend(range(end, len(data)))
    return bytes(out + data[end:]), places


def _held(data: bytes, starts: Iterable[bytes]) -> int:
    """How many bytes at the end of `data` may begin one of `starts`, gaps included."""
    stripped, places = _stripped(data, _TAIL_GAP)
    overlap = max((_overlap(stripped.lower(), start.lower()) for start in starts), default=0)
    return len(data) - places[len(places) - overlap] if overlap else 0


def _overlap(data: bytes, start: bytes) -> int:
    """Length of the longest end of `data` that begins `start`, and is not all of it."""
    return next((n for n in range(min(len(start) - 1, len(data)), 0, -1) if data.endswith(start[:n])), 0)
