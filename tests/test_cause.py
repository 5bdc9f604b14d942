"""How a load that did not finish is reported: one cause, one fix, and only the number of figures that it did not reach."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from loadcheck import cli
from loadcheck.checking import gather
from loadcheck.logs.event_lines import format_event
from loadcheck.logs.events import Done, Started, WeightsLoaded
from loadcheck.verdict import Finding, Verdict, causes, judge
from tests.conftest import RUNS

STARTED = format_event(
    Started(model="smollm2-135m-instruct", max_model_len=512, quantization="nf4", torch="2.5.1+cu124")
)
WEIGHTS = format_event(WeightsLoaded(weights_bytes=111_692_024))
INTERRUPT = "Traceback (most recent call last):\nKeyboardInterrupt: \n"
REFUSAL = "Error: profile p: generation: prompt and answer need 49 tokens; shorten the prompt"


def _run(tmp_path: Path, log: str, outcome: str, reason: str, exit_code: int) -> Path:
    """The run folder of a CPU load of the small model that printed `log`."""
    run = tmp_path / "run"
    shutil.copytree(RUNS / "h100" / "killed", run)
    record = json.loads((run / "run.json").read_text())
    profile = {
        "name": "smollm2-135m-cpu", "description": "", "engine": "cpu", "model": "smollm2-135m-instruct", "weights": "package",
        "max_seq_length": 512, "load_in_4bit": True, "fast_inference": False, "max_lora_rank": 32, "gpu_memory_utilization": 0.6,
    }  # fmt: skip
    record |= {"profile": profile, "machine": {}, "outcome": outcome, "reason": reason, "exit_code": exit_code}
    (run / "run.json").write_text(json.dumps(record))
    (run / "load.log").write_text(log)
    return run


def _printed(run: Path, capsys: pytest.CaptureFixture[str], command: str = "report") -> str:
    """Everything printed below the table, on one line."""
    assert cli.run([command, str(run)]) != 0
    out = capsys.readouterr().out
    return " ".join(out[out.index("\n\n") :].split())


def _verdict(run: Path) -> Verdict:
    return judge(gather(run))


def test_an_interruption_is_the_only_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Ctrl-C is reported with a cause, a fix and a count, the cause last: no traceback, no unknown trouble, no line per figure."""
    run = _run(tmp_path, f"{STARTED}\n{WEIGHTS}\n{INTERRUPT}", "interrupted", "the user ended it", -2)
    shown = _printed(run, capsys)
    assert shown.count("FAIL ") == 2  # the cause, and the verdict
    assert "FAIL process is interrupted: the user ended it; load it again" in shown
    assert "9 figures were not reached" in shown
    assert shown.index("Cause: the user ended it Fix: load it again") > shown.index(" ok (")
    assert not any(words in shown for words in ("Traceback", "no known trouble", "expected (", "see the log"))


@pytest.mark.parametrize("command", ["check", "report"])
@pytest.mark.parametrize("name", ["killed", "short-of-estimate", "length-cut", "llama-3.2-3b-short-of-kv"])
def test_a_failure_ends_with_cause_and_fix(name: str, command: str, capsys: pytest.CaptureFixture[str]):
    """Without a pass the last lines are cause and fix, below the verdict and the run's folder."""
    assert cli.run([command, str(RUNS / "h200" / name)]) == 1
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert [line.partition(": ")[0] for line in lines[-2:]] == ["Cause", "Fix"]
    assert lines[-3].startswith("FAIL  ") and (command == "check" or "; kept in " in lines[-5])


