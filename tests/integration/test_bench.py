"""The benchmark of a start, with stand-ins for the plain script and ours: what it runs, when it stops, and what it leaves."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripts.bench import __main__ as bench
from scripts.bench import timing

from tests.conftest import ROOT

LINES = """\
==((====))==  Unsloth 2025.2.5: Fast Llama patching. Transformers: 4.48.2.
INFO llm_engine.py:234] Initializing a V0 LLM engine (v0.7.2) with config: model='m', dtype=torch.bfloat16, max_seq_len=512,
INFO model_runner.py:1110] Starting to load model m...
INFO model_runner.py:1115] Loading model weights took {weights} GB
INFO worker.py:267] Memory profiling takes 1.34 seconds
INFO model_runner.py:1434] Capturing cudagraphs for decoding.
INFO model_runner.py:1562] Graph capturing finished in 1 secs, took 0.62 GiB
Unsloth 2025.2.5 patched 32 layers with 32 QKV layers, 32 O layers and 32 MLP layers.
"""
PLAIN = "first token at {at}\nadapter_sha256=aa\ntoken_ids_sha256=bb\n"
OURS = """\
loadcheck: {{"event": "adapters", "adapter_sha256": "{adapters}", "allocated_bytes": {allocated}}}
loadcheck: {{"event": "answer", "token_ids_sha256": "bb", "first_token_unix_s": {at}}}
"""
CODE = """
import os, sys, time
_, log, text, wait_s, code = sys.argv
os.makedirs(os.path.dirname(log), exist_ok=True)
with open(log, "a") as file:
    for line in text.splitlines(keepends=True):
        file.write(line.replace("AT", str(time.time())))
        file.flush()
time.sleep(float(wait_s))
sys.exit(int(code))
"""


class Clock:
    """Python's clocks, of which the monotonic one can be put forward: a limit is then reached however busy the machine is."""

    time, sleep, strftime = staticmethod(time.time), staticmethod(time.sleep), staticmethod(time.strftime)

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The benchmark's clock."""
    found = Clock()
    for module in (bench, timing):
        monkeypatch.setattr(module, "time", found)
    return found


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A machine with a GPU where each way prints a load's output; `says` changes it by way, `runs` has the order, `told` what each way gets."""
    seen = SimpleNamespace(runs=[], told=[], says={}, out=tmp_path / "out")

    def command(way: timing.Way, own: timing.Bench, folder: Path) -> list[str]:
        seen.runs.append(folder.name)
        says: dict[str, Any] = {"weights": "5.3541", "adapters": "aa", "allocated": 7, "wait_s": 0, "code": 0, **seen.says.get(way.name, {})}  # fmt: skip
        text = (LINES + (PLAIN if way.plain else OURS)).format(**says, at="AT")
        (folder.parent / "ours-0").mkdir(parents=True, exist_ok=True)
        (folder.parent / "ours-0" / "weights.json").write_text('{"directory": "/weights"}')
        log = folder.with_suffix(".log") if way.plain else folder / "load.log"
        return [sys.executable, "-c", CODE, str(log), text, str(says["wait_s"]), str(says["code"])]

    gpu = SimpleNamespace(name="NVIDIA H200", driver_cuda="13.0")
    environment = timing.environment

    def told(way: timing.Way, own: timing.Bench) -> dict[str, str]:
        variables = environment(way, own)
        seen.told.append(variables["LOADCHECK_START_WITH"])
        return variables

    monkeypatch.setattr(bench, "read_gpu", lambda: gpu)
    monkeypatch.setattr(bench, "import_once", lambda: seen.runs.append("imports"))
    monkeypatch.setattr(timing, "forget_files", lambda: seen.runs.append("forgets"))
    monkeypatch.setattr(timing, "command", command)
    monkeypatch.setattr(timing, "environment", told)
    return seen


def run(monkeypatch: pytest.MonkeyPatch, ran: SimpleNamespace, *arguments: str) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["bench", "--out", str(ran.out), "--with", "ahead", "--trial", "swap", *arguments])
    code = bench.main()
    return code, json.loads((ran.out / "bench.json").read_text())


