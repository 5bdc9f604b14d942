"""Tells program text from a log: a program of vLLM or unsloth holds the words that they print, and a notebook without outputs those of its cells."""

from __future__ import annotations

import ast
import json
import re
import warnings
from pathlib import Path
from typing import Any

MAX_PROGRAM_BYTES = 128 * 1024
"""A longer file is not taken for a program. Python 3.10's parser exhausts the stack by some hundred thousand nested expressions."""
MAX_NOTEBOOK_BYTES = 4 * 1024 * 1024
"""A notebook without outputs is no longer."""
_STATEMENT = re.compile(r"^(?:import [A-Za-z_]|from [\w.]+ import |(?:async )?def \w+\(|class \w+[:(])", re.MULTILINE)
_MAGIC = re.compile(r"^([ \t]*)[!%][^\n]*", re.MULTILINE)
"""A line of IPython's in an exported notebook, such as `!pip install vllm`, which is no Python."""
_PRINTED = re.compile(r"(?:^|\.)[A-Z]\w*[a-z]\w*$")
"""The name of an exception, unlike that of a constant or a variable."""
_DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def program_kind(path: Path) -> str | None:
    """What a file is if it is program text, in words; None if it is not, or is too large to tell.

    A log is never a program as a whole: its lines do not follow Python's grammar. A saved notebook with outputs is a log.
    """
    text = _small_text(path)
    if '"nbformat"' in text and text.lstrip().startswith("{"):
        return "a notebook without outputs" if _has_no_outputs(text) else None
    if len(text) > MAX_PROGRAM_BYTES or not _STATEMENT.search(text):
        return None
    return "a Python program" if _is_python(text) or _is_python(_MAGIC.sub(r"\1pass", text)) else None


def _small_text(path: Path) -> str:
    """The text of a small file; empty if it is large, no regular file, or cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_NOTEBOOK_BYTES:
            return ""
        return path.read_bytes()[:MAX_NOTEBOOK_BYTES].decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def _is_python(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about backslashes in strings
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(each, _DEFINING) for each in tree.body) and not any(map(_may_be_printed, tree.body))


def _may_be_printed(statement: ast.stmt) -> bool:
    """Whether a statement may be output below pasted program text: `Killed` is a name to Python, and `ValueError: bad` an annotation."""
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None and _PRINTED.search(ast.unparse(statement.target)) is not None
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Name) and statement.value.id[0].isupper()


def _has_no_outputs(text: str) -> bool:
    """Whether a text is a notebook in which no cell's run printed anything."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError):
        return False
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    return isinstance(cells, list) and not any(map(_outputs, cells))


def _outputs(cell: Any) -> bool:
    return isinstance(cell, dict) and bool(cell.get("outputs"))
