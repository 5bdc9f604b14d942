"""The verdict on a training: a real run passes, and each silent fault injected into it fails by its name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadcheck.cli.app import run as loadcheck
from loadcheck.errors import BadInput
from loadcheck.logs.event_lines import PREFIX
from loadcheck.runs.steps import read_steps
from loadcheck.training import Trained, judge_training_folder
from loadcheck.verdict.training.progress import MIN_STEPS
from loadcheck.workloads.peaks import Peaks
from tests.judging import failed_training_figures

RUN = Path(__file__).parent / "training" / "run"
"""Eight steps of the CPU default on examples/glossary.jsonl: 2026-11-29, x86-64, 2 cores, Python 3.11.7."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    shutil.copytree(RUN, tmp_path / "run")
    return tmp_path / "run"


def _with_event(folder: Path, name: str, **fields: Any) -> None:
    """Change fields of an event in the log; None removes one."""
    _change_events(
        folder, name, lambda event: {key: value for key, value in {**event, **fields}.items() if value is not None}
    )


def _change_events(folder: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Replace each event of this name by what `change` returns; None removes the event."""
    lines = []
    for line in (folder / "load.log").read_text().split("\n"):
        if line.startswith(PREFIX) and (event := json.loads(line[len(PREFIX) :]))["event"] == name:
            changed = change(event)
            lines += [] if changed is None else [PREFIX + json.dumps(changed)]
        else:
            lines.append(line)
    (folder / "load.log").write_text("\n".join(lines))


def _as_step(event: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    """The event with what steps.jsonl says of its step, by its own names."""
    names = {"loss": "loss", "num_tokens": "num_tokens"} | {
        f"train_{name}": name for name in ("peak_allocated_bytes", "device_used_bytes", "host_bytes")
    }
    return event | {name: step[key] for name, key in names.items() if step[key] is not None or name == "loss"}


def _with_steps(folder: Path, change: Callable[[int, dict[str, Any]], None]) -> None:
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    for number, step in enumerate(steps):
        change(number, step)
    (folder / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    lines = (folder / "load.log").read_text()
    kept = {step["step"]: step for step in steps}
    _change_events(
        folder, "train_step", lambda event: _as_step(event, kept[event["step"]]) if event["step"] in kept else None
    )
    if steps and '"event": "train_done"' in lines:
        _with_event(
            folder, "train_done", num_steps=len(steps), first_loss=steps[0]["loss"], last_loss=steps[-1]["loss"]
        )


def _with_rows(folder: Path, **fields: Any) -> None:
    """Change the rows' counts, both before the load and by the trainer, and in every file."""
    for name in ("train_data", "train_rows"):
        _with_event(folder, name, **fields)
    record = json.loads((folder / "run.json").read_text())
    record["training"]["rows"] |= fields
    _with_record(folder, training=record["training"])
    counted = json.loads((folder / "rows.json").read_text())
    (folder / "rows.json").write_text(json.dumps(counted | fields))


def _with_record(folder: Path, **fields: Any) -> None:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, **fields}))
    if "training" in fields:
        (folder / "train.json").write_text(json.dumps(fields["training"]["job"]))


def test_a_real_training_passes(capsys: pytest.CaptureFixture[str]):
    """`check` and `report` judge the folder again, and print PASS with the figures of load and training."""
    for command in ("check", "report"):
        assert loadcheck([command, str(RUN)]) == 0
        output = capsys.readouterr().out
        assert "PASS" in output
        assert "train_peak_host_gib" in output
        assert "the loss goes from" in output


