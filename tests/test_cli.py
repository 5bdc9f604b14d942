"""The command line: stdout, stderr and exit codes."""

import errno
import json
import os
import re
from collections.abc import Iterator
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
import pytest

from loadcheck import cli
from loadcheck.cli.app import COMMANDS
from loadcheck.cli.chosen import overrides
from loadcheck.device import GpuDevice
from loadcheck.errors import BadInput
from loadcheck.plan import LoadPlan, make_plan
from loadcheck.preparing import CPU_PROFILE, default_profile, refuse_bad_input
from loadcheck.show.lists import LISTS
from loadcheck.specs.files import changed, to_data
from loadcheck.specs.profile import Profile, load_profile, profile_toml
from loadcheck.specs.settings import settings_of
from tests.conftest import ROOT, RUNS


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_parse_json_is_one_document(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """parse --json prints only one document: outcome, attempts, and the last attempt's figures."""
    code, out, err = _run(capsys, "parse", "--json", str(t4_log))
    data = json.loads(out)
    assert (code, err, data["outcome"], len(data["attempts"])) == (0, "", "completed", 1)
    assert data["figures"]["weights_gib"] == data["attempts"][0]["figures"]["weights_gib"] == 5.3541


def test_parse_for_people_names_lines(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """Without --json each figure is printed with the line it was read from."""
    code, out, _ = _run(capsys, "parse", str(t4_log))
    assert code == 0
    line = 1 + t4_log.read_text().split("took 5.3541 GB")[0].count("\n")
    assert any(each.split() == ["weights_gib", "5.3541", "line", str(line)] for each in out.splitlines())


def test_parse_takes_a_run_folder(capsys: pytest.CaptureFixture[str]):
    """parse of a run folder parses its log."""
    folder = RUNS / "h100" / "15-sequences"
    by_folder = _run(capsys, "parse", "--json", str(folder))
    assert by_folder == _run(capsys, "parse", "--json", str(folder / "load.log"))
    assert by_folder[0] == 0


def test_parse_predict_and_check_have_one_name_for_a_figure(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """parse, predict and check all call the figure max_concurrency."""
    for arguments in (["parse", str(t4_log)], ["check", str(t4_log)], ["predict", "--gpu", "T4"]):
        _, out, _ = _run(capsys, *arguments)
        (words,) = [line.split() for line in out.splitlines() if "max_concurrency" in line]
        assert words[0] == "max_concurrency" and words[1].replace(".", "").isdigit()


def test_a_remedy_is_printed_once(capsys: pytest.CaptureFixture[str], t4_log: Path, tmp_path: Path):
    """Two packages of another stack give two REFUSED lines; the remedy is printed once there, and once as the fix at the end."""
    log = tmp_path / "log"
    log.write_text(t4_log.read_text().replace("0.7.2", "0.7.3").replace("2025.2.5", "2025.2.6"))
    code, out, _ = _run(capsys, "check", str(log))
    assert (code, out.count("\nREFUSED ") - 1) == (1, 2)
    lines, _, end = out.partition("\nREFUSED  ")
    assert " ".join(lines.split()).count("install env/requirements.lock") == 1
    assert end.splitlines()[-1].startswith("Fix: ") and "install env/requirements.lock" in end.splitlines()[-1]


def test_check_passes_the_reference(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """check of the reference: exit 0, a table, and PASS on the last line."""
    code, out, _ = _run(capsys, "check", str(t4_log))
    assert code == 0
    assert out.rstrip().splitlines()[-1].startswith("PASS")


def test_check_json_is_one_document(capsys: pytest.CaptureFixture[str], t4_log: Path, tmp_path: Path):
    """With --json stdout is only the document, and no table goes to stderr; a failure exits 1."""
    log = tmp_path / "log"
    log.write_text(t4_log.read_text().replace("# CUDA blocks: 1353", "# CUDA blocks: 1354"))
    code, out, err = _run(capsys, "check", "--json", str(log))
    data = json.loads(out)
    assert (code, data["verdict"]) == (1, "fail")
    failing = [finding for finding in data["findings"] if finding["status"] == "fail"]
    assert {
        "figure",
        "check",
        "status",
        "predicted",
        "measured",
        "low",
        "high",
        "unit",
        "why",
        "remedy",
        "where",
        "line",
        "trouble",
        "missing",
    } == set(failing[0])
    assert err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["parse", str(RUNS / "t4_llama31-8b_reference.txt")],
        ["check", str(RUNS / "h100" / "reference-train3")],
        ["report", str(RUNS / "h100" / "reference-train3")],
        ["report", str(RUNS / "h100" / "killed")],
        ["predict", "--gpu", "T4"],
        ["predict", "--gpu", "T4", "--gpu-memory-utilization", "0.2"],
        ["fit", "--gpu", "T4"],
        ["doctor", "--profile", "smollm2-135m-cpu"],
    ],
)
def test_json_prints_nothing_else(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """With --json, at any exit code: one document on stdout, and nothing on stderr."""
    code, out, err = _run(capsys, *arguments, "--json")
    assert code in (0, 1)
    assert isinstance(json.loads(out), dict) and err == ""


def test_predict_json(capsys: pytest.CaptureFixture[str]):
    """predict --json: fits and figures, exit 0; a load that does not fit exits 1."""
    code, out, _ = _run(capsys, "predict", "--gpu", "T4", "--ram-available-bytes", "11000000000", "--json")
    data = json.loads(out)
    assert (code, data["fits"], data["figures"]["weights_gib"], data["figures"]["swap_gib"]) == (0, True, 5.3541, 2)
    code, out, _ = _run(capsys, "predict", "--gpu", "T4", "--gpu-memory-utilization", "0.2", "--json")
    assert (code, json.loads(out)["fits"]) == (1, False)


def test_the_tree_shows_what_a_full_batch_adds(capsys: pytest.CaptureFixture[str]):
    """--tree prints each term of the peak, then the full batch peak with its additional terms."""
    _, out, _ = _run(capsys, "predict", "--gpu", "T4", "--tree")
    data = json.loads(_run(capsys, "predict", "--gpu", "T4", "--json")[1])
    assert "peak_device" in out and f"{data['terms']['bytes']}" in out
    lines = [line.split() for line in out.splitlines() if line.strip()]
    for batch, figure in (("full", "busy_peak_gib"), ("sorted", "busy_peak_sorted_gib")):
        device = next(int(words[0]) for words in lines if words[1:2] == [f"{batch}_batch_device"])
        more = next(int(words[0]) for words in lines if words[1:3] == [batch, "batch"])
        assert device == data["terms"]["bytes"] + more
        assert data[figure] == round(device / 2**30, 2)


def test_predict_names_its_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """predict names model, profile, settings and card with its free memory: on the first line, and in four objects of the JSON."""
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["--gpu", "T4", "--train-steps", "5", "--max-lora-rank", "64", "--lora-r", "16", "--enforce-eager"]
    _, out, _ = _run(capsys, "predict", *arguments)
    assert out.splitlines()[0] == (
        "llama31-8b-instruct-4bit: llama-3.1-8b-instruct nf4, r 16, length 512, 5 training steps, slots of rank 64, "
        "utilization 0.6, no CUDA graphs, on T4 with 14.64 GiB free"
    )
    data = json.loads(_run(capsys, "predict", "--json", *arguments)[1])
    assert data["model"] == {"name": "llama-3.1-8b-instruct", "quantization": "nf4"}
    assert data["profile"]["name"] == "llama31-8b-instruct-4bit"
    assert (data["settings"]["max_lora_rank"], data["settings"]["training"]["steps"]) == (64, 5)
    assert (data["gpu"]["name"], data["gpu"]["free_bytes"]) == ("T4", 15_721_365_504)


def test_fit_names_its_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """fit names the same, without the settings that it searches."""
    monkeypatch.setenv("COLUMNS", "200")
    head = _run(capsys, "fit", "--gpu", "T4")[1].splitlines()[0]
    assert head == "llama31-8b-instruct-4bit: llama-3.1-8b-instruct nf4, r 32, on T4 with 14.64 GiB free"
    data = json.loads(_run(capsys, "fit", "--json", "--gpu", "T4", "--for", "concurrency")[1])
    assert data["settings"]["max_seq_length"] == 512 and "gpu_memory_utilization" not in data["settings"]
    assert (data["model"]["name"], data["gpu"]["name"]) == ("llama-3.1-8b-instruct", "T4")


@pytest.mark.parametrize("command", ["predict", "fit"])
def test_a_profile_is_named_as_for_load(command: str, capsys: pytest.CaptureFixture[str]):
    """PROFILE and --profile mean the same; two different ones are bad input."""
    name = "llama31-8b-instruct-4bit"
    asked = (command, "--json", "--gpu", "T4", "--ram-available-bytes", "11000000000")
    output = [_run(capsys, *asked, *way) for way in ([name], ["--profile", name], [])]
    assert output[0] == output[1] == output[2] and output[0][0] == 0
    code, _, err = _run(capsys, command, name, "--profile", "smollm2-135m-cpu", "--gpu", "T4")
    assert code == 2 and "differ; name one of them" in err


TRAIN = ("train", "--data", str(ROOT / "examples" / "glossary.jsonl"))


@pytest.mark.parametrize(
    "command", [("predict",), ("fit",), ("load",), TRAIN, ("doctor",), ("serve",)], ids=lambda words: words[0]
)
def test_every_command_takes_its_profile_in_both_ways(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Each command that is about a profile takes PROFILE or --profile, and refuses two that differ."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)  # which takes a while
    names = [_run(capsys, *command, *way) for way in (["no-such-profile"], ["--profile", "no-such-profile"])]
    assert names[0] == names[1] and names[0][0] == 2 and "there is no profile 'no-such-profile'" in names[0][2]
    code, _, err = _run(capsys, *command, "one", "--profile", "other")
    assert code == 2 and "profile: 'one' and --profile 'other' differ; name one of them" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["load", "--gpu", "T4"], "No such option: --gpu; it is a flag of predict, fit, check"),
        (["load", "--method", "sft"], "No such option: --method; it is a flag of predict, fit, train"),
        (["compare", "--profile", "x"], "it is a flag of doctor, predict, fit, load, train, serve, check"),
        (["load", "--max-model-len", "100"], "did you mean --max-seq-length?"),
        (["train", "--lr", "1"], "did you mean --learning-rate?"),
        (["train", "--micro-batch-size", "2"], "did you mean --per-device-train-batch-size?"),
        (["predict", "--lora-rank", "8"], "did you mean --lora-r?"),
        (["load", "--steps", "3"], "did you mean --train-steps?"),
        (["check", "x", "--sumary", "x"], "did you mean --summary?"),
        (["check", "--no-such-flag"], "No such option: --no-such-flag\n"),
        (["fleet", "gather", "--juint", "x"], "did you mean --junit?"),
    ],
    ids=lambda each: each[-2] if isinstance(each, list) else "",
)  # fmt: skip
def test_an_unknown_flag_names_the_right_one(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    """An unknown flag names the one that has this meaning in vLLM or in another tool, the commands that have it, or a similar one."""
    code, out, err = _run(capsys, *arguments)
    assert (code, out) == (2, "") and words in err
    assert json.loads(_run(capsys, *arguments, "--json")[1])["error"][0]["remedy"].startswith(
        f"see loadcheck {arguments[0]}"
    )


def test_training_steps_raise_the_predicted_peak(capsys: pytest.CaptureFixture[str]):
    """--train-steps works as for `load`, so the figures of `make peft` can be predicted."""
    peaks = [
        json.loads(_run(capsys, "predict", "--json", "--gpu", "T4", *flags)[1])["figures"]["peak_device_gib"]
        for flags in ([], ["--train-steps", "5"])
    ]
    assert peaks[1] > peaks[0] + 1


def test_without_vllm_only_known_figures_are_predicted(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A CPU load needs no card and has no figures of vLLM; a GPU load without vLLM has not even weights. Neither has a verdict."""
    code, out, _ = _run(capsys, "predict", "smollm2-135m-cpu")
    assert code == 0 and "Without vLLM only weights, adapters and parameters are predicted to the byte" in out.replace(
        "\n", " "
    )
    assert "FITS" not in out and "utilization" not in out and "on the CPU" in out
    data = json.loads(_run(capsys, "predict", "smollm2-135m-cpu", "--json")[1])
    assert (data["fits"], data["gpu"], data["figures"]["weights_gib"], data["figures"]["num_gpu_blocks"]) == (
        None, None, 0.104, None
    )  # fmt: skip
    without = tmp_path / "without.toml"
    without.write_text(profile_toml(changed(load_profile("llama31-8b-instruct-4bit"), {"fast_inference": False}), ""))
    figures = json.loads(_run(capsys, "predict", str(without), "--json")[1])["figures"]
    assert (figures["weights_gib"], figures["trainable_params"]) == (None, 83_886_080)


def test_fit_without_vllm_is_bad_input(capsys: pytest.CaptureFixture[str]):
    """fit without vLLM is bad input, as it searches vLLM's settings; the error suggests another command."""
    code, out, err = _run(capsys, "fit", "smollm2-135m-cpu")
    assert (code, out) == (2, "")
    assert "loads without vLLM" in err and "loadcheck predict smollm2-135m-cpu" in err


def test_a_note_names_assumed_ram(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """If the card is named, a note says that this machine's RAM was assumed; not if the RAM is given, or the card is this machine's."""

    def notes(*arguments: str) -> str:
        return " ".join(json.loads(_run(capsys, "predict", "--json", *arguments)[1])["notes"])

    assert "this machine's RAM" in notes("--gpu", "T4") and "--ram-available-bytes" in notes("--gpu", "T4")
    assert "RAM" not in notes("--gpu", "T4", "--ram-available-bytes", "11000000000")
    t4 = GpuDevice("Tesla T4", "7.5", 15_828_320_256, 15_721_365_504, "12.4")
    monkeypatch.setattr("loadcheck.predict.card.read_gpu", lambda: t4)
    assert "RAM" not in notes()


def test_predict_takes_a_card_by_numbers(capsys: pytest.CaptureFixture[str]):
    """Total, free, capability and non_torch describe any card."""
    code, out, _ = _run(
        capsys, "predict", "--json", "--gpu-total-bytes", "15828320256", "--gpu-free-bytes", "15721365504",
        "--compute-capability", "7.5", "--non-torch-bytes", "50331648", "--ram-available-bytes", "11000000000",
    )  # fmt: skip
    assert (code, json.loads(out)["figures"]["num_gpu_blocks"]) == (0, 1353)


def test_predict_takes_max_lora_rank_alone(capsys: pytest.CaptureFixture[str]):
    """--max-lora-rank alone asks about adapters of that rank, above or below the profile's; --lora-r overrides it."""
    for rank, params in ((16, 41_943_040), (64, 167_772_160)):
        code, out, _ = _run(capsys, "predict", "--json", "--gpu", "H100", "--max-lora-rank", str(rank))
        assert (code, json.loads(out)["figures"]["trainable_params"]) == (0, params)
    _, out, _ = _run(capsys, "predict", "--json", "--gpu", "H100", "--max-lora-rank", "64", "--lora-r", "16")
    assert json.loads(out)["figures"]["trainable_params"] == 41_943_040


def test_predict_takes_a_config(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """--model takes a config.json under any name, and uses the config's own quantization."""
    config = {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    }  # fmt: skip
    for name in ("config.json", "qwen.json"):
        (tmp_path / name).write_text(json.dumps(config))
        code, out, _ = _run(capsys, "predict", "--json", "--gpu", "T4", "--model", str(tmp_path / name))
        figures = json.loads(out)["figures"]
        assert (code, figures["weights_gib"], figures["quantization"]) == (0, 2.8861, "16bit")


def test_all_problems_of_a_card_are_reported(capsys: pytest.CaptureFixture[str]):
    """All missing and impossible numbers of a card are in one error, exit 2."""
    code, out, err = _run(capsys, "predict", "--gpu-total-bytes", "10", "--compute-capability", "eight")
    assert (code, out) == (2, "")
    assert "Error: --gpu-free-bytes: unknown" in err and "Error: --compute-capability: 'eight' is not one" in err
    assert "Error: --gpu-total-bytes: 10 bytes are less than any card has; give bytes, or 24GiB" in err


def test_a_card_takes_units(capsys: pytest.CaptureFixture[str]):
    """24GiB, 24 GB and the bytes describe the same card."""
    shown = set()
    for total in ("24GiB", "24 GB", str(24 * 1024**3)):
        code, out, _ = _run(
            capsys, "predict", "--json", "--gpu-total-bytes", total, "--gpu-free-bytes", "23.5GiB",
            "--compute-capability", "8.9", "--non-torch-bytes", "60MiB", "--ram-available-bytes", "10g",
        )  # fmt: skip
        assert (code, json.loads(out)["figures"]["gpu_total_gib"]) == (0, 24.0)
        shown.add(out)
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu-total-bytes", "24"], "--gpu-total-bytes: 24 bytes are less than any card has; give bytes, or 24GiB"),
        (["--gpu-total-bytes", "0"], "--gpu-total-bytes: 0 bytes are less than any card has"),
        (["--gpu", "T4", "--gpu-free-bytes", "14"], "--gpu-free-bytes: 14 bytes are less than any card has"),
        (["--gpu", "T4", "--gpu-free-bytes", "20GiB"], "is more than the card's 15828320256"),
        (["--gpu", "T4", "--non-torch-bytes", "-5"], "'-5' is not a number of bytes"),
        (["--gpu", "T4", "--ram-available-bytes", "much"], "'much' is not a number of bytes"),
        (["--gpu-total-bytes", "24GiB", "--compute-capability", "8.9"], "on the cards of env/gpus.toml it is 102.0 MiB to 526.8 MiB below the total"),
        (["--gpu-total-bytes", "24GiB"], "--compute-capability: unknown for this card; ask nvidia-smi --query-gpu=compute_cap --format=csv"),
    ],
)  # fmt: skip
def test_implausible_numbers_of_a_card_exit_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    """A forgotten unit, a negative number or a missing number: exit 2, with the flag and where to find the number."""
    code, out, err = _run(capsys, "predict", *arguments)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["parse", "no-such-file"], "No such file"),
        (["check", "no-such-file"], "No such file"),
        (["report", "no-such-folder"], "no-such-folder: no such folder; give a folder under runs/"),
        (["load", "no-such-profile"], "there is no profile 'no-such-profile'"),
        (["load", "smollm2-135m-cpu", "--lora-r", "64"], "LoRA rank 64 is greater than max_lora_rank 32"),
        (["predict", "--gpu", "T5"], "there is no GPU 'T5'"),
        (["predict", "--gpu", "P100"], "below 7.0"),
        (
            ["predict", "--gpu", "T4", "--gpu-memory-utilization", "1.5"],
            "Error: --gpu-memory-utilization: must be at most 1.0 (got 1.5)",
        ),
        (["predict", "--gpu", "T4", "--max-lora-rank", "5000"], "adapters.r: must be at most 1024 (got 5000)"),
        (["load", "smollm2-135m-cpu", "--train-steps", "-1"], "Error: --train-steps: must be at least 0 (got -1)"),
        (["load", "smollm2-135m-cpu", "--use-gradient-checkpointing", "maybe"], "one of true, false, unsloth"),
        (["report", str(RUNS / "t4_llama31-8b_reference.txt")], "a log, not a run folder; use: loadcheck check"),
        (["parse", str(RUNS)], "not a run folder: run.json is missing"),
        (["predict", "--profile", str(ROOT / "README.md")], "README.md: a profile's file ends in .toml"),
        (["predict", "--gpu", "T4", "--model", "no-such.json"], "no-such.json: cannot be read"),
        (
            ["predict", "--gpu", "T4", "--model", "unsloth/Qwen2.5-7B-Instruct-unsloth-bnb-4bit"],
            "which layers unsloth/Qwen2.5-7B-Instruct-unsloth-bnb-4bit keeps in 16 bits is not known; give its config.json",
        ),
        (["prdict"], "did you mean predict?"),
        (["predict", "--no-such-flag"], "No such option"),
    ],
)
def test_bad_input_exits_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    """A wrong name, path or value gives one line of Error on stderr, nothing on stdout, exit 2."""
    code, out, err = _run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err and words in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "log.txt: Permission denied; get the right to it, or name another path"),
        (errno.ENOSPC, "log.txt: No space left on device; free some of the disk, or use another one"),
        (errno.EROFS, "log.txt: Read-only file system; name a path on a disk that you may write to"),
        (errno.EIO, "log.txt: Input/output error; check the path"),
    ],
)
def test_what_the_system_refuses_has_a_remedy_for_it(
    number: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A refusal of the operating system is one line with the path and the remedy for that refusal, exit 2."""

    def refuse(path: Path) -> bool:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    code, _, err = _run(capsys, "check", "log.txt")
    assert (code, err) == (2, f"Error: {words}\n")


def test_output_on_a_full_disk_is_one_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """What cannot be written to stdout is one line of error and exit 2, also where Python keeps it for another try (3.11.2, Debian 12)."""

    class FullDisk(StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fileno(self) -> int:
            return kept.fileno()

    with TemporaryFile() as kept:
        full = FullDisk()
        monkeypatch.setattr("sys.stdout", full)
        monkeypatch.setattr("sys.argv", ["loadcheck", "list", "profiles"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        monkeypatch.undo()
    assert ended.value.code == 2
    assert (
        capsys.readouterr().err == "Error: system: No space left on device; free some of the disk, or use another one\n"
    )


def test_a_folder_is_no_file_of_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A folder in place of a profile's file is named as one, exit 2."""
    folder = tmp_path / "profile.toml"
    folder.mkdir()
    code, _, err = _run(capsys, "predict", "--gpu", "T4", str(folder))
    assert (code, err) == (2, f"Error: {folder}: cannot be read (Is a directory); name a file, not a folder\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["check", "no-such-file"], {"where": "no-such-file", "key": None}),
        (["predict", "--gpu", "A1000"], {"where": "--gpu", "key": None}),
        (["load", "smollm2-135m-cpu", "--lora-r", "64"], {"key": None}),
        (["predict", "--no-such-flag"], {"where": "command line", "key": None}),
        (["report", str(RUNS / "h100" / "killed"), "--html", "/dev/null/x"], {"where": "/dev/null/x"}),
    ],
)
def test_an_error_is_one_json_document(
    arguments: list[str], problem: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    """With --json an error is the only document on stdout, with the exit code; its text stays on stderr."""
    code, out, err = _run(capsys, *arguments, "--json")
    data = json.loads(out)
    assert (code, data["exit_code"]) == (2, 2)
    assert all(set(each) == {"where", "key", "what", "remedy"} for each in data["error"])
    assert problem.items() <= data["error"][0].items() and all(data["error"][0][key] for key in ("what", "remedy"))
    assert "Error: " in err


@pytest.mark.parametrize(
    "command",
    [("report", str(RUNS / "h100" / "reference-train3")), ("predict", "--gpu", "T4", "--json"), ("predict", "--gpus", "T4,L4")],
)  # fmt: skip
def test_commands_name_the_page_that_they_wrote(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """--html names the file that was written, on stderr."""
    page = tmp_path / "page.html"
    _, _, err = _run(capsys, *command, "--html", str(page))
    assert page.exists() and f"wrote {page}\n" in err


@pytest.mark.parametrize("command", [["load", "smollm2-135m-cpu"], ["doctor", "--profile", "smollm2-135m-cpu"]])
@pytest.mark.parametrize(
    ("flags", "cache", "words"),
    [
        (["--model", "phi-4"], "", "no locked package holds weights of phi-4; give --weights hub"),
        (
            ["--weights", "local"],
            "",
            "'smollm2-135m-instruct' is not a directory with a config.json; give the directory",
        ),
        (["--max-seq-length", "5"], "", "5 tokens hold no prompt and an answer of 12; raise it"),
        (
            ["--max-seq-length", "9000"],
            "",
            "9000 is above the 8192 positions of smollm2-135m-instruct; lower it to 8192",
        ),
        (["--gpu-memory-utilization", "0.5"], "", "gpu_memory_utilization: only vLLM uses it"),
        (["--conservativeness", "0.5"], "", "conservativeness: only vLLM uses it"),
        (["--enforce-eager"], "", "enforce_eager: only vLLM uses it"),
        ([], "/dev/null/x", "LOADCHECK_CACHE: cannot be created (Not a directory); set LOADCHECK_CACHE"),
        ([], "/proc/zzz", "LOADCHECK_CACHE: cannot be created (No such file or directory)"),
    ],
)
def test_bad_input_is_refused_before_a_run(
    command: list[str], flags: list[str], cache: str, words: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
):  # fmt: skip
    """What the engine would refuse later is refused first: one line, exit 2 and no run folder; doctor reports the same."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOADCHECK_CACHE", cache or str(tmp_path / "cache"))
    code, out, err = _run(capsys, *command, *flags)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", [["load", "smollm2-135m-cpu"], ["doctor", "--profile", "smollm2-135m-cpu"]])
def test_a_cache_that_may_not_be_read_is_named(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A cache in another user's folder is refused by LOADCHECK_CACHE, exit 2."""

    def refuse(plan: LoadPlan) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "weights")

    monkeypatch.setattr("loadcheck.weights.in_cache", refuse)
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    monkeypatch.setenv("LOADCHECK_CACHE", str(tmp_path))
    code, _, err = _run(capsys, *command)
    assert code == 2
    assert f"{tmp_path}/weights: LOADCHECK_CACHE: cannot be used as the cache (Permission denied); set LOADCHECK" in err


def test_a_complete_cache_may_be_read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """If nothing has to be written, a complete cache may be read-only."""
    monkeypatch.setenv("LOADCHECK_CACHE", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    plan = make_plan(load_profile(CPU_PROFILE))
    with pytest.raises(BadInput, match="cannot be written to"):
        refuse_bad_input(plan)
    (tmp_path / "weights" / "smollm2-135m-instruct-0123456789ab-bnb-4bit").mkdir(parents=True)
    refuse_bad_input(plan)


def test_vllm_is_not_for_the_cpu(capsys: pytest.CaptureFixture[str]):
    """--fast-inference is refused without a GPU."""
    code, _, err = _run(capsys, "load", "smollm2-135m-cpu", "--fast-inference")
    assert (code, "fast_inference: vLLM needs a GPU" in err) == (2, True)


def test_a_run_dir_that_is_a_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A --run-dir that is a file is refused before anything is prepared."""
    (tmp_path / "README.md").touch()
    code, out, err = _run(capsys, "load", "smollm2-135m-cpu", "--run-dir", str(tmp_path / "README.md"))
    assert (code, out) == (2, "")
    assert "README.md: is a file; give a --run-dir" in err


def test_the_gpu_profile_without_a_gpu_exits_3(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A machine without a GPU is not bad input: exit 3, and what to do instead."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    code, _, err = _run(capsys, "load", "llama31-8b-instruct-4bit")
    assert code == 3
    assert "needs an NVIDIA GPU" in err and "without one, use profile smollm2-135m-cpu" in err


def test_predict_without_a_gpu_or_a_name_exits_3(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Without a card to predict for: exit 3, and how to name one."""
    monkeypatch.setattr("loadcheck.predict.card.read_gpu", lambda: None)
    code, _, err = _run(capsys, "predict")
    assert code == 3
    assert "--gpu T4" in err


def test_an_environment_without_the_stack_exits_3(capsys: pytest.CaptureFixture[str]):
    """Without torch, as in this test environment, load exits 3 before anything starts."""
    code, _, err = _run(capsys, "load", "smollm2-135m-cpu")
    assert code == 3
    assert "lacks torch" in err and "make load" in err


def test_without_a_gpu_the_small_model_is_the_default():
    """Without a GPU the small model is chosen, with the reason."""
    name, why = default_profile(None)
    assert name == CPU_PROFILE
    assert "no usable NVIDIA GPU" in why


def test_every_profile_key_has_a_flag():
    """Each key of a profile can be overridden by a flag of `load`."""
    flags = {parameter.name for parameter in cli.cli.get_command(None, "load").params}
    profile = to_data(load_profile("llama31-8b-instruct-4bit"))
    keys = {key for key, value in profile.items() if not isinstance(value, dict)} | {
        f"{table}.{key}" for table in ("adapters", "generation", "training") for key in profile[table]
    }
    described = {"name", "description", "engine", "adapters.bias"}
    assert keys - described == {flag.key for flag in settings_of(Profile)}
    assert {flag.parameter for flag in settings_of(Profile)} <= flags


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ({"target_modules": "q_proj, v_proj"}, {"adapters.target_modules": ["q_proj", "v_proj"]}),
        ({"use_gradient_checkpointing": "false"}, {"adapters.use_gradient_checkpointing": False}),
        ({"max_seq_length": 8, "lora_r": None}, {"max_seq_length": 8}),
        ({"prompt": "2 + 2?"}, {"generation.prompt": "2 + 2?", "generation.expect": None}),
        ({"prompt": "2 + 2?", "expect": "4"}, {"generation.prompt": "2 + 2?", "generation.expect": "4"}),
        ({"expect": "4"}, {"generation.expect": "4"}),
    ],
)
def test_flags_become_profile_values(flags: dict[str, Any], changed: dict[str, Any]):
    """Given flags override the profile; the others change nothing."""
    assert overrides(flags) == changed


