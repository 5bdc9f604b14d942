"""The command line: what goes where, and the exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli
from loadcheck.errors import BadInput
from loadcheck.loading import CPU_PROFILE, default_profile, refuse_bad_input
from loadcheck.plan import make_plan
from loadcheck.specs.files import to_data
from loadcheck.specs.profile import load_profile
from tests.conftest import ROOT, RUNS


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_parse_json_is_one_document(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """parse --json: outcome, attempts, figures of the last attempt; nothing else on stdout."""
    code, out, err = _run(capsys, "parse", "--json", str(t4_log))
    data = json.loads(out)
    assert (code, err, data["outcome"], len(data["attempts"])) == (0, "", "completed", 1)
    assert data["figures"]["weights_gib"] == data["attempts"][0]["figures"]["weights_gib"] == 5.3541


def test_parse_for_people_names_lines(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """Without --json each figure is a line with the line it was read in."""
    code, out, _ = _run(capsys, "parse", str(t4_log))
    assert code == 0
    line = 1 + t4_log.read_text().split("took 5.3541 GB")[0].count("\n")
    assert any(each.split() == ["weights_gib", "5.3541", "line", str(line)] for each in out.splitlines())


def test_check_passes_the_reference(capsys: pytest.CaptureFixture[str], t4_log: Path):
    """check of the reference: exit 0, a table, and PASS on the last line."""
    code, out, _ = _run(capsys, "check", str(t4_log))
    assert code == 0
    assert out.rstrip().splitlines()[-1].startswith("PASS")


def test_check_json_puts_the_report_on_stderr(capsys: pytest.CaptureFixture[str], t4_log: Path, tmp_path: Path):
    """With --json stdout is the document alone; the table for people goes to stderr; a failure exits 1."""
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
        "missing",
    } == set(failing[0])
    assert "FAIL num_gpu_blocks is 1,354" in err.replace("\n", " ")


def test_predict_json(capsys: pytest.CaptureFixture[str]):
    """predict --json: fits and figures, exit 0; a load that does not fit exits 1."""
    code, out, _ = _run(capsys, "predict", "--gpu", "T4", "--ram-available-bytes", "11000000000", "--json")
    data = json.loads(out)
    assert (code, data["fits"], data["figures"]["weights_gib"], data["figures"]["swap_gib"]) == (0, True, 5.3541, 2)
    code, out, _ = _run(capsys, "predict", "--gpu", "T4", "--gpu-memory-utilization", "0.2", "--json")
    assert (code, json.loads(out)["fits"]) == (1, False)


def test_predict_takes_a_card_by_numbers(capsys: pytest.CaptureFixture[str]):
    """Total, free, capability and non_torch describe any card."""
    code, out, _ = _run(
        capsys, "predict", "--json", "--gpu-total-bytes", "15828320256", "--gpu-free-bytes", "15721365504",
        "--compute-capability", "7.5", "--non-torch-bytes", "50331648", "--ram-available-bytes", "11000000000",
    )  # fmt: skip
    assert (code, json.loads(out)["figures"]["num_gpu_blocks"]) == (0, 1353)


def test_predict_takes_a_largest_rank_alone(capsys: pytest.CaptureFixture[str]):
    """--max-lora-rank asks about adapters of that rank, smaller or larger than the profile's; --lora-r says otherwise."""
    for rank, params in ((16, 41_943_040), (64, 167_772_160)):
        code, out, _ = _run(capsys, "predict", "--json", "--gpu", "H100", "--max-lora-rank", str(rank))
        assert (code, json.loads(out)["figures"]["trainable_params"]) == (0, params)
    _, out, _ = _run(capsys, "predict", "--json", "--gpu", "H100", "--max-lora-rank", "64", "--lora-r", "16")
    assert json.loads(out)["figures"]["trainable_params"] == 41_943_040


