"""`fit` of a training, which predicts hundreds of them and takes seconds each."""

import json

import pytest

from loadcheck import cli
from tests.sweeps.test_train_h200 import GRPO, SFT
from tests.test_training import WITH_VLLM, run_json


def test_fit_finds_the_edge(capsys: pytest.CaptureFixture[str]) -> None:
    """The proposal fits as it is; one step more fits only if torch releases gaps, or not at all."""
    base = ["--no-fast-inference", "--gpu", "T4", "--model", "smollm2-135m-instruct", "--method", "sft"]
    code, document = run_json(capsys, "fit", *base, "--train-seq-length", "8192")
    assert code == 0
    batch = next(each for each in document["most"] if each["setting"] == "per_device_train_batch_size")["value"]
    fits = [
        run_json(capsys, "predict", *base, "--train-seq-length", "8192", "--per-device-train-batch-size", str(rows))[1]
        for rows in (batch, batch + 1)
    ]
    assert [each["training"]["fits_with_gaps"] for each in fits] == [True, False]


def test_fit_of_grpo_finds_the_most_generations(capsys: pytest.CaptureFixture[str]) -> None:
    """The largest value of each setting with the others kept, bounded by the engine's longest request."""
    code, document = run_json(
        capsys, "fit", "--method", "grpo", "--model", "qwen2.5-0.5b-instruct", "--gpu", "L4", *WITH_VLLM[2:],
        "--max-prompt-length", "128", "--max-completion-length", "64",
    )  # fmt: skip
    assert code == 0
    most = {each["setting"]: each["value"] for each in document["most"]}
    assert set(most) == {"max_completion_length", "per_device_train_batch_size", "num_generations"}
    assert most["max_completion_length"] <= 512 - 128


@pytest.mark.parametrize(("flags", "value", "at_most"), [(GRPO, 7, 8), (SFT, 47, 48)])
def test_fit_finds_the_edge_measured_on_a_card(
    flags: tuple[str, ...], value: int, at_most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a filled H200 fit proposes what needs no gaps, and states how far it runs at all."""
    assert cli.run(["fit", *flags, "--json"]) == 0
    most = {each["setting"]: each for each in json.loads(capsys.readouterr().out)["most"]}
    found = most["per_device_train_batch_size"]
    assert (found["value"], found["at_most"]) == (value, at_most)
