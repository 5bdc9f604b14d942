"""loadcheck as a library."""

import json
from pathlib import Path

import pytest

from loadcheck import api, cli
from tests.conftest import RUNS


def test_predict_equals_the_command(capsys: pytest.CaptureFixture[str]):
    """predict() returns the same figures, to the byte, as `loadcheck predict --json` with the same settings."""
    cli.run(["predict", "--gpu", "T4", "--max-seq-length", "1024", "--ram-available-bytes", "12GiB", "--json"])
    printed = json.loads(capsys.readouterr().out)
    prediction = api.predict(gpu="T4", settings={"max_seq_length": 1024}, ram_available_bytes=12 * 1024**3)
    assert prediction.to_json()["bytes"] == printed["bytes"]
    assert prediction.fits is printed["fits"] is True


def test_a_card_may_be_described_by_its_bytes():
    """A Card built by hand is predicted like the table's card with the same numbers."""
    free = 14 * 1024**3
    card = api.Card(name="mine", compute_capability=7.5, total_bytes=15 * 1024**3, free_bytes=free)
    budget = api.predict(gpu=card, ram_available_bytes=12 * 1024**3).figures.budget_bytes
    assert budget is not None and 0 < budget < free


def test_fit_keeps_what_is_given():
    """fit() does not vary a setting that was given."""
    found = api.fit(gpu="T4", settings={"max_seq_length": 768}, ram_available_bytes=12 * 1024**3)
    assert found.proposals and {each.profile.max_seq_length for each in found.proposals} == {768}


def test_judge_and_parse_take_a_path_or_a_string(t4_log: Path):
    """judge() and parse() take a path or a string: the reference log passes, and its weights are read."""
    assert api.judge(str(t4_log)).status == "pass"
    assert api.parse_log(t4_log).last.figures.weights_bytes == round(5.3541 * 1024**3)


def test_compare_returns_what_moved():
    """compare() returns what the command prints: one figure differs, by three training steps."""
    found = api.compare(str(RUNS / "h200" / "reference"), RUNS / "h200" / "reference-train3")
    assert [each.spec.name for each in found.moved] == ["peak_device_gib"] and not found.same
    assert found.moved[0].parts[0].change == "training.steps 0 → 3"


@pytest.mark.parametrize(
    ("profile", "gpu", "settings", "named"),
    [
        ("no-such-profile", "T4", {}, "no-such-profile"),
        (api.REFERENCE, "no-such-card", {}, "no-such-card"),
        (api.REFERENCE, "T4", {"max_seq_length": -1}, "max_seq_length"),
        (api.REFERENCE, "T4", {"no_such_key": 1}, "no_such_key"),
        ("smollm2-135m-cpu", "T4", {}, "without vLLM"),
    ],
)
def test_bad_input_is_named(profile: str, gpu: str, settings: dict[str, object], named: str):
    """BadInput names the wrong name or key."""
    with pytest.raises(api.BadInput, match=named):
        api.predict(profile, gpu=gpu, settings=settings)


def test_all_is_complete():
    """Each name in __all__ exists and is documented."""
    for name in api.__all__:
        assert getattr(api, name) is not None
        assert name == "REFERENCE" or getattr(api, name).__doc__
