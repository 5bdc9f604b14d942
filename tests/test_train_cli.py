"""`loadcheck train` as a user starts it, with a process that replays a kept training (tests/training/run)."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadcheck.cli.app import run as loadcheck
from loadcheck.runs.checkpoints import publish
from loadcheck.runs.folder import RunFolder
from tests.conftest import ROOT
from tests.hastened import hastened

KEPT = Path(__file__).parent / "training" / "run"
DATA = ROOT / "examples" / "glossary.jsonl"
PROFILE = "llama31-8b-instruct-4bit"
CPU = ("train", "smollm2-135m-cpu", "--per-device-train-batch-size", "2")


class Child:
    """The child processes: the kept run's lines, counts and steps."""

    def __init__(self) -> None:
        self.problems: list[dict[str, Any]] = []
        self.longest = 70
        self.fails_in = ""

    def command(self, step: str, folder: RunFolder) -> list[str]:
        events = {"prepare": ("weights_ready",), "rows": ("train_data",)}.get(step)
        lines = [line for line in (KEPT / "load.log").read_text().split("\n") if '"event"' in line]
        printed = [line for line in lines if _event(line) in events] if events else lines[2:]
        if step == "rows":
            counted = {**json.loads((KEPT / "rows.json").read_text()), "num_longest_tokens": self.longest}
            folder.rows_path.write_text(json.dumps({**counted, "problems": self.problems}))
        if step == "train":
            folder.steps_path.write_text(hastened((KEPT / "steps.jsonl").read_text()))
        return [
            "/bin/sh",
            "-c",
            'printf "%s\n" "$1"; exit $2',
            "child",
            hastened("\n".join(printed)),
            "1" if step == self.fails_in else "0",
        ]


def _event(line: str) -> str:
    return str(json.loads(line.partition(": ")[2])["event"])


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Child:
    """A machine without a GPU that has all packages, and a working directory."""
    found = Child()
    monkeypatch.chdir(tmp_path)
    for module in ("preparing", "cli.train"):  # which has its own name for it, once it was imported
        monkeypatch.setattr(f"loadcheck.{module}.require", lambda names, profile: None)
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    monkeypatch.setattr("loadcheck.running.child_command", found.command)
    return found


