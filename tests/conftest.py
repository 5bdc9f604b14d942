"""What every test may rely on: an environment of its own, and the files that several modules need."""

import gc
import locale
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

# What a user, a terminal, an outer make or a CI may have set and loadcheck, or a program that it starts, would heed. What leads to
# certificates, proxies and GPUs stays.
CLEARED = (
    "ARGS", "COLUMNS", "FORCE_COLOR", "GPU", "LANG", "LANGUAGE", "LINES", "LOG", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS",
    "NO_COLOR", "PROFILE", "RUN", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TZ",
)  # fmt: skip
CLEARED_PREFIXES = (
    "BUILDKITE",
    "CLICOLOR",
    "GIT_",
    "GITHUB_",
    "HF_",
    "HUGGING_FACE_",
    "JUPYTER_",
    "LC_",
    "LOADCHECK_",
    "PYTHON",
    "XDG_",
)


def _own_environment() -> None:
    """Clear what only tests must not see, and give this session a HOME: no cache and no token of a user is read or written."""
    for name in list(os.environ):
        if name in CLEARED or name.startswith(CLEARED_PREFIXES):
            del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"
    with suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")  # what open() decodes by, where nothing is said
    os.environ["HOME"] = tempfile.mkdtemp(prefix="loadcheck-home-")
    os.umask(0o022)
    sys.dont_write_bytecode = False  # dozens of processes are started; each would compile loadcheck anew


# The same examples each time: a few in `make unit`, more in `make test`, and any number with --hypothesis-profile of one's own.
settings.register_profile(
    "few", max_examples=25, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.register_profile("many", settings.get_profile("few"), max_examples=100)
settings.load_profile("few")

LONGEST_ID = 60
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
"""Of several processes the first has made the environment, and the others have inherited it."""
if not IS_WORKER:
    _own_environment()
os.environ.pop("COLUMNS", None)  # which pytest-xdist 3.8 sets in each process that it starts

# What runs in the background of a shell script has interrupts ignored, and hands that on to what it starts; loads here are interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "tests" / "runs"
SHARED_LOGS = ROOT.parent / "shared" / "logs"
"""Public logs that are not ours to commit: where they are, tests read them beside our own (tests/kinds.py)."""


Case = TypeVar("Case")


def thinned(cases: Sequence[Case]) -> Sequence[Case]:
    """Of a sweep, every sixth case in `make unit`, and all of them in `make test`."""
    whole = settings.default.max_examples > settings.get_profile("few").max_examples
    return cases if whole else cases[::6]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: a process for each core that this one may use, and no more than 4, as most of the time goes into starting them."""
    return min(len(os.sched_getaffinity(0)), 4)


gc.disable()  # while tests are collected: nearly all that is made then lives to the end


def pytest_collection_finish() -> None:
    """What was collected lives to the end: the garbage collector looks through it a tenth as often."""
    gc.enable()
    gc.set_threshold(10_000, 10, 10)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Long texts are cut, as a test's name is printed, and handed from process to process."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_ID:
        return ascii(val[:LONGEST_ID])[:LONGEST_ID]
    return None


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    if not IS_WORKER:
        shutil.rmtree(os.environ["HOME"], ignore_errors=True)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's own, which looks through all earlier folders for the next free number: of 1,600 tests that is seconds."""
    return Path(tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp()))


@pytest.fixture
def t4_log() -> Path:
    """The reference: Llama 3.1 8B in 4-bit on a T4, 2025-02-13."""
    return RUNS / "t4_llama31-8b_reference.txt"


@pytest.fixture
def h100_log() -> Path:
    """The same settings with synthetic weights on an H100, 2026-11-24."""
    return RUNS / "h100_llama31-8b_synthetic.txt"
