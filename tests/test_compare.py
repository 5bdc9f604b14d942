"""`loadcheck compare`: how runs, logs and predictions differ, and by how much each change moved each figure."""

import json
import re
import shutil
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest

from loadcheck import cli
from loadcheck.comparing import ROUNDING, Comparison, compare, read_subject
from loadcheck.errors import BadInput
from loadcheck.figures import Kind
from loadcheck.plan import make_plan
from loadcheck.predict.card import card_from_table
from loadcheck.specs.profile import load_profile
from loadcheck.units import GIB, MIB
from tests import fake_engine
from tests.conftest import RUNS, thinned

GOLDEN = sorted(path for path in RUNS.glob("h*/*") if path.is_dir()) + sorted(RUNS.glob("*.txt"))
REFERENCE, TRAINED = RUNS / "h200/reference", RUNS / "h200/reference-train3"
subject = cache(read_subject)


def _compared(a: Path, b: Path) -> Comparison:
    return compare(subject(a), subject(b))


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.run(["compare", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_differences_between_golden_runs_are_explained():
    """For each pair of golden runs, each moved figure has a change; the remainder is the log's rounding, a band, or a second attempt."""
    for a, b in thinned([*permutations(GOLDEN, 2)]):
        found = _compared(a, b)
        assert found.unexplained == (), (a, b)
        for moved in found.moved:
            assert moved.parts or subject(a).again or subject(b).again, (a, b, moved.spec.name)
            assert all(part.terms or moved.spec.kind is not Kind.MEMORY for part in moved.parts)
            if moved.why == ROUNDING:
                room = moved.a.tolerance + moved.b.tolerance
                assert abs(moved.rest) <= room + 1e-6 * max(1, abs(moved.amount)), (a, b, moved.spec.name)


def test_terms_sum_to_their_part_and_negate_in_reverse():
    """The bytes of a part are the sum of its terms, and comparing B with A negates them."""
    found, back = (
        _compared(REFERENCE, RUNS / "h100/mistral-7b-2048"),
        _compared(RUNS / "h100/mistral-7b-2048", REFERENCE),
    )
    for moved, returned in zip(found.moved, back.moved, strict=True):
        assert moved.amount == -returned.amount
        for part in moved.parts:
            assert part.amount == pytest.approx(sum(part.terms.values()), abs=4)


def test_a_load_is_the_same_as_itself(capsys: pytest.CaptureFixture[str]):
    """A load is the same as itself: exit code 0, and the number of compared figures."""
    code, out = _run(capsys, REFERENCE, REFERENCE)
    assert (code, out.splitlines()[-1]) == (0, "SAME: none of 25 figures moved")


def test_training_explains_the_peak(capsys: pytest.CaptureFixture[str]):
    """Two runs that differ by three training steps differ in one figure, by the bytes of training."""
    code, out = _run(capsys, REFERENCE, TRAINED, "--json")
    document = json.loads(out)
    (moved,) = document["comparisons"][0]["moved"]
    assert (code, document["same"], moved["figure"]) == (1, False, "peak_device_gib")
    assert moved["parts"] == [
        {"change": "training.steps 0 → 3", "difference": 1826619392, "terms": {"training": 1826619392}}
    ]
    assert moved["explained"] and "torch's cache" in moved["why"]


def test_a_rank_is_explained_by_the_slots_to_the_byte(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Two predictions, one with twice the largest rank: only the slots change, and what must hold them."""
    for rank in ("32", "64"):
        flags = ["--gpu", "L4", "--max-lora-rank", rank, "--lora-r", "16", "--ram-available-bytes", "32GiB"]
        cli.run(["predict", *flags, "--json"])
        (tmp_path / f"{rank}.json").write_text(capsys.readouterr().out)
    found = compare(read_subject(tmp_path / "32.json"), read_subject(tmp_path / "64.json"))
    (slots,) = [each for each in found.moved if each.spec.name == "lora_slots_gib"]
    assert [(part.change, part.amount) for part in slots.parts] == [("max_lora_rank 32 → 64", slots.amount)]
    assert slots.amount == 184_549_376 + 196_608  # of the linears, and of the vocabulary
    assert found.unexplained == () and slots.rest == 0


def test_ram_is_told_by_the_swap_space_that_it_gives(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A prediction states its swap space and not the RAM behind it, so a change of RAM is named by the swap space, to the byte."""
    for ram in ("12GiB", "60GiB"):
        assert cli.run(["predict", "--gpu", "T4", "--ram-available-bytes", ram, "--json"]) == 0
        (tmp_path / f"{ram}.json").write_text(capsys.readouterr().out)
    found = compare(read_subject(tmp_path / "12GiB.json"), read_subject(tmp_path / "60GiB.json"))
    change = "RAM available, enough for 2.00 GiB → 6.00 GiB of swap space"
    parts = {each.spec.name: [(part.change, part.amount) for part in each.parts] for each in found.moved}
    assert parts == {"swap_gib": [(change, 4 * GIB)], "num_cpu_blocks": [(change, 2048)]}
    assert not found.unexplained


def test_a_run_is_compared_with_its_prediction(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A run equals the prediction for its own card and settings, within the bands."""
    machine = json.loads((REFERENCE / "run.json").read_text())["machine"]
    gpu = machine["gpu"]
    cli.run(["predict", "--gpu", "H200", "--gpu-total-bytes", str(gpu["total_bytes"]), "--gpu-free-bytes", str(gpu["free_bytes"]),
             "--ram-available-bytes", str(machine["ram_available_bytes"]), "--json"])  # fmt: skip
    prediction = tmp_path / "prediction.json"
    prediction.write_text(capsys.readouterr().out)
    assert compare(read_subject(prediction), subject(REFERENCE)).same


def test_a_figure_that_no_setting_moved_is_unexplained(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Slightly larger weights that no setting explains are reported as unexplained."""
    other = shutil.copytree(REFERENCE, tmp_path / "other")
    log = (other / "load.log").read_text()
    (other / "load.log").write_text(log.replace("weights took 5.3541", "weights took 5.3641"))
    code, out = _run(capsys, REFERENCE, other)
    assert code == 1
    assert "NOT EXPLAINED +10,737,418 bytes: not what the settings of " in out
    assert out.splitlines()[-1] == "DIFFERENT: 1 of 25 figures moved, not explained: weights_gib"


def test_a_load_that_died_is_not_the_same(capsys: pytest.CaptureFixture[str]):
    """A load that died is different, even if all figures that both printed are equal."""
    code, out = _run(capsys, REFERENCE, RUNS / "h200/killed")
    assert (code, out.splitlines()[-1]) == (1, "DIFFERENT: none of 8 figures moved; A completed, B killed")


def test_each_load_is_compared_with_the_first(capsys: pytest.CaptureFixture[str]):
    """Each further load is compared with the first; the exit code is 0 only if all are the same."""
    code, out = _run(capsys, REFERENCE, REFERENCE, TRAINED, "--json")
    document = json.loads(out)
    assert [each["same"] for each in document["comparisons"]] == [True, False]
    assert (code, document["same"]) == (1, False)


def test_versions_and_machine_are_listed_without_effect(tmp_path: Path):
    """A dependency that moved no figure is listed, but does not make the loads different."""
    other = shutil.copytree(REFERENCE, tmp_path / "other")
    log = (other / "load.log").read_text()
    (other / "load.log").write_text(log.replace('"peft": "0.14.0"', '"peft": "0.14.1"').replace("580.159.04", "570.1"))
    found = compare(subject(REFERENCE), read_subject(other))
    assert found.same
    assert [(each.name, each.a, each.b) for each in found.versions] == [("peft", "0.14.0", "0.14.1")]
    assert [each.name for each in found.machine] == ["driver"]


@cache
def _repeated_log(seed: int) -> str:
    """The reference's log with random values within the bands, and the figures that follow from them."""
    chance = Random(seed)
    known = card_from_table("T4")
    assert known.non_torch_bytes is not None and known.graph_node_bytes is not None
    card = replace(known, name="Tesla T4", non_torch_bytes=known.non_torch_bytes + chance.randint(-48, 51) * MIB,
                   graph_node_bytes=round(known.graph_node_bytes * chance.uniform(0.9, 1.1)))  # fmt: skip
    plan = make_plan(load_profile("llama31-8b-instruct-4bit", {"weights": "synthetic"}))
    text = _printed(plan, card)
    spread = chance.uniform(0.985, 1.015)
    return re.sub(
        r'"peak_device_bytes": (\d+)', lambda found: f'"peak_device_bytes": {round(int(found[1]) * spread)}', text
    )


def _printed(plan: Any, card: Any) -> str:
    import io
    from contextlib import redirect_stdout

    with redirect_stdout(io.StringIO()) as out:
        assert fake_engine.load(plan, card, 11 * GIB) == 0
    return out.getvalue()


@pytest.mark.parametrize("seed", thinned(range(100)))
def test_repeats_of_a_load_are_the_same(seed: int, tmp_path: Path):
    """Repeats with non_torch, graphs and peak anywhere in their bands, and the cache that follows, are the same."""
    for number, text in enumerate((_repeated_log(-1), _repeated_log(seed))):
        (tmp_path / f"{number}.log").write_text(text)
    found = compare(*(read_subject(tmp_path / f"{number}.log") for number in range(2)))
    assert found.same, [(each.spec.name, each.a.show(), each.b.show(), each.parts) for each in found.moved]


@pytest.mark.parametrize("text", ["{", "[]", '{"fits": true}', '{"fits": 1, "figures": {"weights_gib": "x"}, "settings": {}}',
                                  '{"fits": 1, "figures": {}, "settings": {}, "gpu": null, "profile": {}, "model": 3}'])  # fmt: skip
def test_an_unknown_file_is_refused(text: str, tmp_path: Path):
    """A file that is no run, log or prediction is BadInput on one line, whatever a .json holds."""
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadInput):
        read_subject(path)


def test_one_load_is_refused(capsys: pytest.CaptureFixture[str]):
    """One load alone is refused, with what to do instead."""
    assert cli.run(["compare", str(REFERENCE)]) == 2
    assert "one load has nothing to compare with; name two or more" in capsys.readouterr().err


def test_a_run_equals_its_log(capsys: pytest.CaptureFixture[str]):
    """A run and its own log are the same."""
    code, out = _run(capsys, REFERENCE, REFERENCE / "load.log")
    assert (code, out.splitlines()[-1]) == (0, "SAME: none of 25 figures moved")
    assert "load.log: log, completed, " in out


def test_coupled_settings_are_separate_changes():
    """Lowering a rank together with the largest rank gives each its own part, although one cannot change without the other."""
    found = _compared(REFERENCE, RUNS / "h100/8192-tokens-rank16")
    changes = {part.change for moved in found.moved for part in moved.parts}
    assert {"adapters.r 32 → 16", "max_lora_rank 32 → 16"} <= changes and "what else differs" not in changes


KEPT = Path(__file__).parent / "training" / "run"


def _training(folder: Path, peak_bytes: int, batch: int = 2) -> Path:
    """The kept training with another peak and another batch size."""
    run = shutil.copytree(KEPT, folder)
    (run / "load.log").write_text(
        re.sub(
            r'"train_peak_host_bytes": \d+', f'"train_peak_host_bytes": {peak_bytes}', (run / "load.log").read_text()
        )
    )
    for name in ("run.json", "train.json"):
        text = (run / name).read_text()
        (run / name).write_text(re.sub(r'("per_device_train_batch_size": )\d+', rf"\g<1>{batch}", text))
    return Path(run)


def test_a_training_is_compared_by_its_peak(tmp_path: Path):
    """A peak within the band is the same; with another batch size it moved, by that batch's bytes."""
    measured = subject(KEPT).readings["train_peak_host_bytes"]
    again = read_subject(_training(tmp_path / "again", int(measured.value) + 10 * MIB))
    assert compare(subject(KEPT), again).same
    found = compare(
        subject(KEPT), read_subject(_training(tmp_path / "other", int(measured.value) - 160 * MIB, batch=1))
    )
    assert [each.spec.name for each in found.moved] == ["train_peak_host_gib"]
    assert [part.change for part in found.moved[0].parts] == ["per_device_train_batch_size 2 → 1"]
    assert found.moved[0].explained and ("per_device_train_batch_size", 2, 1) in {
        (each.name, each.a, each.b) for each in found.settings
    }


def test_a_training_is_not_a_load(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A training and a load are different, even if all shared figures are equal."""
    load = Path(shutil.copytree(KEPT, tmp_path / "load"))
    record = json.loads((load / "run.json").read_text())
    (load / "run.json").write_text(json.dumps(record | {"training": None}))
    code, out = _run(capsys, KEPT, load)
    assert code == 1 and out.splitlines()[-1].endswith("; one is a training, the other is not")


def test_predicted_trainings_are_compared_term_by_term(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """With twice the row length, each of the three peaks moves by the terms that grew, which sum to the byte."""
    for length in ("256", "512"):
        flags = [
            "--gpu",
            "T4",
            "--model",
            "smollm2-135m-instruct",
            "--no-fast-inference",
            "--method",
            "sft",
            "--ram-available-bytes",
            "32GiB",
        ]
        assert cli.run(["predict", *flags, "--train-seq-length", length, "--json"]) == 0
        (tmp_path / f"{length}.json").write_text(capsys.readouterr().out)
    found = compare(read_subject(tmp_path / "256.json"), read_subject(tmp_path / "512.json"))
    assert {each.spec.name for each in found.moved} == {
        "train_peak_allocated_gib", "train_peak_device_gib", "train_peak_host_gib"
    }  # fmt: skip
    for moved in found.moved:
        (part,) = moved.parts
        assert (part.change, part.amount, moved.rest) == ("train_seq_length 256 → 512", moved.amount, 0)
        assert sum(part.terms.values()) == pytest.approx(moved.amount, abs=4)