def test_a_training_is_run_judged_and_kept(child: Child, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Exit 0: data, counts and prediction are printed before the training, the verdict after it; checking the folder gives the same."""
    assert loadcheck([*CPU, "--data", str(DATA), "--max-steps", "8", "--run-dir", "run"]) == 0
    output = capsys.readouterr().out
    for words in (
        "50 rows of the form messages",
        "1,088 of them learned (assistant)",
        "Predicted peak of the process",
        "PASS",
    ):
        assert words in output
    assert "step 8 of 8, loss 5.4163" in output
    assert loadcheck(["check", "run"]) == 0
    job = json.loads(Path("run/train.json").read_text())
    assert (job["settings"]["train_seq_length"], job["settings"]["optim"], job["schedule"]["max_steps"]) == (
        70,
        "adamw_torch",
        8,
    )


def test_json_is_one_document(child: Child, capsys: pytest.CaptureFixture[str]):
    """Stdout is only one document; progress goes to stderr."""
    assert loadcheck([*CPU, "--data", str(DATA), "--run-dir", "run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["run"], document["predicted"]["train_peak_host_gib"]) == (
        "pass",
        "run",
        pytest.approx(1.4, abs=0.2),
    )


def test_the_effect_of_packing_is_printed_before_the_training(child: Child, capsys: pytest.CaptureFixture[str]):
    """The effect of packing is printed from rows.json's counts; the replayed run has no packed rows, and the verdict notices."""
    assert loadcheck([*CPU, "--data", str(DATA), "--packing", "--run-dir", "run"]) == 1
    assert "Note: 50 examples packed into (not in log) rows of 70 tokens" in " ".join(capsys.readouterr().out.split())
    assert json.loads(Path("run/train.json").read_text())["settings"]["packing"] is True


def test_wrong_rows_end_the_run_before_the_model_loads(child: Child, capsys: pytest.CaptureFixture[str]):
    """Rows that the tokenizer shows to be wrong end the run before the model loads: exit 2, a line each, also in the run folder."""
    child.problems = [
        {"where": f"data.jsonl:{line}", "what": "has 900 tokens", "remedy": "cut it", "key": None} for line in (3, 5)
    ]
    assert loadcheck([*CPU, "--data", str(DATA), "--run-dir", "run"]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "Error: data.jsonl:3: has 900 tokens; cut it",
        "Error: data.jsonl:5: has 900 tokens; cut it",
    ]
    record = json.loads(Path("run/run.json").read_text())
    assert (record["outcome"], record["exit_code"]) == ("failed", 2)
    assert not Path("run/steps.jsonl").exists()


def test_a_training_that_would_not_fit_is_not_started(
    child: Child, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Exit 1, unless --force is given."""
    monkeypatch.setattr("loadcheck.preparing.ram_available_bytes", lambda: 1_200_000_000)
    assert loadcheck([*CPU, "--data", str(DATA), "--run-dir", "run", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["outcome"] == "refused"
    assert not Path("run/steps.jsonl").exists()
    assert loadcheck([*CPU, "--data", str(DATA), "--run-dir", "forced", "--force"]) == 0


def test_a_training_process_that_fails_fails_the_run(child: Child):
    """A training process that fails makes the run fail, whatever it printed."""
    child.fails_in = "train"
    assert loadcheck([*CPU, "--data", str(DATA), "--run-dir", "run"]) == 1
    assert loadcheck(["check", "run"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "--data: is missing"),
        (("--data", "none.jsonl"), 2, "none.jsonl: --data: No such file"),
        (("--data", str(DATA), "--optim", "adamw_8bit"), 2, "--optim: adamw_8bit needs a GPU; use adamw_torch"),
        (("--data", str(DATA), "--train-seq-length", "600"), 2, "600 is above max_seq_length 512"),
        (("--data", str(DATA), "--packing", "--truncate"), 2, "--truncate: no row is too long with --packing"),
        (("--data", str(DATA), "--reward-functions", "x.py"), 2, "only GRPO uses reward functions"),
        (("--data", str(DATA), "--method", "grpo"), 2, "those of one form: prompt"),
        (("--data", str(DATA), "--learning-rate", "2"), 2, "Error: --learning-rate: must be at most 1"),
        (("--data", str(DATA), "--max-steps", "0"), 2, "Error: --max-steps: must be at least 1"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_made(
    arguments: tuple[str, ...], code: int, message: str, child: Child, capsys: pytest.CaptureFixture[str]
):
    """Settings that no training accepts exit 2 with one line, before a folder is made."""
    assert loadcheck([*CPU, *arguments, "--run-dir", "run"]) == code
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_all_wrong_flags_of_a_training_are_reported(capsys: pytest.CaptureFixture[str]):
    """Wrong values of the profile's flags and of the schedule's are one error, with one line for each flag."""
    given = {"--learning-rate": "-3", "--warmup-ratio": "4", "--save-steps": "0", "--lora-r": "0"}
    flags = [word for pair in given.items() for word in pair]
    assert loadcheck([*CPU, "--data", str(DATA), *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == list(given)


@pytest.mark.parametrize(
    "command", [("train", PROFILE, "--data", str(DATA)), ("predict", "--gpu", "T4", "--method", "sft")]
)
def test_vllm_alone_is_refused_by_its_flag(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    """A training with --loader vllm is refused, with that flag as the remedy."""
    assert loadcheck([*command, "--loader", "vllm"]) == 2
    assert "loader: vllm alone cannot train; set it to unsloth, or leave --loader out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "GRPO needs reward functions"),
        (("--reward-functions", "none.py"), "none.py: --reward-functions: no such file"),
        (
            ("--reward-functions", "rewards.py", "--max-completion-length", "500"),
            "756 tokens, above max_seq_length 512",
        ),
    ],
)
def test_grpo_needs_rewards_and_room(
    more: tuple[str, ...], message: str, child: Child, capsys: pytest.CaptureFixture[str]
):
    """GRPO without rewards or room exits 2 before anything is made."""
    Path("prompts.jsonl").write_text('{"prompt": "2+2?", "answer": "4"}\n')
    Path("rewards.py").write_text("def right(completions, **columns): ...\n")
    assert loadcheck([*CPU, "--data", "prompts.jsonl", "--method", "grpo", *more, "--run-dir", "run"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def _with_checkpoint(outcome: str) -> None:
    """A run of eight steps that ended after the checkpoint of its fourth."""
    record = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps({**record, "outcome": outcome}))
    written = Path("run/checkpoints/.partial/checkpoint-4")
    written.mkdir(parents=True)
    (written / "optimizer.pt").write_text("state")
    publish(written, Path("run/checkpoints/checkpoint-4"))


def test_a_killed_run_is_resumed_from_its_newest_checkpoint(child: Child):
    """A killed run is resumed with its own settings, in a new folder."""
    assert loadcheck([*CPU, "--data", str(DATA), "--max-steps", "8", "--run-dir", "run"]) == 0
    _with_checkpoint("killed")
    assert loadcheck(["train", "--resume", "run", "--run-dir", "resumed"]) == 0
    job = json.loads(Path("resumed/train.json").read_text())
    assert (Path(job["resume_from"]), job["schedule"]["max_steps"]) == (
        Path("run/checkpoints/checkpoint-4").absolute(),
        8,
    )


@pytest.mark.parametrize(
    ("outcome", "damage", "arguments", "message"),
    [
        ("completed", None, (), "is completed"),
        ("killed", "checkpoints/checkpoint-4/optimizer.pt", (), "is not a whole checkpoint"),
        ("killed", "checkpoints/checkpoint-4/files.json", (), "has no checkpoint"),
        ("killed", None, ("--learning-rate", "1e-4"), "--learning-rate cannot be combined with --resume"),
        ("killed", None, ("--data", "other.jsonl"), "is not the data that this run was trained on"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_refused(
    outcome: str,
    damage: str | None,
    arguments: tuple[str, ...],
    message: str,
    child: Child,
    capsys: pytest.CaptureFixture[str],
):
    """A run that cannot be resumed exits 2 with one line."""
    assert loadcheck([*CPU, "--data", str(DATA), "--run-dir", "run"]) == 0
    _with_checkpoint(outcome)
    Path("other.jsonl").write_text('{"text": "other"}\n')
    if damage is not None:
        (Path("run") / damage).unlink()
    assert loadcheck(["train", "--resume", "run", *arguments]) == 2
    assert message in capsys.readouterr().err
