"""The documents: links and anchors lead somewhere, commands and files exist, the library page's code runs, translations match."""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import get_type_hints

import click
import pytest

from loadcheck import api
from loadcheck.cli import app
from loadcheck.cli.app import COMMANDS
from loadcheck.specs.files import differences, validate
from loadcheck.specs.profile import Profile, load_profile
from tests.conftest import ROOT

DOCUMENTS = sorted(path for pattern in ("*.md", "docs/*.md", "examples/*.md") for path in ROOT.glob(pattern))
TRANSLATIONS = sorted(ROOT.glob("README.*.md"))
HISTORY = ("LOG.md", "CHANGELOG.md")
_PATH = re.compile(r"`((?:src|tests|scripts|env|docs|examples|stacks|predict|specs|logs|verdict|recovery)/[^`\s…]*)`")
_FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
_ANCHOR = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")


def _blocks(path: Path) -> list[str]:
    return _FENCE.findall(path.read_text(encoding="utf-8"))


def _shape(path: Path) -> list[str]:
    """What a translation must share: heading levels, table rows, list items, code, and link targets."""
    text = path.read_text(encoding="utf-8")
    prose = _FENCE.sub("", text)
    marks = [match.group() for match in re.finditer(r"^(#+ |\| |- )", prose, re.MULTILINE)]
    links = [link for link in _LINK.findall(prose) if not link.startswith("README")]
    return marks + sorted(links) + _blocks(path)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    """Each relative link of a document leads to a file of the repository."""
    targets = _LINK.findall(document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def _anchors(path: Path) -> set[str]:
    """A document's anchors as GitHub makes them: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_anchors_are_headings(document: Path):
    """The anchor of each link is a heading of the document that it leads to."""
    links = _ANCHOR.findall(document.read_text(encoding="utf-8"))
    targets = [(document.parent / target if target else document, anchor) for target, anchor in links]
    assert [anchor for target, anchor in targets if anchor not in _anchors(target)] == []


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name not in HISTORY], ids=lambda path: path.name
)
def test_named_files_exist(document: Path):
    """Each file of the repository that a document names exists, except in the log and the changelog, which may name files of their time."""
    named = [name for name in _PATH.findall(document.read_text(encoding="utf-8")) if not re.search("[A-Z]{4}", name)]
    missing = [name for name in named if not any([*ROOT.glob(name), *(ROOT / "src" / "loadcheck").glob(name)])]
    assert missing == []


SOURCES = sorted(
    path
    for pattern in (
        "src/**/*.py",
        "scripts/**/*.py",
        "tests/**/*.py",
        "env/*.toml",
        "pyproject.toml",
        "Makefile",
        "Dockerfile",
    )
    for path in ROOT.glob(pattern)
    if not path.is_relative_to(ROOT / "tests/runs")
)
_NAMED_FILE = re.compile(r"(?<![\w/.-])(?:src|tests|scripts|env|docs)/[\w/.-]+\.(?:py|toml|md|sh)\b")
_NAMED_MODULE = re.compile(r"(?<=[\"' ])loadcheck(?:\.[a-z_]\w*){2,}(?=[\"' :])")


@pytest.mark.parametrize("kind", ["files", "modules"])
def test_what_sources_name_exists(kind: str):
    """A file named in a comment or a message, and a module named in a string: that another process runs, or a log says."""
    pattern, exists = (_NAMED_FILE, _is_file) if kind == "files" else (_NAMED_MODULE, _is_of_module)
    named = {(name, path.name) for path in SOURCES for name in pattern.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert [each for each in sorted(named) if not exists(each[0])] == []


def _is_file(name: str) -> bool:
    return (ROOT / name).exists()


def _is_of_module(name: str) -> bool:
    """Whether this is a package, a module, or a name within one."""
    path = ROOT / "src" / name.replace(".", "/")
    within = (each.with_suffix(".py").exists() for each in (path, *path.parents) if ROOT / "src" in each.parents)
    package = path.parent / "__init__.py"
    return path.is_dir() or any(within) or (package.exists() and path.name in package.read_text(encoding="utf-8"))


@pytest.mark.parametrize("translation", TRANSLATIONS, ids=lambda path: path.name)
def test_translations_match(translation: Path):
    """A translated README has the same headings, rows, code, links and numbers as the English one."""
    english = ROOT / "README.md"
    assert _shape(translation) == _shape(english)
    numbers = re.compile(r"\d[\d.,]*\d|\d")
    found = [sorted(numbers.findall(path.read_text(encoding="utf-8"))) for path in (english, translation)]
    assert found[0] == found[1]


def test_readme_is_short():
    """README has at most 80 lines."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path):
    """Each `make TARGET` and `loadcheck COMMAND` in a code block exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for block in _blocks(document):
        assert set(re.findall(r"^make ([a-z][a-z-]*)", block, re.MULTILINE)) <= targets
        commands = re.findall(r"^(?:\$ )?(?:\S*/)?loadcheck ([a-z]+)", block, re.MULTILINE)
        assert set(commands) <= set(COMMANDS)


def _printed_commands() -> list[tuple[str, str]]:
    """Each `loadcheck …` line of a code block of today's documents, with the block's text below it."""
    blocks = [block for path in DOCUMENTS if path.name not in HISTORY for block in _blocks(path)]
    return [
        (found[1], block[found.end() :] if found[0].startswith("$ ") else "")
        for block in blocks
        for found in re.finditer(r"^(?:\$ )?(?:\S*/)?loadcheck ([a-z].*)", block, re.MULTILINE)
    ]


@pytest.mark.parametrize("line", sorted({line for line, _ in _printed_commands()}))
def test_a_printed_command_is_parsed(line: str):
    """Each command in a code block has only arguments, flags and values that exist."""
    words = shlex.split(line.split(" && ")[0], comments=True)
    command: click.Command = app.cli
    context: click.Context | None = None
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(click.Context(command), words)
        assert found is not None
        command, context = found, click.Context(command, parent=context)
    command.make_context(name, words, parent=context)


@pytest.mark.parametrize(
    ("line", "printed"),
    [each for each in _printed_commands() if each[0].startswith(("predict", "compare")) and "--config" not in each[0]],
)
def test_a_printed_command_runs(
    line: str, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Each prediction and comparison of a code block runs as printed, and prints each line that the block shows."""
    monkeypatch.chdir(ROOT)
    code = app.run(shlex.split(line, comments=True))
    out = capsys.readouterr().out
    assert code in (0, 1)
    shown = [words.rstrip() for words in printed.splitlines() if words not in ("", "…")]
    assert [words for words in shown if words not in out] == []


def test_workflows_call_existing_commands():
    """Each command of our workflows is a make target or a script of the repository."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for workflow in (ROOT / ".github" / "workflows").iterdir():
        for command in re.findall(r"- run: (.*)", workflow.read_text(encoding="utf-8")):
            program, argument = command.split()
            assert argument in targets if program == "make" else (ROOT / argument).is_file()


def test_the_library_page_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The code of docs/library.md runs as written, from the repository's folder."""
    monkeypatch.chdir(ROOT)
    script = tmp_path / "library.py"
    script.write_text(_blocks(ROOT / "docs" / "library.md")[0], encoding="utf-8")
    runpy.run_path(str(script))
    verdict, weights, moved = capsys.readouterr().out.splitlines()[-3:]
    assert (verdict, weights) == ("pass []", "5748921100")
    assert moved.startswith("peak_device_gib ") and "training.steps 0 → 3" in moved


def test_the_library_page_names_what_exists():
    """Each function of docs/library.md returns the type that its row names, and that type has the attributes of the row."""
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| `(\w+)`: (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 5
    for function, returned, attributes in rows:
        assert get_type_hints(getattr(api, function))["return"] is getattr(api, returned)
        for name in re.findall(r"`(\w+)", attributes):
            assert name in dir(getattr(api, returned)) or name in getattr(api, returned).__annotations__


@pytest.mark.parametrize("name", ["gate.yml", "gitlab-gate.yml"])
def test_a_gate_compares_with_a_run_of_its_own_settings(name: str):
    """The baseline of each example gate is a run of the profile that the gate loads, with the settings that it loads with; only its weights may differ."""
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    (words,) = re.findall(r'loadcheck"? load (--run-dir .*)|LOADCHECK" load (--run-dir .*)', text, re.IGNORECASE)
    flags = set(re.findall(r" --([\w-]+)", " " + "".join(words)))
    assert flags <= {"run-dir", "junit", "annotations"}  # none of them changes the load
    (baseline,) = re.findall(r"baseline: ([\w/.-]+)", text, re.IGNORECASE)
    recorded = validate(Profile, json.loads((ROOT / baseline / "run.json").read_bytes())["profile"], baseline)
    assert differences(recorded, load_profile(api.REFERENCE)).keys() <= {"weights"}


def test_the_card_example_says_what_fits(capsys: pytest.CaptureFixture[str]):
    """examples/choose_card.py says for each card and length whether it fits; a T4 does not hold 16384 tokens."""
    runpy.run_path(str(ROOT / "examples" / "choose_card.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15
    assert "does not fit" in lines[2] and not [line for line in lines[3:] if "does not fit" in line]