def test_a_session_runs_warm_rounds_and_then_cold_ones(
    monkeypatch: pytest.MonkeyPatch, ran: SimpleNamespace, capsys: Any
):
    """Each way takes its turn, the plain script only in the first rounds; cold rounds omit ours unchanged; the table has medians and shares."""
    code, report = run(monkeypatch, ran, "--rounds", "2", "--cold-rounds", "1", "--plain-rounds", "1")
    ours, opt_in = ["ours", "few-sequences"], ["ours-opt-in", "few-sequences-opt-in"]
    trial = "few-sequences-opt-in-swap"
    assert (code, report["left"], report["failures"], report["differing"]) == (0, [], [], [])
    assert ran.runs == [
        "ours-0", "imports",
        *(f"warm-1-{way}" for way in ("plain", *ours, *opt_in, trial)), *(f"warm-2-{way}" for way in (*ours, *opt_in, trial)),
        *(each for way in ("plain", *opt_in) for each in (f"cold-1-{way}", "forgets")),
    ]  # fmt: skip
    assert ran.told == [
        "",
        *["", "", "", "ahead", "ahead", "ahead,swap"],
        *["", "", "ahead", "ahead", "ahead,swap"],
        "",
        "ahead",
        "ahead",
    ]
    assert [len(runs) for runs in report["rounds"]["warm"]] == [6, 5]
    head, *rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert head.split(" | ")[1:3] == ["plain, warm", "ours, warm"] and "few sequences + opt-in, cold" in head
    assert len(rows) == 1 + len(timing.STAGES) + 1 and rows[-1].startswith("| **start to first token** | **")


def test_no_round_starts_that_would_end_too_late(monkeypatch: pytest.MonkeyPatch, ran: SimpleNamespace):
    """It starts no round that would end too late; remaining rounds are listed, and run when it is continued, and earlier rounds are kept."""
    expected_s = iter([0.0, 1e6])
    monkeypatch.setattr(bench, "expected_s", lambda *_: next(expected_s))
    code, report = run(monkeypatch, ran, "--rounds", "1", "--cold-rounds", "1")
    assert (code, report["left"], len(report["rounds"]["warm"])) == (bench.LEFT, ["cold round 1"], 1)
    ran.runs.clear()
    monkeypatch.setattr(bench, "expected_s", lambda *_: 0.0)
    code, report = run(monkeypatch, ran, "--rounds", "1", "--cold-rounds", "1", "--continue")
    assert (code, report["left"]) == (0, []) and [len(report["rounds"][kind]) for kind in ("warm", "cold")] == [1, 1]
    assert not any(name.startswith(("ours-0", "imports", "warm")) for name in ran.runs)


def test_a_round_without_the_plain_script_is_expected_to_be_shorter():
    """The longest run of each way counts, and an assumption for a way that has not run."""
    plain, ours, few = timing.Way("plain", plain=True), timing.Way("ours"), timing.Way("few")
    rounds = [
        [timing.Timed("plain", wall_s=80.0), timing.Timed("ours", wall_s=20.0)],
        [timing.Timed("ours", wall_s=22.0)],
    ]
    assert bench.expected_s(rounds, [plain, ours]) == pytest.approx(1.05 * (80 + 22))
    assert bench.expected_s(rounds, [ours]) == pytest.approx(1.05 * 22)
    assert bench.expected_s(rounds, [few, plain]) == pytest.approx(1.05 * (bench.ASSUMED_S[False] + 80))


def test_a_round_at_the_limit_is_dropped(monkeypatch: pytest.MonkeyPatch, ran: SimpleNamespace, clock: Clock):
    """The round cut off at the limit is dropped and listed as remaining; the rounds before it are kept."""
    monkeypatch.setattr(bench, "ASSUMED_S", {True: 0.0, False: 0.0})
    begin_s = time.monotonic()
    commands = timing.command

    def hangs(way: timing.Way, own: timing.Bench, folder: Path) -> list[str]:
        late = folder.name == "warm-2-ours"
        ran.says["ours"] = {"wait_s": 60 if late else 0}
        clock.ahead_s += 600 if late else 0
        return commands(way, own, folder)

    monkeypatch.setattr(timing, "command", hangs)
    code, report = run(monkeypatch, ran, "--rounds", "2", "--cold-rounds", "0", "--limit-s", "600")
    assert time.monotonic() - begin_s < 50
    assert (code, len(report["rounds"]["warm"])) == (bench.LEFT, 1)
    assert (report["failures"], report["left"]) == ([], ["warm round 2"])