def test_the_document_has_peaks_losses_and_verdict(capsys: pytest.CaptureFixture[str]):
    """One document, with exact bytes beside GiB."""
    assert loadcheck(["report", str(RUN), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["training"]["num_steps"], document["profile"]) == (
        "pass",
        8,
        "smollm2-135m-cpu",
    )
    assert document["bytes"]["train_peak_host_bytes"] > 1_000_000_000
    assert [document["training"][key] for key in ("first_loss", "last_loss")] == [5.0012969970703125, 5.416332244873047]


@pytest.mark.parametrize(
    ("event", "fields", "figure"),
    [
        ("train_rows", {"num_cut_rows": 3}, "rows"),
        ("train_rows", {"num_cut_rows": None}, "rows"),
        ("train_rows", {"tokens_sha256": "0" * 64}, "template"),
        ("train_rows", {"num_label_tokens": 0}, "labels"),
        ("train_rows", {"num_rows": 49}, "template"),
        ("train_data", {"num_label_tokens": 3}, "template"),
        ("train_done", {"num_steps": 7}, "summary"),
        ("train_done", {"first_loss": 9.0}, "summary"),
        ("train_done", {"last_loss": 0.1}, "summary"),
        ("train_rows", {"num_ended_rows": 49}, "end of answers"),
        ("train_done", {"adapter_changed": False}, "adapter weights"),
        ("train_done", {"base_unchanged": False}, "base weights"),
        ("train_done", {"saved_adapter_same": False}, "saved adapter"),
        ("train_done", {"num_ends_learned": 0}, "stopping"),
        ("train_done", {"num_planned_steps": 9}, "steps"),
        ("weights", {"weights_bytes": 1}, "weights_gib"),
        ("adapters", {"adapter_bytes": 1}, "adapter_gib"),
        ("train_peak", {"train_peak_host_bytes": 1}, "train_peak_host_gib"),
        ("train_begin", {"event": "other"}, "train_begin"),
        ("done", {"event": "other"}, "done"),
    ],
)
def test_each_fault_fails_by_its_name(event: str, fields: dict[str, Any], figure: str, folder: Path):
    """Each silent fault in a run that looks good fails by its name."""
    _with_event(folder, event, **fields)
    assert figure in failed_training_figures(folder)


@pytest.mark.parametrize(
    ("event", "field", "figure", "words"),
    [
        ("train_done", "num_ends_learned", "stopping", "the model ends (not in log) of 4 answers"),
        ("train_done", "num_planned_steps", "steps", "(not in log) steps were to be taken, 8 are in steps.jsonl"),
        ("train_done", "adapter_changed", "adapter weights", "training changes the adapters: not in log"),
        ("train_done", "base_unchanged", "base weights", "as they are: not in log"),
        ("train_done", "saved_adapter_same", "saved adapter", "are those in memory: not in log"),
        ("train_rows", "num_label_tokens", "labels", "(not in log) of 2,957 tokens are learned"),
        ("train_rows", "num_ended_rows", "end of answers", "(not in log) rows end with"),
        ("train_rows", "num_cut_rows", "rows", "rows that were cut: not in log"),
    ],
)
def test_what_the_log_lacks_is_unknown(event: str, field: str, figure: str, words: str, folder: Path):
    """A count or a proof that is missing from an event is named as not in the log: it is neither 0 nor a fault of the training."""
    _with_event(folder, event, **{field: None})
    failures = {each.figure: each for each in judge_training_folder(folder).verdict.failures()}
    assert words in failures[figure].why
    assert failures[figure].remedy == "see load.log: one of its events is damaged"


def test_a_training_whose_ends_were_not_tested_passes(folder: Path):
    """The engine tests no ends of random weights or of GRPO, and writes neither count: nothing is judged."""
    _with_event(folder, "train_done", num_ends_looked_at=None, num_ends_learned=None)
    verdict = judge_training_folder(folder).verdict
    assert verdict.passed
    assert "stopping" not in {each.figure for each in verdict.findings}


def test_a_short_training_need_not_have_learned_to_stop(folder: Path):
    """Over few steps a model that ends no answer is no fault; and where no number of steps was asked for, none is compared."""
    record = json.loads((folder / "run.json").read_text())
    record["training"]["job"]["schedule"]["max_steps"] = None
    _with_record(folder, training=record["training"])
    assert failed_training_figures(folder) == set()
    lines = (folder / "steps.jsonl").read_text().splitlines(keepends=True)
    (folder / "steps.jsonl").write_text("".join(lines[: MIN_STEPS - 1]))
    _with_event(folder, "train_begin", num_steps=MIN_STEPS - 1)
    _with_event(folder, "train_done", num_planned_steps=MIN_STEPS - 1, num_ends_learned=0)
    _with_steps(folder, lambda number, step: None)
    assert failed_training_figures(folder) == set()


def test_more_ends_than_were_tested_fail(folder: Path):
    """A model cannot end more answers than were tested, also where the log does not say how many were."""
    _with_event(folder, "train_done", num_ends_looked_at=None)
    failures = {each.figure: each.why for each in judge_training_folder(folder).verdict.failures()}
    assert failures["stopping"] == "the model ends 4 of (not in log) answers"


@pytest.mark.parametrize(
    ("labels", "message"), [("text", "of plain texts all are"), ("all", "as the template does not tell")]
)
def test_the_output_says_what_is_learned(labels: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    """The output says what is learned, also if it is more than the assistant's tokens."""
    _with_rows(folder, labels=labels)
    assert loadcheck(["check", str(folder)]) == 0
    assert message in capsys.readouterr().out


def test_rows_cut_on_request_are_no_fault(folder: Path):
    """Rows cut with --truncate are no fault, and the verdict says how many."""
    record = json.loads((folder / "run.json").read_text())
    record["training"]["job"]["truncate"] = True
    _with_record(folder, training=record["training"])
    _with_rows(folder, num_cut_rows=3, num_ended_rows=47)
    assert failed_training_figures(folder) == set()


PACKED = {"num_packed_rows": 23, "num_longest_tokens": 70, "num_tokens": 23 * 70, "num_split_rows": 22, "num_left_out_tokens": 9,
          "num_unended_rows": 3, "num_ended_rows": 47}  # fmt: skip


def _packed(folder: Path, **fields: Any) -> None:
    """Turn the run into one with packed rows, two per batch."""
    record = json.loads((folder / "run.json").read_text())
    record["training"]["job"]["settings"]["packing"] = True
    record["training"]["job"]["limit_tokens"] = 70
    _with_record(folder, training=record["training"])
    _with_rows(folder, **{**PACKED, **fields})
    _with_steps(folder, lambda number, step: step.update(longest_tokens=70, num_tokens=140))


def test_packed_rows_pass_with_the_effect_of_packing(folder: Path, capsys: pytest.CaptureFixture[str]):
    """Split examples do not count as cut, nor examples whose end was dropped as having none."""
    _packed(folder)
    assert loadcheck(["check", str(folder)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert (
        "50 examples packed into 23 rows of 70 tokens; examples that go on in the next row: 22; tokens left out, as they fill no row: 9"
        in output
    )
    assert "ends not learned: 3" in output
    assert "8 of 8 steps had full rows alone" in output


def test_packed_steps_of_unknown_size_are_not_full(folder: Path):
    """A step whose tokens are not in steps.jsonl does not count as one with full rows."""
    _packed(folder)
    assert "rows" not in failed_training_figures(folder)
    _with_steps(folder, lambda number, step: step.update(num_tokens=None, longest_tokens=70))
    assert "rows" in failed_training_figures(folder)


@pytest.mark.parametrize(
    ("fields", "figure"),
    [
        ({"num_packed_rows": 0, "num_tokens": 0}, "rows"),
        ({"num_tokens": 23 * 70 - 1}, "rows"),
        ({"num_ended_rows": 46}, "end of answers"),
    ],
)
def test_packed_rows_must_be_full_and_have_ends(fields: dict[str, int], figure: str, folder: Path):
    """Packed rows that are not full or have no ends fail by the counts in the training's event."""
    _packed(folder, **fields)
    assert figure in failed_training_figures(folder)


@pytest.mark.parametrize("odd", [{"longest_tokens": 69}, {"num_tokens": 139}, {"longest_tokens": None}])
def test_a_step_with_short_packed_rows_fails(odd: dict[str, int | None], folder: Path):
    """Packed rows all have the predicted length; a step with another one fails."""
    _packed(folder)
    _with_steps(folder, lambda number, step: step.update(odd) if number == 3 else None)
    assert "rows" in failed_training_figures(folder)


def test_a_loss_that_rises_fails(folder: Path):
    """The loss must fall from the mean of the first quarter to that of the last."""
    _with_steps(folder, lambda number, step: step.update(loss=5 + 0.1 * number))
    assert failed_training_figures(folder) == {"loss"}


@pytest.mark.parametrize(
    ("packed", "rise", "status"),
    [(True, 0.1, "skipped"), (True, 0.7, "fail"), (False, 0.1, "fail"), (True, -0.1, "ok")],
)
def test_a_rise_within_the_noise_of_packed_rows_is_not_judged(packed: bool, rise: float, status: str, folder: Path):
    """With packed rows the quarters have different texts, so a rise within two standard errors of the difference, here 0.57, is not judged."""
    if packed:
        _packed(folder)
    losses = [5, 5.4, 0, 0, 0, 0, 5 + rise, 5.4 + rise]
    _with_steps(folder, lambda number, step: step.update(loss=losses[number]))
    found = {each.figure: each.status.value for each in judge_training_folder(folder).verdict.findings}
    assert found["loss"] == status


def test_a_loss_that_is_not_finite_fails(folder: Path):
    """One loss that is not finite fails, at any step."""
    _with_steps(folder, lambda number, step: step.update(loss=None) if number == 3 else None)
    assert failed_training_figures(folder) == {"losses"}


def test_a_negative_loss_is_valid(folder: Path):
    """GRPO's loss is slightly negative if no reward differs: seen on an H200 as -0.0000."""
    _with_steps(folder, lambda number, step: step.update(loss=-1e-9) if number == 7 else None)
    assert failed_training_figures(folder) == set()


@pytest.mark.parametrize("words", ["Killed", "Segmentation fault (core dumped)", "RuntimeError: x"])
def test_a_death_in_the_log_fails_a_completed_run(words: str, folder: Path):
    """A death in the log fails the run as it does a load, whatever run.json says."""
    with (folder / "load.log").open("a") as log:
        log.write(f"\n{words}\n")
    assert "error" in failed_training_figures(folder)


def test_another_number_of_steps_fails(folder: Path):
    """The number of planned steps must be that of --max-steps."""
    record = json.loads((folder / "run.json").read_text())
    record["training"]["job"]["schedule"]["max_steps"] = 9
    _with_record(folder, training=record["training"])
    assert failed_training_figures(folder) == {"planned steps"}


def test_a_missing_step_fails(folder: Path):
    """Each step must be in steps.jsonl once, in order."""
    lines = (folder / "steps.jsonl").read_text().splitlines(keepends=True)
    (folder / "steps.jsonl").write_text("".join(lines[:2] + lines[3:]))
    assert "steps" in failed_training_figures(folder)


def test_with_few_steps_the_loss_is_not_judged(folder: Path):
    """Three losses are too few to judge, but must be finite."""
    lines = (folder / "steps.jsonl").read_text().splitlines(keepends=True)
    (folder / "steps.jsonl").write_text("".join(lines[:3]))
    _with_steps(folder, lambda number, step: None)
    _with_event(folder, "train_done", num_planned_steps=3)
    _with_event(folder, "train_begin", num_steps=3)
    record = json.loads((folder / "run.json").read_text())
    record["training"]["job"]["schedule"]["max_steps"] = 3
    _with_record(folder, training=record["training"])
    verdict = judge_training_folder(folder).verdict
    assert verdict.passed
    assert "loss" in {finding.figure for finding in verdict.findings if finding.status.value == "skipped"}


def test_an_interrupted_training_can_be_resumed(folder: Path, capsys: pytest.CaptureFixture[str]):
    """An interrupted training suggests --resume, not a load."""
    _with_record(folder, outcome="interrupted", exit_code=None, reason="the user ended it")
    assert loadcheck(["check", str(folder)]) == 1
    assert "Fix: go on from its newest checkpoint with `loadcheck train --resume RUN`" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_killed_training_fails(folder: Path):
    """A killed training fails."""
    _with_record(folder, outcome="killed", exit_code=-9, reason="the loading process was ended by SIGKILL")
    assert "process" in failed_training_figures(folder)


def test_a_folder_without_a_log_fails(folder: Path):
    """A folder without a log fails, as for a load."""
    (folder / "load.log").write_text("")
    assert failed_training_figures(folder) == {"log"}


def test_an_invalid_step_is_bad_input(folder: Path):
    """An invalid line of steps.jsonl is bad input with its number; an incomplete last line is ignored."""
    path = folder / "steps.jsonl"
    path.write_text(path.read_text() + '{"step": 9')
    assert len(read_steps(path)) == 8
    path.write_text('{"step": 0}\n')
    with pytest.raises(BadInput, match=r"steps.jsonl:1: not a step"):
        read_steps(path)


@pytest.mark.parametrize(
    ("even", "share", "passes"),
    [(True, 1.0, True), (True, 0.999, False), (False, 0.99, True), (False, 0.97, False), (False, 1.001, False)],
)
def test_with_even_rows_the_allocated_peak_must_match_to_the_byte(
    even: bool, share: float, passes: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """On a GPU the allocated peak must match to the byte. With uneven rows it may be lower (a smaller largest batch), never higher."""
    predicted = 7_000_000_000
    monkeypatch.setattr("loadcheck.training.predict_peaks", lambda case, settings: Peaks(allocated_bytes=predicted))
    _with_rows(folder, **({"num_shortest_tokens": 70} if even else {}))
    _with_steps(folder, lambda number, step: step.update(peak_allocated_bytes=int(share * predicted)))
    assert (failed_training_figures(folder) == set()) == passes


@pytest.mark.parametrize(
    ("num_tokens", "share", "passes"),
    [(140, 1.0, True), (140, 0.96, False), (70, 0.96, True), (70, 1.0, True), (70, 0.94, False), (70, 1.01, False)],
)
def test_without_a_second_full_step_the_peak_reaches_the_firsts(
    num_tokens: int, share: float, passes: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """With few packed rows no full batch meets the optimizer's states. The peak must still reach the first step's."""
    predicted = 7_000_000_000
    peaks = Peaks(allocated_bytes=predicted, first_step_bytes=int(0.95 * predicted))
    monkeypatch.setattr("loadcheck.training.predict_peaks", lambda case, settings: peaks)
    _packed(folder)
    _with_steps(
        folder,
        lambda number, step: step.update(
            peak_allocated_bytes=int(share * predicted), num_tokens=num_tokens if number else 140, longest_tokens=70
        ),
    )
    _with_rows(folder, num_shortest_tokens=70)
    assert (failed_training_figures(folder) == set()) == passes


@pytest.mark.parametrize(
    ("even", "share", "passes"),
    [
        (True, 1.009, True),
        (True, 1.011, False),
        (True, 0.991, True),
        (True, 0.989, False),
        (False, 0.975, True),
        (False, 0.96, False),
    ],
)
def test_the_cards_peak_has_a_band(
    even: bool, share: float, passes: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """The card's peak must be within 1 % of the prediction. If rows differ in length it may be lower."""
    predicted = 7_000_000_000
    _with_rows(folder, **({"num_shortest_tokens": 70} if even else {}))
    monkeypatch.setattr("loadcheck.training.predict_peaks", lambda case, settings: Peaks(device_bytes=predicted))
    _with_steps(folder, lambda number, step: step.update(device_used_bytes=int(share * predicted)))
    assert (failed_training_figures(folder) == set()) == passes


@pytest.mark.parametrize(
    ("measured", "num_label_tokens", "passes"),
    [
        (7_262_112_768, 4_166, True),
        (7_262_123_008, 4_166, True),
        (7_262_112_768, 6_144, False),
        (7_262_090_000, 4_166, False),
        (7_262_123_520, 4_166, False),
    ],
)
def test_tokens_without_labels_take_eight_bytes_less(
    measured: int, num_label_tokens: int, passes: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """8B, packed, 2 × 2048 of which the assistant's tokens are learned: 10,240 bytes below (H200, driver 580.159.04, 2026-11-29, commit 1a506e1)."""
    peaks = Peaks(allocated_bytes=7_262_123_008)
    monkeypatch.setattr("loadcheck.training.predict_peaks", lambda case, settings: peaks)
    sizes = {"num_shortest_tokens": 2048, "num_longest_tokens": 2048, "num_tokens": 6144}
    _with_event(folder, "train_rows", num_label_tokens=num_label_tokens, **sizes)
    job = json.loads((folder / "run.json").read_text())["training"]["job"]
    job["settings"] |= {"per_device_train_batch_size": 2, "train_seq_length": 2048}
    _with_record(folder, training={**json.loads((folder / "run.json").read_text())["training"], "job": job})
    full = {"peak_allocated_bytes": measured, "num_tokens": 4096, "longest_tokens": 2048}
    _with_steps(folder, lambda number, step: step.update(full))
    assert ("train_peak_allocated_gib" not in failed_training_figures(folder)) == passes


@pytest.mark.parametrize(("resumed", "more", "passes"), [(True, 84, True), (True, 85, False), (False, 1, False)])
def test_a_resumed_training_has_no_paged_states(
    resumed: bool, more: int, passes: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a resumed training the optimizer's states are plain tensors, not paged."""
    peaks = Peaks(allocated_bytes=7_000_000_000, paged_bytes=84_000_000)
    monkeypatch.setattr("loadcheck.training.predict_peaks", lambda case, settings: peaks)
    training = json.loads((folder / "run.json").read_text())["training"]
    training["job"]["resume_from"] = "checkpoint-4" if resumed else None
    _with_record(folder, training=training)
    _with_event(folder, "train_rows", num_shortest_tokens=70)
    _with_steps(folder, lambda number, step: step.update(peak_allocated_bytes=7_000_000_000 + more * 1_000_000))
    assert ("train_peak_allocated_gib" not in failed_training_figures(folder)) == passes


@pytest.mark.parametrize(("used", "passes"), [(7_500_000_000, True), (6_900_000_000, True), (6_800_000_000, False)])
def test_on_a_full_card_torch_releases_gaps(used: int, passes: bool, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """On a full card torch releases gaps, so the peak is between the prediction with and without them."""
    peaks = Peaks(device_bytes=8_000_000_000, least_device_bytes=6_950_000_000)
    _with_rows(folder, num_shortest_tokens=70)
    monkeypatch.setattr("loadcheck.training.predict_peaks", lambda case, settings: peaks)
    _with_steps(folder, lambda number, step: step.update(device_used_bytes=used))
    assert (failed_training_figures(folder) == set()) == passes


@pytest.mark.parametrize(("share", "fails"), [(0.5, set()), (1.02, {"train_peak_device_gib"})])
def test_a_training_that_ended_early_may_have_a_lower_peak(
    share: float, fails: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """A training that ran out of memory or was killed may have lower peaks, never higher ones."""
    predicted = 7_000_000_000
    monkeypatch.setattr("loadcheck.training.predict_peaks", lambda case, settings: Peaks(device_bytes=predicted))
    _with_record(folder, outcome="killed", reason="the loading process was killed")
    _with_steps(folder, lambda number, step: step.update(device_used_bytes=int(share * predicted)))
    assert failed_training_figures(folder) - {"process"} == fails


def test_the_exit_code_is_the_childs_for_bad_input(folder: Path):
    """Exit codes 2 and 3 of the child are kept; otherwise the verdict decides."""
    trained: Trained = judge_training_folder(folder)
    assert trained.exit_code == 0
    trained.record.exit_code = 3
    assert trained.exit_code == 3
