"""What every test relies on: an isolated environment, and the files that several modules need."""

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

# Variables that a user, a terminal, an outer make or a CI may have set and that loadcheck, or a program it starts, would obey. Those of certificates,
# proxies and GPUs are kept.
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


HANDED_ON = {"LOADCHECK_GPU": "TESTS_GPU", "LOADCHECK_KEEP": "TESTS_KEEP"}
"""Variables for tests/gpu, kept under names that no program reads: the GPU to run on, and the folder for the results."""


def _own_environment() -> None:
    """Clear what tests must not see, and give this session its own HOME, so that no cache or token of the user is read or written."""
    for name, own in HANDED_ON.items():
        if name in os.environ:
            os.environ[own] = os.environ[name]
    for name in list(os.environ):
        if name in CLEARED or name.startswith(CLEARED_PREFIXES):
            del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"
    with suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")  # the default encoding of open()
    os.environ["HOME"] = tempfile.mkdtemp(prefix="loadcheck-home-")
    os.umask(0o022)
    sys.dont_write_bytecode = False  # tests start dozens of processes, each of which would compile loadcheck again


# The same examples each time: few in `make unit`, more in `make test`. Pass a --hypothesis-profile of your own for any other number.
settings.register_profile(
    "few", max_examples=25, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # a busy machine is no fault of a test
)  # fmt: skip
settings.register_profile("many", settings.get_profile("few"), max_examples=100)
settings.load_profile("few")

LONGEST_ID = 60
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
"""The main process of pytest-xdist prepares the environment; its workers inherit it."""
if not IS_WORKER:
    _own_environment()
os.environ.pop("COLUMNS", None)  # pytest-xdist 3.8 sets it in each worker

# A shell script's background processes ignore interrupts, and their children inherit that. The loads of these tests are interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "tests" / "runs"
SHARED_LOGS = ROOT.parent / "shared" / "logs"
"""Public logs that are not ours to commit. Where they exist, tests read them beside our own (tests/sample_logs.py)."""


Case = TypeVar("Case")


_NAMED: list[str] = []
"""Test files that are named on the command line."""


def pytest_configure(config: pytest.Config) -> None:
    _NAMED[:] = [each for each in config.args if ".py" in each]


def thinned(cases: Sequence[Case]) -> Sequence[Case]:
    """Every seventh of many cases of one behaviour in `make unit`; all of them in `make test`, or if a test file is named.

    Cases are often combinations of 2, 3, 4 or 6 values; a step of 7 takes each of them in turn, where one of 6 takes the same each time.
    """
    whole = bool(_NAMED) or settings.default.max_examples > settings.get_profile("few").max_examples
    return cases if whole else cases[::7]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: a process per usable core, at most 4, as most of the time goes into starting them."""
    return min(len(os.sched_getaffinity(0)), 4)


gc.disable()  # during collection: nearly all objects made then live to the end


def pytest_collection_finish() -> None:
    """Collected objects live to the end, so collect garbage a tenth as often."""
    gc.enable()
    gc.set_threshold(10_000, 10, 10)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shorten long texts: a test's id is printed, and passed between processes."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_ID:
        return ascii(val[:LONGEST_ID])[:LONGEST_ID]
    return None


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    if not IS_WORKER:
        shutil.rmtree(os.environ["HOME"], ignore_errors=True)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like pytest's own, which scans all earlier folders for the next free number: seconds for 1,600 tests."""
    return Path(tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp()))


@pytest.fixture
def t4_log() -> Path:
    """The reference: Llama 3.1 8B in 4-bit on a T4, 2025-02-13."""
    return RUNS / "t4_llama31-8b_reference.txt"


@pytest.fixture
def h100_log() -> Path:
    """The same settings with synthetic weights on an H100, 2026-11-24."""
    return RUNS / "h100_llama31-8b_synthetic.txt"
