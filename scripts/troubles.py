"""Write docs/troubles.md from env/troubles.toml: each trouble with its cause, its fix, how it is handled, and its tests.

python scripts/troubles.py           write it
python scripts/troubles.py --check   exit with 1 if it is not up to date
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from loadcheck.specs.trouble import Trouble, anchor_of, load_troubles

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubles.md"
EXCERPT_TEST = "test_diagnosis.py::test_each_trouble_is_named_by_its_excerpt"
STAGE_TEST = "test_diagnosis.py::test_out_of_memory_depends_on_the_stage"
HEAD = """# Known troubles

Search this page for an error message, its cause and its fix; messages are shown by how they begin. To have a log diagnosed:

```
loadcheck check LOG
```

It names the trouble from the engine's own message, with the cause, the fix and the line. For an unknown trouble it shows the last error and the stage
that the load had reached. `loadcheck doctor` looks for these troubles before anything is downloaded.

This page is generated from `env/troubles.toml` by `scripts/troubles.py`; edit that file.

| here | meaning |
| --- | --- |
| prevented | it cannot happen in a load of ours |
| refused early | reported before a download or a load |
| diagnosed | named from the log |
| recovered | fixed without you |
| out of reach | and why |
"""
EVIDENCE = """
## Tests and sources

Tests are below `tests/`; the excerpts that they read are in `tests/troubles`.

| trouble | tests | known from |
| --- | --- | --- |"""
MAX_MESSAGES = 4
MIN_MESSAGE_CHARS = 10
_SECTION = re.compile(r"^# -{20,} (.+)$")
_ID = re.compile(r'^id = "(.+)"$')


def render() -> str:
    """The whole page."""
    troubles = load_troubles()
    counts = Counter(trouble.handling for trouble in troubles)
    named = sum(bool(trouble.says) for trouble in troubles)
    summary = ", ".join(f"{count} {handling}" for handling, count in counts.most_common())
    lines = [HEAD, f"{len(troubles)} troubles: {summary}. {named} of them appear in logs, and are named from them."]
    section = None
    for trouble, found in zip(troubles, _sections(), strict=True):
        if found != section:
            section = found
            heading = f"{section[0].upper()}{section[1:]}"
            lines += ["", f"## {heading}", "", "| trouble | cause | fix | here |", "| --- | --- | --- | --- |"]
        messages = "".join(f"<br>`{anchor.strip()}`" for anchor in _messages(trouble))
        title, here = f"**{trouble.id}**<br>{trouble.title}", f"**{trouble.handling}**: {trouble.we_do}"
        lines.append(_row(title + messages, trouble.cause, trouble.remedy, here))
    lines.append(EVIDENCE)
    for trouble in troubles:
        tests = "<br>".join(f"`{test}`" for test in _tests(trouble))
        lines.append(_row(trouble.id, tests, ", ".join(trouble.references)))
    return "\n".join([*lines, ""])


def _sections() -> Iterator[str]:
    """The section of each trouble, by the comments that start sections of the file."""
    section = ""
    for line in (ROOT / "env" / "troubles.toml").read_text(encoding="utf-8").splitlines():
        if (match := _SECTION.match(line)) is not None:
            section = match[1]
        elif _ID.match(line):
            yield section


def _messages(trouble: Trouble) -> list[str]:
    """The beginnings of the engine's messages, to be searched for on the page."""
    anchors = dict.fromkeys(anchor_of(phrase).replace("`", "'") for phrase in trouble.says)
    return [each for each in anchors if len(each.strip()) >= MIN_MESSAGE_CHARS][:MAX_MESSAGES]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _tests(trouble: Trouble) -> tuple[str, ...]:
    """The tests that the entry names, and the one of its messages."""
    if not trouble.says:
        return trouble.tests
    return (f"{STAGE_TEST if trouble.stages else EXCERPT_TEST}[{trouble.id}]", *trouble.tests)


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    page = render()
    if arguments == ["--check"]:
        return 0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