def test_a_wrong_figure_is_the_cause(tmp_path: Path, t4_log: Path, capsys: pytest.CaptureFixture[str]):
    """The cause of a finished load that fails is its first wrong figure, with the fix."""
    log = tmp_path / "log"
    log.write_text(t4_log.read_text().replace("took 5.3541", "took 5.4541"))
    assert cli.run(["check", str(log)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("Cause: weights_gib is 5.35 GiB: line 33 says 5.4541, ") and lines[-1].startswith(
        "Fix: "
    )


def test_missing_figures_stay_in_the_document(tmp_path: Path):
    """Figures that the load did not reach are findings in the JSON document, marked as missing."""
    run = _run(tmp_path, f"{STARTED}\n{WEIGHTS}\n{INTERRUPT}", "interrupted", "the user ended it", -2)
    found = [finding for finding in _verdict(run).to_json()["findings"] if finding["status"] == "fail"]
    assert {"peak_device_gib", "trainable_params", "answer", "done"} <= {
        finding["figure"] for finding in found if finding["missing"]
    }
    assert any(finding["figure"] == "error" for finding in found)


def test_our_own_error_is_the_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An error of loadcheck in the child is the cause, with its own fix. Nobody is sent to the issues of unsloth and vLLM."""
    run = _run(tmp_path, f"{STARTED}\n{REFUSAL}\n", "failed", "the loading process ended with exit code 2", 2)
    (cause,) = causes(_verdict(run))
    assert (cause.trouble, cause.why) == ("refused", "profile p: generation: prompt and answer need 49 tokens")
    assert (cause.remedy, str(cause.where)) == ("shorten the prompt", "load.log:2")
    shown = _printed(run, capsys)
    assert "issues of unsloth" not in shown and "see the log around" not in shown
    assert shown.count("FAIL ") == 2


def test_our_own_error_is_known_by_its_log_alone(tmp_path: Path):
    """The log alone shows that the error is ours."""
    log = tmp_path / "load.log"
    log.write_text(REFUSAL + "\n")
    assert [cause.trouble for cause in causes(judge(gather(log)))] == ["refused"]


def test_an_unknown_trouble_replaces_the_generic_error(t4_log: Path, tmp_path: Path):
    """If no trouble matches, the unknown trouble is the cause, without the generic error beside it."""
    log = tmp_path / "load.log"
    log.write_text(t4_log.read_text().split("Memory profiling takes")[0] + "\nOverflowError: never seen\n")
    (cause,) = causes(judge(gather(log)))
    assert (cause.trouble, "OverflowError: never seen" in cause.why) == ("unknown", True)


def test_a_wrong_version_is_reported_beside_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A wrong version is its own finding, whatever ended the load."""
    log = f"{STARTED.replace('2.5.1', '2.6.0')}\n{INTERRUPT}"
    shown = _printed(_run(tmp_path, log, "interrupted", "the user ended it", -2), capsys)
    assert "FAIL torch is 2.6.0+cu124, not 2.5.1" in shown


def test_the_cause_of_a_killed_load_is_the_kill(tmp_path: Path):
    """The cause of a load that was killed from outside is the kill, not the last error printed."""
    run = _run(tmp_path, f"{STARTED}\nValueError: retried\n", "killed", "ended by SIGKILL", -9)
    assert [cause.figure for cause in causes(_verdict(run))] == ["process"]


def test_a_load_that_finished_has_no_cause(t4_log: Path, tmp_path: Path):
    """A load that finished has no cause: passing, with wrong figures, or after a retry."""
    retry = "Unsloth: Retrying vLLM to process 120 sequences and 512 tokens in tandem.\nError:\nCUDA out of memory. x\n"
    text = t4_log.read_text()
    cut = text.index("INFO 02-13 15:54:32 model_runner.py:1110] Starting")
    for changed in (text, text.replace("took 5.3541 GB", "took 5.3542 GB"), text[:cut] + retry + text[cut:]):
        log = tmp_path / "load.log"
        log.write_text(changed)
        assert causes(judge(gather(log))) == ()


def _missing(log: Path, profile: str | None = None) -> list[Finding]:
    return [each for each in judge(gather(log, profile)).failures() if each.missing and "the line" in each.why]


def test_missing_lines_are_counted_and_named_once(t4_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Missing lines are counted correctly, and no figure is named twice."""
    log = tmp_path / "load.log"
    kept = ("Unsloth: vLLM loading", "init engine", "QKV layers")
    log.write_text("".join(line for line in t4_log.read_text().splitlines(True) if any(each in line for each in kept)))
    missing = _missing(log)
    assert max(Counter(finding.figure for finding in missing).values()) == 1
    cli.run(["check", str(log)])
    count, _, rest = " ".join(capsys.readouterr().out.split()).rpartition(" required lines are not in the log: ")
    assert int(count.split()[-1]) == len(missing) == rest.partition(" keep ")[0].count(",") + 1


def test_a_figure_that_an_event_states_is_not_missing(tmp_path: Path):
    """The events of our engine state the versions and the model, so a missing line is not reported for these."""
    log = tmp_path / "load.log"
    log.write_text(f"{STARTED}\n{WEIGHTS}\n{format_event(Done())}\n")
    missing = _missing(log, "llama31-8b-instruct-4bit")
    assert missing and not {"torch", "model", "weights_gib"} & {finding.figure for finding in missing}


def test_what_ended_the_load_is_the_cause(t4_log: Path, tmp_path: Path):
    """What ended the load is the cause, not a cut length or a retry with fewer sequences that the load survived."""
    log = tmp_path / "load.log"
    cut = "Unsloth: Your GPU cannot handle sequence lengths of 256 due to limited GPU memory.\n"
    retry = "Unsloth: Retrying vLLM to process 96 sequences and 256 tokens in tandem.\n"
    error = "RuntimeError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.\n"
    log.write_text(cut + t4_log.read_text().split("Memory profiling takes")[0] + "\n" + retry + error)
    assert [cause.trouble for cause in causes(judge(gather(log)))] == ["kv-too-small", "length-cut", "retry"]
