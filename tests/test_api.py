"""loadcheck as a library."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadcheck import api, cli
from loadcheck.units import GIB
from tests.conftest import ROOT, RUNS

T4_LOG = RUNS / "t4_llama31-8b_reference.txt"


def _card(total: int = 15 * GIB, free: int = 14 * GIB, capability: float = 7.5) -> api.Card:
    return api.Card(name="mine", compute_capability=capability, total_bytes=total, free_bytes=free)


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
        (api.REFERENCE, _card(total=0, free=0), {}, "0 bytes are less than any card has"),
        (api.REFERENCE, _card(total=15 * GIB, free=16 * GIB), {}, "is more than the card's"),
        (api.REFERENCE, _card(capability=float("nan")), {}, "'nan' is not one"),
    ],
)
def test_bad_input_is_named(profile: str, gpu: str | api.Card, settings: dict[str, object], named: str):
    """BadInput names the wrong name or key, or what is wrong with a card."""
    with pytest.raises(api.BadInput, match=re.escape(named)):
        api.predict(profile, gpu=gpu, settings=settings)


def test_a_profile_may_be_a_path(tmp_path: Path):
    """predict() and judge() take a profile's file as a Path, too; both name a file that is missing."""
    file = tmp_path / "mine.toml"
    shutil.copy(ROOT / "env/profiles/llama31-8b-instruct-4bit.toml", file)
    assert api.predict(file, gpu="T4").fits and api.judge(T4_LOG, profile=file).passed
    with pytest.raises(api.BadInput, match=r"nope\.toml: no such file"):
        api.predict(tmp_path / "nope.toml", gpu="T4")


@pytest.mark.parametrize("call", [api.judge, api.parse_log, lambda path: api.compare(T4_LOG, path)])
def test_a_path_that_no_file_can_have_is_bad_input(call: Callable[[str], object]):
    """A null character in a path is BadInput, as a service's user may send one; so is one in a model's path."""
    with pytest.raises(api.BadInput, match="holds a null character"):
        call("a\0b")
    with pytest.raises(api.BadInput, match=r"cannot be a path \(surrogates not allowed\)"):
        call("\ud800")
    with pytest.raises(api.BadInput, match="embedded null"):
        api.predict(gpu="T4", settings={"model": "a\0b/config.json"})


class _BytesPath:
    def __fspath__(self) -> bytes:
        return b"load.log"


WRONG: tuple[object, ...] = (None, 1, 1.5, True, b"T4", [], {}, object(), _BytesPath(), float("nan"), int)
CALLS: dict[str, Callable[[Any], object]] = {
    "profile": lambda value: api.predict(value, gpu="T4"),
    "gpu": lambda value: api.predict(gpu=value),
    "settings": lambda value: api.predict(gpu="T4", settings=value),
    "ram_available_bytes": lambda value: api.predict(gpu="T4", ram_available_bytes=value),
    "goal": lambda value: api.fit(gpu="T4", goal=value),
    "path": api.parse_log,
    "target": api.judge,
    "a": lambda value: api.compare(value, T4_LOG),
    "Card.name": lambda value: api.predict(gpu=dataclasses.replace(_card(), name=value)),
    "Card.compute_capability": lambda value: api.predict(gpu=dataclasses.replace(_card(), compute_capability=value)),
    "Card.free_bytes": lambda value: api.predict(gpu=dataclasses.replace(_card(), free_bytes=value)),
}
MEANT = {
    "settings": (None, {}),
    "ram_available_bytes": (None, 1),
    "Card.compute_capability": (1, 1.5),
    "Card.free_bytes": (1,),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in CALLS for value in WRONG if value not in MEANT.get(name, ()) or value is True])  # fmt: skip
def test_an_argument_of_a_wrong_type_is_bad_input(name: str, value: object):
    """Whatever is given in place of an argument, or of a Card's number, the error names the argument and its type, and comes from no place deep inside."""
    of_value = name == "Card.compute_capability" and isinstance(value, float)  # not a number
    with pytest.raises(
        api.BadInput, match="is not one" if of_value else f"^{name}: is of type {type(value).__name__}; give"
    ):
        CALLS[name](value)


@pytest.mark.parametrize("settings", [{1: 2}, {"generation": {1: 2}}, {("a",): 1}, {"model": object()}, {"model": b"x"}, {"max_seq_length": 1 + 0j}])  # fmt: skip
def test_settings_of_wrong_types_are_bad_input(settings: dict[Any, object]):
    """Keys and values that no profile can hold are bad input for every function that takes settings; a path is its text."""
    for call in (api.predict, api.fit, lambda **given: api.judge(T4_LOG, **given)):
        with pytest.raises(api.BadInput):
            call(gpu="T4", settings=settings)
    with pytest.raises(api.BadInput, match="model: 'nowhere' is not a known model"):
        api.predict(gpu="T4", settings={"model": Path("nowhere")})


def test_a_goal_and_the_ram_are_checked():
    """An unknown goal, which only a type checker would see, and a negative amount of RAM are BadInput."""
    with pytest.raises(api.BadInput, match="there is no goal 'speed'; known: concurrency, length, training"):
        api.fit(gpu="T4", goal="speed")  # type: ignore[arg-type]
    with pytest.raises(api.BadInput, match="ram_available_bytes: -1 is not a number of bytes"):
        api.predict(gpu="T4", ram_available_bytes=-1)


@pytest.mark.parametrize(
    ("command", "make"),
    [
        (["predict", "--gpu", "T4", "--ram-available-bytes", "12GiB"], lambda: api.predict(gpu="T4", ram_available_bytes=12 * GIB)),
        (["check", str(T4_LOG)], lambda: api.judge(T4_LOG)),
        (["parse", str(T4_LOG)], lambda: api.parse_log(T4_LOG)),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)  # fmt: skip
def test_to_json_is_the_commands_document(
    command: list[str],
    make: Callable[[], api.Prediction | api.Verdict | api.ParsedLog],
    capsys: pytest.CaptureFixture[str],
):
    """to_json() is a part of what the command prints with --json; only the keys that docs/library.md names are added."""
    cli.run([*command, "--json"])
    printed = json.loads(capsys.readouterr().out)
    mine = json.loads(json.dumps(make().to_json()))
    assert {key: printed[key] for key in mine} == mine
    assert printed.keys() - mine.keys() <= {"schema", "profile", "run", "model", "settings", "gpu"}


def test_to_json_of_fit_and_compare(capsys: pytest.CaptureFixture[str]):
    """A Fit is what `fit --json` prints without each proposal's command; a Comparison is one of the command's `comparisons`."""
    cli.run(["fit", "--gpu", "T4", "--ram-available-bytes", "12GiB", "--json"])
    printed = json.loads(capsys.readouterr().out)
    for proposal in printed["proposals"]:
        del proposal["command"]
    mine = json.loads(json.dumps(api.fit(gpu="T4", ram_available_bytes=12 * GIB).to_json()))
    assert {key: printed[key] for key in mine} == mine
    a, b = RUNS / "h200" / "reference", RUNS / "h200" / "reference-train3"
    cli.run(["compare", str(a), str(b), "--json"])
    assert json.loads(capsys.readouterr().out)["comparisons"] == [json.loads(json.dumps(api.compare(a, b).to_json()))]


def test_all_is_complete():
    """Each name in __all__ exists, and each that can have a docstring has one."""
    for name in api.__all__:
        assert getattr(api, name) is not None
        assert name in ("REFERENCE", "Goal") or getattr(api, name).__doc__