def test_predict_takes_a_config(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """--model takes a config.json, whose own quantization counts."""
    config = {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, _ = _run(capsys, "predict", "--json", "--gpu", "T4", "--model", str(tmp_path / "config.json"))
    assert code == 0
    assert (json.loads(out)["figures"]["weights_gib"], json.loads(out)["figures"]["quantization"]) == (2.8861, "16bit")


def test_every_problem_of_a_described_card_is_said(capsys: pytest.CaptureFixture[str]):
    """Missing and impossible numbers come in one error, exit 2."""
    code, out, err = _run(capsys, "predict", "--gpu-total-bytes", "10", "--compute-capability", "eight")
    assert (code, out) == (2, "")
    assert "Error: --gpu-free-bytes: not known" in err and "Error: --compute-capability: 'eight' is none" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["parse", "no-such-file"], "No such file"),
        (["check", "no-such-file"], "No such file"),
        (["report", "no-such-folder"], "run.json is missing"),
        (["load", "no-such-profile"], "there is no profile 'no-such-profile'"),
        (["load", "smollm2-135m-cpu", "--lora-r", "64"], "LoRA rank 64 is greater than max_lora_rank 32"),
        (["predict", "--gpu", "T5"], "there is no GPU 'T5'"),
        (["predict", "--gpu", "P100"], "below 7.0"),
        (["predict", "--gpu", "T4", "--gpu-memory-utilization", "1.5"], "gpu_memory_utilization"),
        (["prdict"], "did you mean predict?"),
        (["predict", "--no-such-flag"], "No such option"),
    ],
)
def test_bad_input_exits_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    """A wrong name, path or value is one line of Error on stderr, nothing on stdout, exit 2."""
    code, out, err = _run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err and words in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["check", "no-such-file"], {"where": "no-such-file", "key": None}),
        (["predict", "--gpu", "A1000"], {"where": "gpu", "key": None}),
        (["load", "smollm2-135m-cpu", "--lora-r", "64"], {"key": None}),
        (["predict", "--no-such-flag"], {"where": "command line", "key": None}),
        (["report", str(RUNS / "h100" / "killed"), "--html", "/dev/null/x"], {"where": "/dev/null/x"}),
    ],
)
def test_an_error_is_one_document_too(
    arguments: list[str], problem: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    """With --json an error is the only document on stdout, with the exit code; its text is on stderr as ever."""
    code, out, err = _run(capsys, *arguments, "--json")
    data = json.loads(out)
    assert (code, data["exit_code"]) == (2, 2)
    assert all(set(each) == {"where", "key", "what", "remedy"} for each in data["error"])
    assert problem.items() <= data["error"][0].items() and all(data["error"][0][key] for key in ("what", "remedy"))
    assert "Error: " in err


def test_a_page_that_was_written_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """report --html says which file it wrote."""
    page = tmp_path / "page.html"
    _, out, _ = _run(capsys, "report", str(RUNS / "h100" / "reference-train3"), "--html", str(page))
    assert page.exists() and f"wrote {page}" in out.replace("\n", "")


@pytest.mark.parametrize("command", [["load", "smollm2-135m-cpu"], ["doctor", "--profile", "smollm2-135m-cpu"]])
@pytest.mark.parametrize(
    ("flags", "cache", "words"),
    [
        (["--model", "phi-4"], "", "no package that is locked holds weights of phi-4; give --weights hub"),
        (["--weights", "local"], "", "'smollm2-135m-instruct' is no directory with a config.json; give the directory"),
        (["--max-seq-length", "5"], "", "5 tokens hold no prompt and an answer of 12; raise it"),
        (
            ["--max-seq-length", "9000"],
            "",
            "9000 is above the 8192 positions of smollm2-135m-instruct; lower it to 8192",
        ),
        (["--gpu-memory-utilization", "0.5"], "", "gpu_memory_utilization: only vLLM takes it"),
        (["--conservativeness", "0.5"], "", "conservativeness: only vLLM takes it"),
        (["--enforce-eager"], "", "enforce_eager: only vLLM takes it"),
        ([], "/dev/null/x", "LOADCHECK_CACHE: cannot be created (Not a directory); set LOADCHECK_CACHE"),
        ([], "/proc/zzz", "LOADCHECK_CACHE: cannot be created (No such file or directory)"),
    ],
)
def test_bad_input_is_refused_before_a_run(
    command: list[str], flags: list[str], cache: str, words: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
):  # fmt: skip
    """What the engine would refuse once it runs is one line, exit 2 and no run folder; doctor says the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOADCHECK_CACHE", cache or str(tmp_path / "cache"))
    code, out, err = _run(capsys, *command, *flags)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err
    assert not Path("runs").exists()


def test_a_cache_that_is_whole_may_be_read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Where nothing has to be written, nothing must be writable."""
    monkeypatch.setenv("LOADCHECK_CACHE", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    plan = make_plan(load_profile(CPU_PROFILE))
    with pytest.raises(BadInput, match="cannot be written to"):
        refuse_bad_input(plan)
    (tmp_path / "weights" / "smollm2-135m-instruct-0123456789ab-bnb-4bit").mkdir(parents=True)
    refuse_bad_input(plan)


def test_vllm_is_not_for_the_cpu(capsys: pytest.CaptureFixture[str]):
    """--fast-inference cannot be honoured without a GPU, so it is refused."""
    code, _, err = _run(capsys, "load", "smollm2-135m-cpu", "--fast-inference")
    assert (code, "fast_inference: vLLM needs a GPU" in err) == (2, True)


def test_a_file_is_no_run_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A --run-dir that is a file is found out before anything is prepared."""
    (tmp_path / "README.md").touch()
    code, out, err = _run(capsys, "load", "smollm2-135m-cpu", "--run-dir", str(tmp_path / "README.md"))
    assert (code, out) == (2, "")
    assert "README.md: is a file; give a --run-dir" in err


def test_the_gpu_profile_without_a_gpu_exits_3(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A machine without a GPU is not bad input: exit 3, and what to do instead."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    code, _, err = _run(capsys, "load", "llama31-8b-instruct-4bit")
    assert code == 3
    assert "needs an NVIDIA GPU" in err and "loadcheck load smollm2-135m-cpu" in err


def test_predict_without_a_gpu_or_a_name_exits_3(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """There is no card to predict for: exit 3, and how to name one."""
    monkeypatch.setattr("loadcheck.predict.card.read_gpu", lambda: None)
    code, _, err = _run(capsys, "predict")
    assert code == 3
    assert "--gpu T4" in err


def test_an_environment_without_the_stack_exits_3(capsys: pytest.CaptureFixture[str]):
    """This test environment has no torch, which is said before anything starts."""
    code, _, err = _run(capsys, "load", "smollm2-135m-cpu")
    assert code == 3
    assert "lacks torch" in err and "make load" in err


def test_without_a_gpu_the_small_model_is_the_default():
    """The choice of the profile says why."""
    name, why = default_profile(None)
    assert name == CPU_PROFILE
    assert "no usable NVIDIA GPU" in why


def test_every_profile_key_has_a_flag():
    """Whatever a profile says, a flag of `load` overrides."""
    flags = {parameter.name for parameter in cli.cli.commands["load"].params}
    profile = to_data(load_profile("llama31-8b-instruct-4bit"))
    keys = {key for key, value in profile.items() if not isinstance(value, dict)} | {
        f"{table}.{key}" for table in ("adapters", "generation", "training") for key in profile[table]
    }
    described = {"name", "description", "engine", "adapters.bias"}
    assert keys - described == set(cli.OVERRIDES.values())
    assert set(cli.OVERRIDES) <= flags


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
    """A flag that was not given changes nothing."""
    assert cli.overrides(flags) == changed


def test_every_command_has_help_and_is_in_the_readme():
    """No command is undocumented."""
    readme = (ROOT / "README.md").read_text()
    for name, command in cli.cli.commands.items():
        assert command.help, name
        assert f"loadcheck {name}" in readme, name


def test_reports_read_without_colour_and_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, t4_log: Path
):
    """At 60 columns no line is longer, no terminal code is printed, and every status is a word."""
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = _run(capsys, "check", str(t4_log))
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 60
    assert "ok" in out


def test_markup_in_a_log_is_text(capsys: pytest.CaptureFixture[str], t4_log: Path, tmp_path: Path):
    """Brackets that a log holds are shown as they are, not taken as colours."""
    log = tmp_path / "log"
    log.write_text(t4_log.read_text() + "\nRuntimeError: [bold red]boo[/] [/nonsense]\n")
    code, out, _ = _run(capsys, "check", str(log))
    assert code == 1
    assert "[bold red]boo[/]" in out and "[/nonsense]" in out
