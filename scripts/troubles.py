"""Write docs/troubles.md from env/troubles.toml: trouble by trouble, what becomes of it here, and the test that shows it.

python scripts/troubles.py           write it
python scripts/troubles.py --check   exit with 1 where it is not up to date
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from loadcheck.specs.trouble import Trouble, load_troubles

PAGE = Path(__file__).resolve().parents[1] / "docs" / "troubles.md"
EXCERPT_TEST = "test_diagnosis.py::test_each_trouble_is_named_by_its_excerpt"
STAGE_TEST = "test_diagnosis.py::test_out_of_memory_depends_on_the_stage"
HEAD = """# Known troubles

Made from `env/troubles.toml` by `scripts/troubles.py`; edit that file.

`loadcheck doctor` looks for these before anything is downloaded. `loadcheck check LOG` names them from the log of a load that went
wrong, by the engine's own words: a finding with the cause, the fix and the line. What it does not know, it says with the last error
and the stage that the load had reached. Tests are below `tests/`; the excerpts are in `tests/troubles`.

**prevented**: it cannot happen in a load of ours. **refused early**: said before a download or a load. **diagnosed**: named from the log.
**recovered**: fixed without you. **out of reach**: and why.
"""


def render() -> str:
    """The whole page."""
    troubles = load_troubles()
    counts = Counter(trouble.handling for trouble in troubles)
    named = sum(bool(trouble.says) for trouble in troubles)
    summary = ", ".join(f"{count} {handling}" for handling, count in counts.most_common())
    rows = [_row(trouble) for trouble in troubles]
    return "\n".join([
        HEAD,
        f"{len(troubles)} troubles: {summary}. {named} of them show in a log, and are named from it too.\n",
        "| trouble | what to do | what we do | tests | known from |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ])  # fmt: skip


def _row(trouble: Trouble) -> str:
    tests = "<br>".join(f"`{test}`" for test in _tests(trouble))
    cells = (
        f"**{trouble.id}**<br>{trouble.title}",
        trouble.remedy,
        f"**{trouble.handling}**: {trouble.we_do}",
        tests,
        ", ".join(trouble.references),
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _tests(trouble: Trouble) -> tuple[str, ...]:
    """The tests that the entry names, and the one that its words have."""
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
