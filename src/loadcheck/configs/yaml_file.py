"""A YAML file as plain data, its tables flattened to dotted keys; duplicate keys are refused, and no objects are constructed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadcheck.errors import BadInput, Problem
from loadcheck.specs.files import flat_items

if TYPE_CHECKING:
    import yaml

MAX_FILE_BYTES = 1024 * 1024
"""Far more than any config needs, so that a hostile one cannot fill the memory."""
MAX_NODES = 10_000
"""Aliases count each time they are used: a few lines of them can expand to billions of values."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a file, nested ones as "table.key"; BadInput for invalid YAML, a file without a table, or a duplicate key."""
    import yaml

    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise BadInput(Problem(str(path), f"is larger than {MAX_FILE_BYTES} bytes", "give a config", "--config"))
        node = yaml.compose(content, Loader=yaml.SafeLoader)
        _check_duplicates(path, node)
        data = yaml.safe_load(content)
    except OSError as error:
        raise BadInput(Problem(str(path), error.strerror or str(error), "give a config", "--config")) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadInput(Problem(str(path), f"not valid YAML ({_message(error)})", "fix that line", "--config")) from None
    if not isinstance(data, dict) or not data:
        raise BadInput(Problem(str(path), "contains no settings", "write key: value on each line", "--config"))
    return dict(flat_items(data))


def _message(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).split("\n", maxsplit=1)[0]
    return str(problem) if mark is None else f"line {mark.line + 1}: {problem}"


def _check_duplicates(path: Path, root: yaml.Node | None) -> None:
    """BadInput for keys that occur twice in one table; YAML would silently use the last."""
    problems = []
    for number, node in enumerate(_nodes(root), 1):
        if number > MAX_NODES:
            raise BadInput(Problem(str(path), f"expands to more than {MAX_NODES} values", "give a config", "--config"))
        seen: set[str] = set()
        for key, _ in node.value if node.id == "mapping" else ():
            name = str(key.value)
            if name in seen:
                problems.append(
                    Problem(f"{path}:{key.start_mark.line + 1}", "is given twice", "keep one of them", name)
                )
            seen.add(name)
    if problems:
        raise BadInput(problems)


def _nodes(node: Any) -> Iterator[Any]:
    if node is None:
        return
    yield node
    for child in node.value if node.id in ("mapping", "sequence") else ():
        for inner in child if isinstance(child, tuple) else (child,):
            yield from _nodes(inner)
