"""Reads a .jsonl or .json data file as rows. Every fault names its line; all are reported at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from loadcheck.data.faults import Faults
from loadcheck.data.forms import FORMS, Form, names_of
from loadcheck.data.rows import Data, Row
from loadcheck.errors import BadInput, Problem

Record = tuple[int, dict[str, Any]]


def read_data(path: Path, method: str) -> Data:
    """The rows of a file for "sft" or "grpo"; BadInput with all of its faults."""
    content = _content(path)
    faults = Faults(path)
    text = _decoded(content, faults)
    records = list(_records(path, text, faults))
    if not records and not faults:
        faults.add(
            None, "contains no row", "give a file with one JSON object per line (.jsonl), or an array of them (.json)"
        )
    form, rows = _rows(records, method, faults)
    faults.refuse()
    assert form is not None
    keys = Counter(key for _, record in records for key in record)
    unused = () if method == "grpo" else tuple(key for key in keys if key not in form.keys)
    return Data(path, sha256(content).hexdigest(), form.name, tuple(rows), unused)


def _content(path: Path) -> bytes:
    if path.suffix.lower() not in (".jsonl", ".json"):
        raise BadInput(Problem(str(path), "is neither a .jsonl nor a .json file", "give one of these", "--data"))
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(Problem(str(path), error.strerror or str(error), "give a file of data", "--data")) from None


def _decoded(content: bytes, faults: Faults) -> str:
    """The text, without a byte order mark; each line that is not UTF-8 is a fault, and left empty."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return "\n".join(_decoded_line(number, line, faults) for number, line in enumerate(lines, 1))


def _decoded_line(number: int, line: bytes, faults: Faults) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 (byte {error.start + 1} of the line: 0x{line[error.start]:02x})"
        faults.add(number, what, "save the file as UTF-8")
        return ""


def _records(path: Path, text: str, faults: Faults) -> Iterator[Record]:
    """Each object with its line."""
    found = _of_array(text, faults) if path.suffix.lower() == ".json" else _of_lines(text, faults)
    for line, value in found:
        if isinstance(value, dict):
            yield line, value
        else:
            faults.add(line, f"is {_kind(value)}, not an object", 'write each row as {"messages": […]}')


def _of_lines(text: str, faults: Faults) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                faults.add(number, f"is not JSON ({_message(error)})", "write one JSON object on each line")


def _of_array(text: str, faults: Faults) -> Iterator[tuple[int, Any]]:
    """The elements of the array in a .json file, each with the line on which it begins."""
    start = _skip_whitespace(text, 0)
    if start == len(text):
        return
    if text[start] != "[":
        faults.add(
            1 + text.count("\n", 0, start),
            "is not a JSON array",
            "write [ {…}, {…} ], or name it .jsonl with one object per line",
        )
        return
    yield from _elements(text, _skip_whitespace(text, start + 1), faults)


def _elements(text: str, position: int, faults: Faults) -> Iterator[tuple[int, Any]]:
    """The elements of an array from the first, at `position`, to its end."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    line = 1 + text.count("\n", 0, position)
    while text[position : position + 1] != "]":
        try:
            value, end = decoder.raw_decode(text, position)
            yield line, value
            end = _skip_whitespace(text, end)
            if text[end : end + 1] not in (",", "]"):
                raise ValueError("a comma or ] is missing after this element")
        except (ValueError, RecursionError) as error:
            faults.add(line, f"is not JSON ({_message(error)})", "fix the element that begins here")
            return
        following = _skip_whitespace(text, end + 1) if text[end] == "," else end
        line += text.count("\n", position, following)
        position = following
    if text[position + 1 :].strip():
        faults.add(line, "has more after the array", "remove what follows the ]")


def _skip_whitespace(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _message(error: Exception) -> str:
    """json's own words, without its position, which is relative to a single line."""
    return str(getattr(error, "msg", error) or type(error).__name__)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _rows(records: list[Record], method: str, faults: Faults) -> tuple[Form | None, list[Row]]:
    """The rows, in the form of the first valid record; a record in another form is a fault."""
    forms = [form for form in FORMS if form.method in (method, None)]
    chosen: Form | None = None
    rows = []
    for line, record in records:
        form = next((form for form in forms if form.fits(record)), None)
        if form is None:
            faults.add(
                line,
                f"has {_keys(record)}; its keys must include those of one form: {names_of(forms)}",
                "rename its keys",
            )
        elif chosen is not None and form is not chosen:
            faults.add(line, f"has the form {form.name}, but the rows before it {chosen.name}", "use one form per file")
        else:
            chosen = form
            row = form.row(line, record, faults)
            rows += [] if row is None else [row]
    return chosen, rows


def _keys(record: dict[str, Any]) -> str:
    return f"the keys {', '.join(map(str, record))}"[:200] if record else "no key"