@pytest.mark.parametrize("kind", ["cards", "models", "profiles"])
def test_list_fits_a_narrow_terminal(kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """At 50 columns each list is a table with complete names and no longer line."""
    monkeypatch.setenv("COLUMNS", "50")
    code, out, err = _run(capsys, "list", kind)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 50
    first_words = {line.split()[0] for line in out.splitlines() if line.strip()}
    assert {entry["name"] for entry in LISTS[kind]()} <= first_words


def test_list_shows_how_well_a_card_is_known(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A measured card, one with estimates, one without its free memory and one that the stack refuses look different."""
    monkeypatch.setenv("COLUMNS", "100")
    _, out, _ = _run(capsys, "list", "cards")
    lines = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in out.splitlines()}
    assert lines["T4"] == "14.74   7.5  measured"
    assert lines["L4"].endswith("not measured: non_torch, graphs")
    assert lines["V100-16GB"].endswith("not measured: free memory, non_torch, graphs")
    assert lines["P100"].startswith("6.0  refused: compute capability 6.0 is below 7.0")


def test_list_json_is_one_document(capsys: pytest.CaptureFixture[str]):
    """Without an argument all three lists are printed; unknown values are null, and a refused model has its reason."""
    code, out, _ = _run(capsys, "list", "--json")
    data = json.loads(out)
    assert (code, list(data)) == (0, ["schema", "profile", "run", "cards", "models", "profiles"])
    by_name = {
        kind: {entry["name"]: entry for entry in entries} for kind, entries in data.items() if isinstance(entries, list)
    }
    card = by_name["cards"]["B200"]
    assert card["total_gib"] is None and "total_bytes" in card["unknown"] and "10.0" in card["refused"]
    assert by_name["cards"]["T4"]["unknown"] == []
    llama = by_name["models"]["llama-3.1-8b-instruct"]
    assert (llama["parameters"], llama["weights_4bit_gib"]) == (8_030_261_248, 5.3541)
    gemma = by_name["models"]["gemma-3-1b-it"]
    assert gemma["parameters"] is None and "not modelled" in gemma["refused"]
    assert by_name["profiles"]["smollm2-135m-cpu"]["description"]


def test_every_command_has_help_and_is_documented():
    """Each command has help, and a row in docs/commands.md."""
    readme = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for name, command in ((name, cli.cli.get_command(None, name)) for name in COMMANDS):
        assert command.help, name
        assert f"loadcheck {name}" in readme, name


def _leaves(group: click.Group, path: str = "loadcheck") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _leaves(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


@pytest.mark.parametrize(("name", "command"), _leaves(cli.cli), ids=lambda each: each if isinstance(each, str) else "")
def test_help_says_the_exit_codes(name: str, command: click.Command):
    """The help of each command, those of a group included, says its exit codes, and describes each of its options."""
    assert re.search(r"^\s*Exit codes: (0 |those of )", command.help or "", re.MULTILINE), name
    assert [each.name for each in command.params if isinstance(each, click.Option) and not each.help] == []


@pytest.mark.parametrize("columns", ["60", "80", "300"])
def test_help_is_in_whole_lines(columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """No sentence of a command's help is cut, and no line is over 80 columns, however wide the terminal."""
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = _run(capsys, "--help")
    rows = " ".join(out.partition("Commands:")[2].split())
    for name, command in cli.cli.commands.items():
        assert command.short_help and command.short_help.endswith(".") and f"{name} {command.short_help}" in rows
        out += _run(capsys, name, "--help")[1]
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert not re.search(r"\w,?\.\.\.", out)  # a usage ends in [ARGS]...


def test_reports_read_without_colour_and_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, t4_log: Path
):
    """At 60 columns no line is longer, no terminal code is printed, and each status is a word."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.chdir(t4_log.parent)  # a path is never broken, and the checkout's may be long
    _, out, _ = _run(capsys, "check", t4_log.name)
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 60
    assert "ok" in out


def test_markup_in_a_log_is_text(capsys: pytest.CaptureFixture[str], t4_log: Path, tmp_path: Path):
    """Brackets in a log are printed literally, not read as colours."""
    log = tmp_path / "log"
    log.write_text(t4_log.read_text() + "\nRuntimeError: [bold red]boo[/] [/nonsense]\n")
    code, out, _ = _run(capsys, "check", str(log))
    assert code == 1
    assert "[bold red]boo[/]" in out and "[/nonsense]" in out


def _from_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(content)))


def test_a_log_from_stdin_is_judged_as_from_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, t4_log: Path
):
    """check - and parse - give the same document and exit code as for a file, with "stdin" as its name, and the diagnosis too."""
    monkeypatch.chdir(tmp_path)
    wrong = (
        t4_log.read_bytes().replace(b"# CUDA blocks: 1353", b"# CUDA blocks: 1354")
        + b"torch.OutOfMemoryError: CUDA out of memory\n"
    )
    for log, code in ((t4_log.read_bytes(), 0), (wrong, 1)):
        (Path(t4_log.name)).write_bytes(log)
        for command, expected in (("parse", 0), ("check", code)):
            _from_stdin(monkeypatch, log)
            piped = _run(capsys, command, "-", "--json")
            named = _run(capsys, command, t4_log.name, "--json")
            assert piped[0] == named[0] == expected
            assert piped[1] == named[1].replace(f"{t4_log.name}:", "stdin:")


def test_an_empty_stdin_is_bad_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """If nothing was piped: an error, exit 2."""
    _from_stdin(monkeypatch, b"")
    code, out, err = _run(capsys, "check", "-")
    assert (code, out) == (2, "")
    assert "stdin: the file is empty" in err
