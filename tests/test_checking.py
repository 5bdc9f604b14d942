"""What `check` judges a run or log as, where it gets that from, and which flags it refuses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli
from loadcheck.checking import gather
from loadcheck.logs.event_lines import format_event
from loadcheck.logs.events import RamFound, Started
from loadcheck.units import GIB
from loadcheck.verdict import Status, judge
from tests.conftest import RUNS

OTHER_SETTINGS = RUNS / "h200" / "short-of-estimate-recovered"
PROFILE = "llama31-8b-instruct-4bit"


def _check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code, and the output on one line."""
    code = cli.run(["check", *arguments])
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


def test_the_first_line_names_input_and_profile(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """The first line names the file or run folder, the profile and its utilization, and that nobody named them."""
    _, output = _check(capsys, str(t4_log))
    assert output.startswith(
        f"{t4_log}: judged as profile {PROFILE} (utilization 0.6), which matches its model and length"
    )
    _, output = _check(capsys, str(RUNS / "h100" / "reference-train3"))
    assert f"reference-train3: judged as profile {PROFILE} (utilization 0.6) figure" in output


def test_the_document_names_the_profile(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """check --json names the profile."""
    cli.run(["check", str(t4_log), "--json"])
    assert json.loads(capsys.readouterr().out)["profile"] == PROFILE


def test_a_log_of_other_settings_is_judged_by_its_own(capsys: pytest.CaptureFixture[str]):
    """A log with a profile's model and length but another utilization is not judged as that profile, and does not fail for it."""
    code, output = _check(capsys, str(OTHER_SETTINGS / "load.log"))
    assert code == 0 and "judged without a profile" in output


def test_settings_that_differ_from_the_load_are_the_cause(capsys: pytest.CaptureFixture[str]):
    """Settings that differ from the load's give one FAIL with the flag that fixes it. Consequences share one line, and with the flag it passes."""
    log = str(OTHER_SETTINGS / "load.log")
    code, output = _check(capsys, log, "--gpu-memory-utilization", "0.6")
    assert (code, output.count("FAIL gpu_memory_utilization_pct")) == (1, 1)
    assert "this load was made with about 0.05; check with --gpu-memory-utilization 0.05" in output
    assert "not the settings of this load: gpu_memory_utilization_pct, max_num_seqs" in output
    assert "FAIL max_num_seqs" not in output
    assert _check(capsys, log, "--gpu-memory-utilization", "0.05")[0] == 0


def test_a_printed_setting_is_compared(capsys: pytest.CaptureFixture[str], t4_log: Path, tmp_path: Path):
    """unsloth prints its conservativeness; another one than expected is named with its flag."""
    log = tmp_path / "load.log"
    log.write_text(t4_log.read_text().replace("conservativeness = 1.0", "conservativeness = 0.5"))
    code, output = _check(capsys, str(log), "--profile", PROFILE)
    assert code == 1
    assert "FAIL conservativeness is 0.5" in output and f"profile {PROFILE} asks for 1.0" in output
    assert "check with --conservativeness 0.5" in output


def test_another_length_is_judged_by_its_flag(capsys: pytest.CaptureFixture[str], t4_log: Path, tmp_path: Path):
    """A length that no profile has can be given by its flag; a setting without a profile is refused."""
    log = tmp_path / "load.log"
    log.write_text(
        t4_log.read_text().replace("max_seq_len=512", "max_seq_len=640").replace("for 512 tokens", "for 640 tokens")
    )
    assert "judged without a profile" in _check(capsys, str(log))[1]
    assert f"judged as profile {PROFILE}" in _check(capsys, str(log), "--max-seq-length", "640")[1]
    code, output = _check(capsys, str(log), "--conservativeness", "0.5")
    assert (code, "no profile has this log's model and length" in output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu", "T4"], "is the log of a load on H100, not on T4; leave --gpu out"),
        (["--profile", "smollm2-135m-cpu"], "the run was made with engine gpu, not cpu, model"),
        (["--profile", PROFILE], "training.steps 3, not 0; leave --profile"),
        (["--max-seq-length", "1024"], "the run was made with max_seq_length 512, not 1024"),
    ],
)
def test_a_flag_that_contradicts_the_run_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    """A card, profile or setting that contradicts the run folder is bad input, on one line."""
    code, output = _check(capsys, str(RUNS / "h100" / "reference-train3"), *arguments)
    assert (code, words in output, output.count("Error: ")) == (2, True, 1)


def test_a_flag_that_agrees_with_the_run_is_accepted(capsys: pytest.CaptureFixture[str]):
    """Repeating the run's own card and settings changes nothing."""
    run = str(RUNS / "h100" / "reference-train3")
    assert _check(capsys, run, "--gpu", "H100", "--max-seq-length", "512")[0] == 0


def test_a_load_on_the_cpu_has_no_card(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A log of the small CPU model has no GPU, whatever --gpu says."""
    log = tmp_path / "load.log"
    log.write_text(format_event(Started(model="smollm2-135m-instruct", max_model_len=512, quantization="nf4")) + "\n")
    code, output = _check(capsys, str(log), "--gpu", "T4")
    assert (code, "is the log of a load on cpu, not on T4" in output) == (2, True)


def test_a_note_says_that_golden_ranges_do_not_apply(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """If the reference's ranges do not apply, a note says what is judged instead; if they do, there is no note."""
    note = "no reference ranges for these settings on this card: judged by shape, identities and prediction"
    assert note in _check(capsys, str(OTHER_SETTINGS))[1]
    assert "no reference ranges" not in _check(capsys, str(t4_log))[1]


@pytest.mark.parametrize(
    ("model", "note"),
    [
        (None, "the log names no model, so its figures are not predicted"),
        ("someone/else-9b", "the log's model is not in env/models"),
    ],
)
def test_the_note_says_why_nothing_is_predicted(model: str | None, note: str, tmp_path: Path):
    """A log without a model and one with an unknown model get different notes."""
    log = tmp_path / "load.log"
    line = "" if model is None else f"INFO model_runner.py:1110] Starting to load model {model}...\n"
    log.write_text(line + "INFO model_runner.py:1115] Loading model weights took 5.3541 GB\n")
    notes = [finding.why for finding in judge(gather(log)).findings if finding.status is Status.SKIPPED]
    assert any(each.startswith(note) for each in notes)


def test_a_run_of_other_settings_is_fixed_by_a_load(t4_log: Path, tmp_path: Path):
    """A run folder takes no flags, so none is suggested; for a bare log the matching flag is."""
    log = tmp_path / "load.log"
    log.write_text(t4_log.read_text().replace("quantization=bitsandbytes", "quantization=None"))
    evidence = gather(log)
    remedies = []
    for each in (evidence, dataclasses.replace(evidence, process=("completed", ""))):
        remedies += [finding.remedy for finding in judge(each).failures() if finding.figure == "quantization"][:1]
    assert remedies[0].endswith("or check with --load-in-16bit")
    assert "check with" not in remedies[1]


@pytest.mark.parametrize(
    ("ram_bytes", "status"), [(20 * GIB, "pass"), (None, "fail"), (60 * GIB, "fail"), ("20", "fail"), (-1, "fail")]
)
def test_swap_space_follows_from_the_ram_that_unsloth_found(ram_bytes: Any, status: str, tmp_path: Path):
    """Swap space follows the RAM that unsloth found, as another load may have taken some before. Implausible values are ignored."""
    text = (RUNS / "h200" / "reference" / "load.log").read_text(encoding="utf-8")
    text = text.replace("swap space = 6 GB", "swap space = 4 GB").replace("# CPU blocks: 3072", "# CPU blocks: 2048")
    if ram_bytes is not None:
        text = text.replace(
            "Unsloth: vLLM loading", format_event(RamFound(ram_available_bytes=ram_bytes)) + "\nUnsloth: vLLM loading"
        )
    log = tmp_path / "load.log"
    log.write_text(text, encoding="utf-8")
    verdict = judge(gather(log))
    assert verdict.status == status, verdict.failures()
    assert {each.figure for each in verdict.failures()} <= {"swap_gib", "num_cpu_blocks", "ram"}


def test_unknown_swap_space_is_not_predicted(t4_log: Path, tmp_path: Path):
    """Without its line in the log and without the host's RAM, swap space and its blocks are unknown, not 0."""
    log = tmp_path / "load.log"
    log.write_text(t4_log.read_text(encoding="utf-8").replace(" Also swap space = 2 GB.", ""), encoding="utf-8")
    predicted = gather(log, "llama31-8b-instruct-4bit").predicted
    whole = gather(t4_log).predicted
    assert predicted is not None and whole is not None
    assert (predicted.swap_bytes, predicted.num_cpu_blocks) == (None, None)
    assert whole.swap_bytes is not None and predicted.weights_bytes == whole.weights_bytes
