"""Reports for CI: each follows its schema, has the verdict, and stays within its limit."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from loadcheck import cli
from loadcheck.machine import Report as MachineReport
from loadcheck.machine import ok, problem
from loadcheck.show.ci.annotations import github_lines
from loadcheck.show.ci.report import Outcome, Report, Result, of_peaks, of_verdict
from loadcheck.show.ci.summary import MAX_BYTES, markdown
from loadcheck.training import DoesNotFitError
from loadcheck.units import GIB
from loadcheck.verdict import Check, Finding, Status, Verdict
from loadcheck.workloads.peaks import Peaks
from tests.conftest import ROOT, RUNS

T4 = RUNS / "t4_llama31-8b_reference.txt"
FAILED, REFERENCE, TRAINED = RUNS / "h200/short-of-estimate", RUNS / "h200/reference", RUNS / "h200/reference-train3"
HOSTILE = "<img src=x onerror=alert(1)>|`[a](b)\x1b[31m\n::error::x\ud800&amp;"
COMMANDS = [
    ["check", str(T4)],
    ["check", str(FAILED)],
    ["report", str(TRAINED)],
    ["compare", str(REFERENCE), str(TRAINED)],
]

Written = Callable[..., tuple[int, dict[str, str]]]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A command's exit code, and its report in each format."""

    def run(*command: str) -> tuple[int, dict[str, str]]:
        files = {form: tmp_path / f"{form}.out" for form in ("junit", "ctrf", "summary", "annotations")}
        code = cli.run([*command, *(word for form, path in files.items() for word in (f"--{form}", str(path)))])
        return code, {form: path.read_text(encoding="utf-8") for form, path in files.items()}

    return run


