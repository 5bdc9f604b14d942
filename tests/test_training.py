"""`predict --method` and `fit --method`: output and refusals."""

import json

import pytest

from loadcheck.cli import run
from loadcheck.predict.card import card_from_table
from loadcheck.specs.files import changed
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import load_profile
from loadcheck.specs.training import TrainSettings
from loadcheck.workloads.peaks import predict_peaks
from loadcheck.workloads.training import predict_training
from tests.cases import case_of

WITHOUT_VLLM = ["--no-fast-inference", "--gpu", "H100", "--lora-r", "16", "--max-seq-length", "4096"]
WITH_VLLM = ["--gpu", "H100", "--ram-available-bytes", "100GiB"]


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_sft_is_predicted_to_the_byte(capsys: pytest.CaptureFixture[str]) -> None:
    """2 rows of 2048 tokens without vLLM: the bytes measured on an H100 under `bytes`, and GiB among the figures."""
    flags = ["--per-device-train-batch-size", "2", "--train-seq-length", "2048"]
    code, document = run_json(capsys, "predict", "--method", "sft", *WITHOUT_VLLM, *flags)
    assert code == 0 and document["fits"] is True
    assert document["bytes"]["train_peak_allocated_bytes"] == 7_262_123_008
    assert document["figures"]["train_peak_allocated_gib"] == 6.76
    assert document["bytes"]["train_peak_host_bytes"] == 32 * 32 * 1024**2
    assert document["training"]["peak_in"] == "backward pass"
    assert document["training"]["limits"][0]["name"] == "activations"


def test_packed_rows_are_predicted_as_full(capsys: pytest.CaptureFixture[str]) -> None:
    """Packed rows are full, so the prediction is that of one row of this length; the output says that rows are packed, also on the CPU."""
    flags = ["--per-device-train-batch-size", "2", "--train-seq-length", "2048"]
    plain, packed = (
        run_json(capsys, "predict", "--method", "sft", *WITHOUT_VLLM, *flags, *more)[1] for more in ([], ["--packing"])
    )
    assert packed["bytes"] == plain["bytes"]
    assert (packed["training"]["settings"]["packing"], plain["training"]["settings"]["packing"]) == (True, False)
    for command in (
        ["--method", "sft", *WITHOUT_VLLM, *flags],
        ["smollm2-135m-cpu", "--method", "sft", "--train-seq-length", "2048"],
    ):
        assert run(["predict", *command, "--packing"]) == 0
        assert "packed rows are all 2048 tokens long" in " ".join(capsys.readouterr().out.split())


def test_the_first_step_takes_less_than_later_ones() -> None:
    """The first step has no optimizer states; trainings with few rows are held to it (verdict/training/memory.py)."""
    profile = changed(load_profile("llama31-8b-instruct-4bit"), {"fast_inference": False})
    _, config = resolve_model(profile.model, profile.load_in_4bit)
    case = case_of(config, profile, card_from_table("H100"), 1 << 36)
    settings = TrainSettings(method="sft", per_device_train_batch_size=2, train_seq_length=512)
    peaks, memory = predict_peaks(case, settings), predict_training(case, settings).memory
    assert peaks.first_step_bytes == max(memory.check.num_bytes, memory.first_step.num_bytes)
    assert peaks.allocated_bytes == memory.later_step.num_bytes > memory.first_step.num_bytes


def test_grpo_is_predicted_beside_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """The load's figures do not change, and the training's are added."""
    flags = ["--num-generations", "4", "--max-prompt-length", "128", "--max-completion-length", "64"]
    code, document = run_json(capsys, "predict", "--method", "grpo", "--optim", "paged_adamw_8bit", *WITH_VLLM, *flags)
    assert code == 0
    assert document["figures"]["num_gpu_blocks"] == 20_797
    assert document["bytes"]["train_peak_allocated_bytes"] == 50_382_027_776 + 594_521_088 + 204_996_096
    assert document["training"]["paged_bytes"] > 0


def test_without_method_no_training_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --method the document of a load does not change."""
    _, document = run_json(capsys, "predict", *WITH_VLLM)
    assert "training" not in document
    assert not [name for name in document["figures"] if name.startswith("train_peak")]


def test_a_training_larger_than_the_card_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and fits false, although the load itself fits."""
    flags = ["--per-device-train-batch-size", "64", "--train-seq-length", "131072"]
    code, document = run_json(capsys, "predict", "--method", "sft", *WITHOUT_VLLM, *flags)
    assert code == 1 and document["fits"] is False


def test_the_text_names_what_limits(capsys: pytest.CaptureFixture[str]) -> None:
    """The text shows the peaks, what limits them, and with --tree the upstream line of each term."""
    assert run(["predict", "--method", "sft", *WITHOUT_VLLM, "--train-seq-length", "1024", "--tree"]) == 0
    out = capsys.readouterr().out
    assert "Limited in the forward pass by: logits" in out
    assert "unsloth/models/llama.py:1097" in out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "grpo", "--max-completion-length", "512"], "max_seq_length 512"),
        (["--method", "sft", "--profile", "smollm2-135m-cpu", "--optim", "adamw_8bit"], "adamw_8bit needs a GPU"),
        (["--method", "grpo", "--packing"], "--packing: GRPO's rows are generated"),
        (["--method", "sft", "--optim", "lion_32bit"], "is not one of"),
        (["--method", "sft", "--train-seq-length", "0"], "0 is not in the range"),
    ],
)
def test_unpredictable_settings_are_refused(capsys: pytest.CaptureFixture[str], flags: list[str], says: str) -> None:
    """Settings that cannot be predicted are refused on one line, with exit code 2."""
    assert run(["predict", *flags, "--gpu", "H100"]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_notes_name_what_is_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A note says that GRPO without vLLM is not counted, and another that the card has no runs."""
    flags = ["--no-fast-inference", "--model", "llama-3.2-1b-instruct", "--max-completion-length", "64"]
    _, document = run_json(capsys, "predict", "--method", "grpo", "--gpu", "T4", *flags)
    assert [note.split()[0] for note in document["training"]["notes"]] == ["without", "before"]


@pytest.mark.parametrize("known", [True, False])
def test_a_note_names_assumed_multiprocessors(known: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """For a card with an unknown number of multiprocessors a note states the assumption; for a known one there is no note."""
    described = ["--gpu-total-bytes", "79GiB", "--gpu-free-bytes", "78GiB", "--compute-capability", "9.0"]
    card = ["--gpu", "H100"] if known else described
    _, document = run_json(capsys, "predict", "--method", "sft", "--ram-available-bytes", "64GiB", *card)
    assert any("multiprocessors" in note for note in document["training"]["notes"]) is not known


def test_on_a_cpu_the_peak_of_the_process_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    """In text and JSON. GRPO was not measured on the CPU, and fit has no card to fill."""
    code, document = run_json(capsys, "predict", "smollm2-135m-cpu", "--method", "sft", "--train-seq-length", "128")
    assert (code, document["figures"]["train_peak_host_gib"]) == (0, 1.34)
    assert document["training"]["settings"]["optim"] == "adamw_torch"
    assert run(["predict", "smollm2-135m-cpu", "--method", "sft"]) == 0
    assert "Predicted peak of the process" in capsys.readouterr().out
    assert run(["predict", "smollm2-135m-cpu", "--method", "grpo"]) == 0
    assert "was measured only for SFT of SmolLM2 135M in 4-bit" in capsys.readouterr().out
    assert run(["fit", "smollm2-135m-cpu", "--method", "sft"]) == 2
    assert "whose memory is not limited by a card" in capsys.readouterr().err
