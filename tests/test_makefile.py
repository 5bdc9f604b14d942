"""Input to make is text: neither make nor a shell evaluates it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import thinned

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("cache", "with-args", "newest-run", "engine", "doctor", "image/runtime", "image/load", "image/common")
EVIL = "a'b\"c $(touch o1) `touch o2`; touch o3 & touch o4 | touch o5\n\ttouch o6\n$(shell touch o7) ${HOME} $(info x) %s \\ *"
QUOTED = "\"$(touch o1) `touch o2` $(shell touch o3)\" ; touch o4 '' 'a b' $HOME * \\| --json"
WORDS = ["$(touch o1) `touch o2` $(shell touch o3)", ";", "touch", "o4", "", "a b", "$HOME", "*", "|", "--json"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile, its scripts, and programs that only record their arguments."""
    for name in ("Makefile", *(f"scripts/{script}" for script in SCRIPTS)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    installs_nothing = tmp_path / "scripts" / "venv"
    installs_nothing.write_text("#!/bin/sh\n")
    installs_nothing.chmod(0o755)
    for name in ("tools/bin/loadcheck", "dev/bin/loadcheck", "cpu/bin/loadcheck", "dev/bin/python"):
        program = tmp_path / ".venv" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/bash\nprintf '%s\\0' \"$@\" >>given\n")
        program.chmod(0o755)
    return tmp_path


OUTER_MAKE_VARIABLES = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "ARGS", "RUN", "LOG", "GPU", "PROFILE")
"""What `make unit ARGS=…` passes to the tests, and these must not inherit."""


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OUTER_MAKE_VARIABLES}


def make(checkout: Path, *arguments: str, **environment: str) -> tuple[int, list[str], str]:
    """The exit code, loadcheck's arguments, and the output."""
    output = subprocess.run(["make", "ENGINE=cpu", "RUNTIME=local", *arguments], cwd=checkout, env={**clean_environment(), **environment},
                          capture_output=True, text=True, check=False)  # fmt: skip
    given = checkout / "given"
    words = given.read_text().split("\0")[:-1] if given.exists() else []
    assert not list(checkout.glob("o[0-9]")), "something that was given was run"
    return output.returncode, words, output.stderr


PASSED: list[tuple[str, list[str], list[str]]] = [
    ("check", ["RUN"], ["check", EVIL]),
    ("check", ["LOG"], ["check", EVIL]),
    ("report", ["RUN"], ["report", EVIL]),
    ("parse", ["LOG"], ["parse", EVIL]),
    ("fit", ["GPU", "PROFILE"], ["fit", "--gpu", EVIL, "--profile", EVIL]),
    ("predict", ["GPU", "PROFILE"], ["predict", "--gpu", EVIL, "--profile", EVIL]),
    ("load", ["PROFILE"], ["load", EVIL]),
    ("peft", ["PROFILE", "TAG", "REGISTRY"], ["load", EVIL, "--train-steps", "5"]),
    ("serve", ["RUN"], ["serve", EVIL]),
    ("serve", ["PROFILE"], ["serve", EVIL]),
    ("doctor", ["PROFILE", "IMAGE", "OTHER"], ["doctor", "--profile", EVIL]),
    ("release", ["RELEASE"], ["scripts/release.py", EVIL]),
]
"""A target, the variables that are given, and what the program then gets."""


@pytest.mark.parametrize(
    ("where", "target", "names", "expected"),
    thinned([(where, *each) for where in ("command line", "environment") for each in PASSED]),
)
def test_values_reach_the_program_unchanged(
    where: str, target: str, names: list[str], expected: list[str], checkout: Path
):
    """Quotes, spaces, newlines, `$(…)`, back quotes, `;` and make's functions are passed as plain characters."""
    values = dict.fromkeys(names, EVIL)
    if where == "environment":
        code, words, output = make(checkout, target, **values)
    else:
        code, words, output = make(checkout, target, *(f"{name}={value}" for name, value in values.items()))
    assert (code, words) == (0, expected), output


@pytest.mark.parametrize(
    ("target", "own"), [("predict", ["predict", "--gpu", "T4"]), ("load", ["load"]), ("manifest", ["manifest"])]
)
def test_args_are_split_and_not_evaluated(target: str, own: list[str], checkout: Path):
    """In ARGS quotes group words, an empty word stays, and no character starts a command or names a file."""
    assert make(checkout, target, f"ARGS={QUOTED}")[:2] == (0, [*own, *WORDS])


def test_an_open_quote_in_args_is_bad_usage(checkout: Path):
    """With an open quote nothing is run."""
    code, words, output = make(checkout, "predict", "ARGS=--model 'a b")
    assert (code, words, "Error: ARGS: " in output) == (2, [], True)


def test_the_newest_run_may_have_any_name(checkout: Path):
    """The newest run's name is neither evaluated nor split."""
    for age, name in enumerate(("$(touch o1)\n;touch o2 'x", "older one", "oldest")):
        (checkout / "runs" / name).mkdir(parents=True)
        os.utime(checkout / "runs" / name, (1e9 - age, 1e9 - age))
    assert make(checkout, "report")[:2] == (0, ["report", "runs/$(touch o1)\n;touch o2 'x/"])


def test_of_runs_that_are_as_new_the_last_by_name_is_shown(checkout: Path):
    """Folders have the same time where the disk's clock is coarse, and in a copy without times."""
    for name in ("20261129T100000Z-x", "20261130T100000Z-a", "20261130T090000Z-x"):
        (checkout / "runs" / name).mkdir(parents=True)
        os.utime(checkout / "runs" / name, (1e9, 1e9))
    assert make(checkout, "report")[:2] == (0, ["report", "runs/20261130T100000Z-a/"])


def test_without_a_run_report_exits_2(checkout: Path):
    """Without a run: exit 2, and the command that makes one."""
    code, words, output = make(checkout, "check")
    assert (code, words, "there is no run yet; run: make load" in output) == (2, [], True)


@pytest.mark.parametrize("name", ["ENGINE", "RUNTIME"])
def test_an_unknown_engine_or_runtime_is_refused(name: str, checkout: Path):
    """Targets are named after engine and runtime, so only known ones are accepted."""
    code, words, output = make(checkout, "load", f"{name}=cpu; touch o1")
    assert (code, words, f"{name}: " in output) == (2, [], True)


USERS_TARGETS = [
    "load",
    "predict",
    "matrix",
    "fit",
    "doctor",
    "peft",
    "train",
    "serve",
    "check",
    "report",
    "parse",
    "test",
]


@pytest.mark.parametrize("columns", ["20", "200"])
def test_help_lists_every_target_in_three_groups(columns: str):
    """The users' group comes first, and each described target has one line of at most 80 columns on any terminal."""
    done = subprocess.run(["make", "ENGINE=cpu", "RUNTIME=local"], cwd=ROOT, env=clean_environment() | {"COLUMNS": columns},
                          capture_output=True, text=True, check=True)  # fmt: skip
    groups = [group.splitlines() for group in done.stdout.split("\n\n")]
    assert [group[0].split()[-1] for group in groups][1:] == ["developers", "image"] and len(groups) == 3
    assert [line.split()[0] for line in groups[0][1:]] == USERS_TARGETS
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    listed = {line.split()[0] for group in groups for line in group[1:]}
    phony = set(re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == phony - {"FORCE", "help"}
