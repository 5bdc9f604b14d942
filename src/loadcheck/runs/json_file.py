"""Reads and writes the JSON files of a run folder, which may be damaged or hostile."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from loadcheck.disk import read_at_most
from loadcheck.encoding import json_text
from loadcheck.errors import BadInput, Problem
from loadcheck.runs.private import make_private, open_private
from loadcheck.runs.redact import Redactor
from loadcheck.runs.secrets import secrets

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Far larger than any run.json, so that a hostile one cannot fill memory."""
PARTIAL = ".partial"


def json_of(path: Path) -> Any:
    """The content of a JSON file of a run folder; ValueError if it is too large or invalid."""
    content = read_at_most(own_file(path), MAX_RECORD_BYTES)
    return json.loads(content, parse_constant=_no_number, parse_float=_finite)


def _no_number(constant: str) -> float:
    """Refuse NaN and Infinity, which Python's parser accepts and JSON does not have."""
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def own_file(path: Path) -> Path:
    """`path`, a file of a run folder; BadInput if it is a link, which may lead anywhere, or a pipe, which may never end."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        what = "is not a regular file, but a link, a folder or a device"
        raise BadInput(Problem(str(path), what, "give a run folder as `loadcheck load` made it"))
    return path


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run folder; None if it does not exist, BadInput if it cannot be read."""
    try:
        return json_of(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"cannot be read ({error})", "give the folder of another run")) from None


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically, with secrets redacted, readable only by its owner.

    ASCII can hold names that are not valid UTF-8, and no terminal codes. If the folder has become read-only, an existing file is overwritten in
    place.
    """
    make_private(path.parent, exist_ok=True)  # the folder may have been removed meanwhile
    partial = path.with_suffix(path.suffix + PARTIAL)
    text = json_text(Redactor(secrets(os.environ)).data(data)) + "\n"
    try:
        with open_private(partial, "w", encoding="ascii") as new:
            new.write(text)
        partial.replace(path)
    except PermissionError:
        with path.open("r+b") as file:
            file.write(text.encode("ascii"))
            file.truncate()
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
