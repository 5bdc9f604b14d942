"""What several test modules need."""

import signal
from pathlib import Path

import pytest

# What runs in the background of a shell script has interrupts ignored, and hands that on to what it starts; loads here are interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "tests" / "runs"
SHARED_LOGS = ROOT.parent / "shared" / "logs"


@pytest.fixture
def t4_log() -> Path:
    """The reference: Llama 3.1 8B in 4-bit on a T4, 2025-02-13."""
    return RUNS / "t4_llama31-8b_reference.txt"


@pytest.fixture
def h100_log() -> Path:
    """The same settings with synthetic weights on an H100, 2026-11-24."""
    return RUNS / "h100_llama31-8b_synthetic.txt"


@pytest.fixture
def shared_logs() -> Path:
    """Public logs that are not ours to commit."""
    if not SHARED_LOGS.is_dir():
        pytest.skip(f"the public logs are not on this machine ({SHARED_LOGS})")
    return SHARED_LOGS