def test_a_way_that_fails_or_hangs_is_missing_from_its_round(
    monkeypatch: pytest.MonkeyPatch, ran: SimpleNamespace, clock: Clock
):
    """The missing line or the time taken is reported, the other ways have their times, and without a plain time the table has no shares."""
    ran.says["ours + opt-in"] = {"wait_s": 60}
    monkeypatch.setitem(globals(), "PLAIN", "no token\n")
    started = timing.watch

    def watch(process: Any, log: Path, name: str, own: timing.Bench) -> Any:
        limit = threading.Timer(0.5, setattr, (clock, "ahead_s", clock.ahead_s + 300))
        if name == "ours + opt-in":
            limit.start()
        return started(process, log, name, own)

    monkeypatch.setattr(timing, "watch", watch)
    code, report = run(
        monkeypatch, ran, "--rounds", "1", "--cold-rounds", "0", "--run-limit-s", "300", "--limit-s", "9000"
    )
    assert code == 1 and report["left"] == []
    assert [each["way"] for each in report["rounds"]["warm"][0]] == ["ours", "few sequences", "few sequences + opt-in", "few sequences + opt-in + swap"]  # fmt: skip
    assert report["failures"] == [
        "warm round 1: plain: exit code 0; the last line of 'first token' is not in the log",
        "warm round 1: ours + opt-in: took more than 300 s",
    ]
    assert "(" not in (ran.out / "table.md").read_text().partition("|")[2]


def test_differences_are_reported(monkeypatch: pytest.MonkeyPatch, ran: SimpleNamespace):
    """Figures unlike the plain script's, adapters and bytes unlike the way without measures are reported; a failed check keeps the times."""
    ran.says = {"ours": {"weights": "5.3542"}, "ours + opt-in": {"weights": "5.3542", "adapters": "cc", "allocated": 8},
                "few sequences": {"code": 1}}  # fmt: skip
    code, report = run(monkeypatch, ran, "--rounds", "1", "--cold-rounds", "0")
    assert code == 1 and len(report["rounds"]["warm"]) == 1
    assert report["differing"] == [
        "warm round 1: ours: weights_bytes: 5749028474, plain: 5748921100",
        "warm round 1: few sequences: exit code 1",
        "warm round 1: ours + opt-in: adapter_sha256: cc, ours: aa",
        "warm round 1: ours + opt-in: adapters.allocated_bytes: 8, ours: 7",
    ]


def test_the_command_lines_are_those_of_the_two_scripts(tmp_path: Path):
    """Settings are passed to the plain script unchanged, and to ours as flags."""
    own = timing.Bench(tmp_path, Path("/weights"), "swap", 0, 0)
    few = timing.Way("few", settings=("max_lora_rank=16", "conservativeness=0.041"), opt_in=("ahead",))
    assert timing.command(few, own, tmp_path / "x")[-5:] == [str(tmp_path / "x"), "--max-lora-rank", "16", "--conservativeness", "0.041"]  # fmt: skip
    assert timing.command(timing.Way("plain", plain=True, settings=("a=1",)), own, tmp_path)[-2:] == ["/weights", "a=1"]
    assert timing.environment(few, own)["LOADCHECK_START_WITHOUT"] == "swap"
    assert os.environ.get("LOADCHECK_START_WITH", "") == ""


@pytest.mark.skipif(not (ROOT / ".venv" / "gpu" / "bin" / "python").exists(), reason=".venv/gpu is not installed")
def test_it_starts_in_the_environment_of_the_stack():
    """The benchmark starts although packages of the pinned stack bring another package named like its folder."""
    command = [str(ROOT / ".venv" / "gpu" / "bin" / "python"), "-m", "scripts.bench", "--help"]
    said = subprocess.run(command, cwd=ROOT, env={"PATH": os.defpath}, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout[:20]) == (0, "usage: scripts.bench"), said.stderr