def _checked_junit(text: str) -> ElementTree.Element:
    """Parse JUnit and check what the schemas of Ant and of Jenkins' xUnit plugin require. Both validated all of it on 2026-11-29 (LOG.md)."""
    root = ElementTree.fromstring(text.encode())
    assert (root.tag, root.attrib) == ("testsuites", {})
    names = {"id", "name", "package", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time"}
    for number, suite in enumerate(root):
        assert (suite.tag, set(suite.attrib), suite.get("id")) == ("testsuite", names, str(number))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
        assert re.fullmatch(r"\d+\.\d{3}", suite.get("time", ""))
        first, *cases, out, err = list(suite)
        assert (first.tag, out.tag, err.tag) == ("properties", "system-out", "system-err")
        assert all(each.tag == "property" and set(each.attrib) == {"name", "value"} for each in first)
        assert all(each.tag == "testcase" and set(each.attrib) == {"name", "classname", "time"} for each in cases)
        children = [list(each) for each in cases]
        assert all(
            len(each) <= 1 and {child.tag for child in each} <= {"failure", "error", "skipped"} for each in children
        )
        bad = [child for each in children for child in each if child.tag in ("failure", "error")]
        assert all(set(each.attrib) == {"message", "type"} for each in bad)
        counted = {tag: str([each.tag for each in bad].count(tag)) for tag in ("failure", "error")}
        assert (suite.get("failures"), suite.get("errors")) == (counted["failure"], counted["error"])
        assert suite.get("tests") == str(len(cases))
    keys = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(set(keys)) == len(keys) and len({suite.get("name") for suite in root}) == len(root)
    return root


def _checked_ctrf(text: str) -> dict[str, Any]:
    """Parse CTRF and check that it has the keys that specification 1.0.0 requires, and no others."""
    document = json.loads(text)
    assert (
        set(document) == {"reportFormat", "specVersion", "generatedBy", "results"}
        and document["reportFormat"] == "CTRF"
    )
    results = document["results"]
    assert (
        set(results) == {"tool", "summary", "tests", "environment", "extra"} and results["tool"]["name"] == "loadcheck"
    )
    counted = [each["status"] for each in results["tests"]]
    summary = results["summary"]
    assert {name: summary[name] for name in ("passed", "failed", "skipped", "pending", "other")} == {
        name: counted.count(name) for name in ("passed", "failed", "skipped", "pending", "other")
    }
    assert summary["tests"] == len(counted) and all(isinstance(value, int) for value in summary.values())
    for each in results["tests"]:
        assert set(each) == {"name", "status", "duration", "suite", "message", "rawStatus"}
        assert isinstance(each["duration"], int) and all(isinstance(name, str) for name in each["suite"])
    return dict(results)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_format_has_the_commands_verdict(command: list[str], written: Written):
    """Each format follows its schema and has the command's verdict; there are failures exactly if the exit code is not 0."""
    code, forms = written(*command)
    failures = _checked_junit(forms["junit"]).findall(".//failure")
    results = _checked_ctrf(forms["ctrf"])
    assert len(failures) == results["summary"]["failed"]
    assert (code == 0) == (not failures)
    verdict = {"check": ("PASS", "FAIL"), "report": ("PASS", "FAIL"), "compare": ("SAME", "DIFFERENT")}[command[0]][
        code
    ]
    assert forms["summary"].startswith(f"## {verdict} ")
    (link,) = json.loads(forms["annotations"])["loadcheck"]
    label = link["external_link"]["label"]
    assert label.startswith(f"loadcheck {verdict}: ") and label.count(verdict) == 1


def _report(*results: Result, **fields: Any) -> Report:
    known = {
        "title": "t",
        "status": "fail",
        "passed": False,
        "summary": "s",
        "started": datetime(2026, 11, 29, tzinfo=timezone.utc),
    }
    return Report(**known | fields, results=results)  # type: ignore[arg-type]


def test_a_summary_of_10000_findings_keeps_its_verdict():
    """A summary of 10,000 findings stays below a step's limit, keeps the verdict, and says that there is more."""
    results = [
        Result("model", f"figure #{number}", Outcome.FAILED, f"wrong {number} " * 30) for number in range(10_000)
    ]
    text = markdown(_report(*results, cause="the cause", fix="the fix", table=(("a", "b"), *[("x" * 99, "y")] * 9999)))
    assert 0.9 * MAX_BYTES < len(text.encode()) <= MAX_BYTES
    assert text.startswith("## FAIL t\n") and "**Cause:** the cause" in text and "**Fix:** the fix" in text
    assert text.endswith("The rest is not shown: it would exceed the size limit.\n")


def test_a_summary_is_appended_within_the_limit(tmp_path: Path):
    """A summary is appended to the step's file within the limit: a nearly full file gets the verdict's lines, a full one nothing."""
    file = tmp_path / "summary.md"
    for size, grows in ((0, True), (MAX_BYTES - 500, True), (MAX_BYTES, False)):
        file.write_text("x" * size)
        assert cli.run(["check", str(FAILED), "--summary", str(file)]) == 1
        assert size + 400 * grows <= file.stat().st_size <= MAX_BYTES
        assert ("## FAIL" in file.read_text()) is grows


def test_a_logs_text_is_text_in_every_format(tmp_path: Path):
    """Text from a log stays text: no HTML, no Markdown, no workflow command, no character that XML lacks."""
    finding = Finding(figure="error", check=Check.SHAPE, status=Status.FAIL, why=HOSTILE, remedy=HOSTILE)
    report = of_verdict(HOSTILE, None, Verdict((finding,)))
    text = markdown(report)
    assert "<img" not in text and "](b)" not in text.replace("\\]", "") and "\x1b" not in text
    assert not [line for line in text.splitlines() if line.startswith("::")]
    from loadcheck.show.ci.ctrf import ctrf
    from loadcheck.show.ci.junit import junit

    _checked_junit(junit(report))
    _checked_ctrf(ctrf(report))
    lines = list(github_lines(report, {}))
    assert len(lines) == 1 and lines[0].startswith("::error title=loadcheck FAIL::") and "\n" not in lines[0]


@pytest.mark.parametrize(("target", "kind", "count"), [(FAILED, "error", 10), (T4, "notice", 1)])
def test_github_actions_gets_annotations_and_summary(
    target: Path,
    kind: str,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """On GitHub Actions at most ten annotations go to stderr, the cause first, and the summary to the runner's file; stdout is the document alone."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    code = cli.run(["check", str(target), "--json"])
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith(f"::{kind} title=loadcheck ")]
    assert (len(lines), json.loads(output.out)["verdict"]) == (count, ["pass", "fail"][code])
    assert (tmp_path / "step.md").read_text().startswith("## ")
    assert code == 0 or "no room for the KV cache" in lines[0]


@pytest.mark.parametrize(("target", "code"), [(REFERENCE, 0), (FAILED, 1)])
def test_a_runners_summary_that_cannot_be_written_leaves_the_verdict(
    target: Path, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """In a container the runner's variable may name a file that is not mounted: a note, and the verdict's own exit code."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/nosuch/summary.md")
    assert cli.run(["check", str(target)]) == code
    assert "Note: /nosuch/summary.md (GITHUB_STEP_SUMMARY) gets no summary: No such file" in capsys.readouterr().err
    assert cli.run(["check", str(target), "--summary", "/nosuch/other.md"]) == 2


@pytest.mark.parametrize("exit_code", [0, 1])
def test_buildkites_agent_gets_the_summary(
    exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Buildkite's agent gets the summary on stdin with the verdict's style; if the agent fails, the verdict stays."""
    agent = tmp_path / "buildkite-agent"
    agent.write_text(f'#!/bin/sh\necho "$*" >"{tmp_path}/given"\n/bin/cat >>"{tmp_path}/given"\nexit {exit_code}\n')
    agent.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BUILDKITE", "true")
    assert cli.run(["check", str(T4)]) == 0
    given = (tmp_path / "given").read_text()
    assert given.startswith("annotate --context loadcheck --style success\n## PASS check ")
    assert ("could not annotate" in capsys.readouterr().err) is bool(exit_code)


@pytest.mark.parametrize("form", ["junit", "ctrf", "summary", "annotations"])
def test_a_report_is_not_written_through_a_link(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A report is not written through a link: BadInput, and the link's target is unchanged."""
    aim, link = tmp_path / "aim", tmp_path / "link"
    aim.write_text("kept")
    link.symlink_to(aim)
    assert cli.run(["check", str(T4), f"--{form}", str(link)]) == 2
    assert aim.read_text() == "kept" and "Error: " in capsys.readouterr().err


def test_a_predicted_refusal_is_a_failure(written: Written, monkeypatch: pytest.MonkeyPatch):
    """Without a load, a predicted refusal is a failure in the reports, with its reason."""
    from loadcheck.device import GpuDevice

    gpu = GpuDevice(
        name="Tesla T4", compute_capability="7.5", total_bytes=15 * GIB, free_bytes=4 * GIB, driver_cuda="12.4"
    )
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: gpu)
    monkeypatch.setattr("loadcheck.preparing._require_packages", lambda profile: None)
    code, forms = written("load", "llama31-8b-instruct-4bit")
    (failure, *_) = _checked_junit(forms["junit"]).findall(".//failure")
    assert code == 1 and forms["summary"].startswith("## REFUSED load llama31")
    assert _checked_ctrf(forms["ctrf"])["tests"][0]["suite"] == ["loadcheck", "prediction"]
    assert "; " in failure.get("message", "")


@pytest.mark.parametrize(
    "command", [["doctor", "--profile", "smollm2-135m-cpu"], ["load", "smollm2-135m-cpu"]], ids=lambda words: words[0]
)
def test_doctors_problems_are_failures(command: list[str], written: Written, monkeypatch: pytest.MonkeyPatch):
    """doctor's report, and that of a load that doctor stops, list the checks; the first problem is the cause, and nothing passes."""
    found = (problem("disk", "1 GiB is free", "disk-full", cannot=True), ok("ram", "12 GiB are available"))
    monkeypatch.setattr("loadcheck.doctor.facts.distributions", tuple)  # comparing each installed file takes a while
    monkeypatch.setattr("loadcheck.doctor.examine", lambda machine, plan: MachineReport(plan.profile.name, found))
    for module in ("preparing", "cli.train"):  # which has its own name for it, once it was imported
        monkeypatch.setattr(f"loadcheck.{module}.require", lambda names, profile: None)
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    code, forms = written(*command)
    results = _checked_ctrf(forms["ctrf"])
    (failure,) = _checked_junit(forms["junit"]).findall(".//failure")
    assert (code, failure.get("type"), results["summary"]["passed"]) == (3, "cannot", 1)
    assert results["extra"]["cause"].startswith("1 GiB is free: ") and results["extra"]["fix"]
    assert forms["summary"].startswith("## CANNOT this machine for smollm2-135m-cpu")


NO_LOG = str(ROOT / "README.md")
CANNOT_JUDGE = [
    (["check", NO_LOG], "not a load log"),
    (["check", str(T4), "--no-such-flag", "1"], "--no-such-flag"),
    (["check"], "Missing argument"),
    (["report", "no-such-folder"], "no such folder"),
    (["compare", str(T4)], "nothing to compare with"),
    (["compare", str(T4), "no-such-log"], "No such file"),
    (["doctor", "--profile", "no-such-profile"], "there is no profile"),
    (["load", "no-such-profile"], "there is no profile"),
    (["load", "smollm2-135m-cpu", "--train-steps", "many"], "not a valid integer"),
    (["train"], "--data"),
    (["fleet", "gather", str(ROOT / "docs")], "holds no run folder"),
]


@pytest.mark.parametrize(("command", "words"), CANNOT_JUDGE, ids=lambda each: " ".join(each[:1]))
def test_a_command_that_cannot_judge_says_so_in_each_format(
    command: list[str],
    words: str,
    written: Written,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """Bad input, even on the command line itself, is an error in JUnit, a failure in CTRF, and the first line of the summary; the exit code stays 2."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)  # which takes a while
    code, forms = written(*command)
    root = _checked_junit(forms["junit"])
    (error,) = root.findall(".//error")
    results = _checked_ctrf(forms["ctrf"])
    (test,) = results["tests"]
    (link,) = json.loads(forms["annotations"])["loadcheck"]
    assert (code, root.findall(".//failure"), test["status"], test["rawStatus"]) == (2, [], "failed", "error")
    assert words in error.get("message", "") and words in test["message"] and words in link["external_link"]["label"]
    assert forms["summary"].startswith(f"## ERROR {' '.join(command[:1])}") and results["extra"]["fix"]
    err = capsys.readouterr().err
    assert err.count("Error: ") == 1 and "::" not in err


def test_a_machine_that_cannot_is_an_error_in_each_format(written: Written, monkeypatch: pytest.MonkeyPatch):
    """A load that this machine cannot run exits 3, and its reports say that the machine cannot."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    monkeypatch.setattr("loadcheck.preparing._require_packages", lambda profile: None)
    code, forms = written("load", "llama31-8b-instruct-4bit")
    (error,) = _checked_junit(forms["junit"]).findall(".//error")
    assert (code, error.get("type")) == (3, "cannot")
    assert forms["summary"].startswith("## CANNOT load llama31-8b-instruct-4bit\n\nnothing was judged; exit code 3\n")


def test_github_gets_one_annotation_beside_the_file_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """On GitHub Actions a command that cannot judge gives one annotation, with the file at fault if it is of the checkout, and one summary."""
    summary = tmp_path / "step.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a:b.txt").write_text("no log\n")
    monkeypatch.chdir(logs)
    for target, place in (("a:b.txt", "file=logs/a%3Ab.txt,"), (NO_LOG, ""), (str(logs), "")):
        assert cli.run(["check", target, "--json"]) == 2
        output = capsys.readouterr()
        (line,) = [line for line in output.err.splitlines() if line.startswith("::")]
        assert line.startswith(f"::error {place}title=loadcheck ERROR::{target}: ")
        assert json.loads(output.out)["exit_code"] == 2
    assert summary.read_text().count("## ERROR check ") == 3


def test_a_report_that_cannot_be_written_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Where one report cannot be written, the verdict is still shown, the other reports hold it, and the file is named; exit code 2."""
    ctrf = tmp_path / "ctrf.json"
    code = cli.run(["check", str(T4), "--junit", str(tmp_path / "none" / "junit.xml"), "--ctrf", str(ctrf)])
    output = capsys.readouterr()
    assert code == 2 and "\nPASS " in output.out
    assert _checked_ctrf(ctrf.read_text())["environment"]["extra"]["verdict"] == "pass"
    assert output.err.count("Error: ") == 1 and "junit.xml: No such file or directory" in output.err
    code = cli.run(["check", NO_LOG, "--junit", str(tmp_path / "none" / "junit.xml"), "--ctrf", str(ctrf)])
    err = capsys.readouterr().err
    assert code == 2 and "junit.xml: No such file" in err and "not a load log" in err
    assert _checked_ctrf(ctrf.read_text())["environment"]["extra"]["verdict"] == "error"


def test_with_json_a_report_that_cannot_be_written_is_the_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """With --json stdout holds one document, also where a report cannot be written: the error."""
    assert cli.run(["check", str(T4), "--json", "--junit", str(tmp_path / "none" / "junit.xml")]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["error"]
    assert problem["where"].endswith("junit.xml")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_reports_are_written_though_nobody_reads_the_output(
    command: list[str], written: Written, monkeypatch: pytest.MonkeyPatch
):
    """Where the reader of stdout is gone, as with `| head`, the reports hold the verdict all the same."""

    def closed(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("sys.stdout.write", closed)
    monkeypatch.setattr("sys.stderr.close", lambda: None)
    code, forms = written(*command)
    monkeypatch.undo()
    assert code == 141 and _checked_ctrf(forms["ctrf"])["environment"]["extra"]["verdict"] != "error"


@pytest.mark.parametrize("form", ["junit", "ctrf", "summary", "annotations"])
@pytest.mark.parametrize("is_log", [True, False])
def test_a_report_does_not_overwrite_what_is_judged(
    form: str, is_log: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """No report is written over a file that the command reads, whether it can be judged or not, nor over one of a run folder that is compared."""
    log = tmp_path / "load.log"
    log.write_bytes(T4.read_bytes() if is_log else b"no log\n")
    kept = log.read_bytes()
    assert cli.run(["check", str(log), f"--{form}", str(log)]) == 2
    assert cli.run(["compare", str(T4), str(log), f"--{form}", str(log)]) == 2
    assert log.read_bytes() == kept and "is a file that this command reads" in capsys.readouterr().err
    folder = tmp_path / "run"
    shutil.copytree(REFERENCE, folder)
    if not is_log:
        (folder / "run.json").write_text("{")
    kept = (folder / "load.log").read_bytes()
    assert cli.run(["compare", str(T4), str(folder), f"--{form}", str(folder / "load.log")]) == 2
    assert (folder / "load.log").read_bytes() == kept


def test_a_training_that_would_not_fit_is_a_failure(written: Written, monkeypatch: pytest.MonkeyPatch):
    """A training that was predicted not to fit is refused in the reports, with its peak."""

    def refuse(*_: object) -> None:
        raise DoesNotFitError(Peaks(host_bytes=3 * GIB, fits=False))

    for name in ("require", "refused_by"):
        monkeypatch.setattr(f"loadcheck.cli.train.{name}", lambda *_: False)
    monkeypatch.setattr("loadcheck.preparing._require_packages", lambda profile: None)
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    monkeypatch.setattr("loadcheck.cli.train._run", refuse)
    code, forms = written("train", "smollm2-135m-cpu", "--data", str(ROOT / "examples" / "glossary.jsonl"))
    (failure,) = _checked_junit(forms["junit"]).findall(".//failure")
    assert (code, "3.00 GiB" in failure.get("message", "")) == (1, True)
    assert forms["summary"].startswith("## REFUSED train smollm2-135m-cpu")


@pytest.mark.parametrize(
    ("peaks", "size"),
    [
        (Peaks(device_bytes=9 * GIB, host_bytes=GIB, fits=False), " of 9.00 GiB"),
        (Peaks(host_bytes=2 * GIB, fits=False), " of 2.00 GiB"),
        (Peaks(fits=False), ""),
    ],
)
def test_a_training_that_would_not_fit_is_reported_with_its_peak(peaks: Peaks, size: str):
    """The card's peak, else the host's; one that is not predicted is left out, and not 0."""
    assert of_peaks("train x", peaks).cause == f"the training's predicted peak{size} is more than there is"
