"""The settings that fit, best first."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli
from loadcheck.predict import card_from_table
from loadcheck.predict.fit import GOALS, Fit, Goal
from loadcheck.predict.search import last_true
from loadcheck.specs.files import changed
from loadcheck.specs.model import find_model
from loadcheck.specs.profile import load_profile
from loadcheck.specs.settings import flags
from loadcheck.stacks.unsloth_vllm.bands import KV_SLACK_BYTES, NON_TORCH_SLACK_BYTES, PEAK_SLACK
from loadcheck.units import GIB, MIB
from tests.cases import fit, known_config
from tests.cases import search as search_of

PROFILE = load_profile("llama31-8b-instruct-4bit")
RAM = 11 * GIB


def _fit(goal: Goal, gpu: str = "T4") -> Fit:
    return fit(known_config(), PROFILE, card_from_table(gpu), RAM, goal)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("gpu", ["T4", "H100"])
def test_every_proposal_fits(goal: Goal, gpu: str):
    """A proposal is predicted to load, and leaves memory on the card."""
    found = _fit(goal, gpu)
    assert found.proposals
    for proposal in found.proposals:
        assert proposal.prediction.fits
        assert proposal.headroom_bytes > 0


@pytest.mark.parametrize("gpu", ["T4", "L4", "RTX3090"])
@pytest.mark.parametrize("model", ["llama-3.1-8b-instruct", "llama-3.2-3b-instruct"])
def test_a_proposal_holds_at_the_top_of_the_band(gpu: str, model: str):
    """With non_torch at the top of its band, a proposal still holds a whole request."""
    card, config = card_from_table(gpu), known_config(model)
    off = KV_SLACK_BYTES if card.non_torch_bytes is not None else NON_TORCH_SLACK_BYTES
    worse = dataclasses.replace(card, non_torch_bytes=card.assumed_non_torch_bytes + off)
    found = fit(config, changed(PROFILE, {"model": model, "weights": "synthetic"}), card, RAM, "length")
    assert found.proposals
    for proposal in found.proposals:
        assert search_of(config, worse, RAM, PROFILE).predict(proposal.profile).fits


def test_the_best_length_is_the_longest():
    """256 tokens more than the best proposal do not fit at any utilization."""
    best = _fit("length").proposals[0].profile
    search = search_of(known_config(), card_from_table("T4"), RAM, PROFILE)
    longer = changed(best, {"max_seq_length": best.max_seq_length + 256})
    assert search.highest_utilization(best) is not None
    assert search.highest_utilization(longer) is None


def test_goals_order_the_proposals():
    """By length, by requests at once, or by memory left: the first proposal has the most."""
    length, concurrency, training = (_fit(goal).proposals for goal in GOALS)
    assert length[0].profile.max_seq_length == max(each.profile.max_seq_length for each in length)
    assert concurrency[0].prediction.figures.max_num_seqs == max(
        each.prediction.figures.max_num_seqs or 0 for each in concurrency
    )
    assert training[0].headroom_bytes == max(each.headroom_bytes for each in training)
    assert training[0].headroom_bytes > length[0].headroom_bytes


def test_the_highest_utilization_leaves_the_peaks_band():
    """The highest utilization leaves as much as the peak's band, so that the proposal loads."""
    card = card_from_table("T4")
    proposal = search_of(known_config(), card, RAM, PROFILE).highest_utilization(PROFILE)
    assert proposal is not None
    assert proposal.headroom_bytes >= PEAK_SLACK * card.total_bytes


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("gpu", ["T4", "H100"])
def test_every_proposal_leaves_room_for_a_full_batch(goal: Goal, gpu: str):
    """The card holds a full batch with its whole activation peak, and the peak's band on top."""
    card = card_from_table(gpu)
    for proposal in _fit(goal, gpu).proposals:
        figures = proposal.prediction.figures
        assert figures.peak_device_bytes is not None and figures.activation_peak_bytes is not None
        resident = (
            figures.peak_device_bytes - 64 * MIB
        )  # less what the activation peak counts too, such as cuBLAS's workspace
        assert resident + figures.activation_peak_bytes <= (1 - PEAK_SLACK) * card.total_bytes
        assert proposal.headroom_bytes == card.total_bytes - proposal.prediction.memory.largest_bytes
        assert not proposal.prediction.warnings


def test_each_setting_says_what_it_changes():
    """A smaller rank and fewer targets lower the peak; a smaller utilization takes its saving from the KV cache."""
    knobs = {knob.change: knob for knob in _fit("concurrency").knobs}
    assert knobs["rank 32 → 16"].peak_bytes < 0
    assert knobs["no q, k, v, o adapters"].peak_bytes < 0
    assert knobs["gpu_memory_utilization − 0.05"].kv_cache_bytes < 0


def test_a_note_names_a_step_of_sequences():
    """A card whose KV estimate is near 40 GiB gets a note that it flips between 320 and 226 sequences."""
    edges = "\n".join(_fit("length", "H100").edges)
    assert "up to 40 GiB it runs 320 sequences, above it 226" in edges


def test_if_nothing_fits_a_bigger_card_is_suggested():
    """16 bits do not fit a T4 at all; a bigger card is suggested."""
    found = fit(known_config(quantization="16bit"), PROFILE, card_from_table("T4"), RAM)
    assert not found.proposals
    assert any("a bigger card: H100" in way for way in found.would_fit)


@pytest.mark.parametrize(("bound", "answer"), [(0, None), (1, 1), (7, 7), (10, 10), (99, 10)])
def test_bisection(bound: int, answer: int | None):
    """The largest number up to the limit for which the condition holds, or none."""
    assert last_true(lambda n: n <= bound, 1, 10) == answer


def test_predict_accepts_the_flags_of_a_proposal(capsys: pytest.CaptureFixture[str]):
    """`predict` accepts the flags that `fit` prints, and says that it fits."""
    best = _fit("length").proposals[0]
    code = cli.run(["predict", "--gpu", "T4", "--ram-available-bytes", str(RAM), *flags(best.profile, PROFILE).split()])
    assert code == 0
    assert "FITS" in capsys.readouterr().out


GIVEN = [
    ["--gpu", "H100", "--model", "phi-4", "--load-in-16bit", "--enforce-eager", "--train-steps", "5", "--lora-dropout", "0.1"],
    ["--gpu", "T4", "--max-lora-rank", "16", "--lora-alpha", "8", "--target-modules", "q_proj,v_proj"],
    ["--gpu", "T4", "--for", "concurrency", "--max-seq-length", "4096"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", GIVEN)
def test_the_printed_command_is_complete(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """The printed command is the proposed load, including the given flags."""
    ram = ["--ram-available-bytes", str(RAM)]
    assert cli.run(["fit", "--json", *arguments, *ram]) == 0
    best = json.loads(capsys.readouterr().out)["proposals"][0]
    program, command, *pasted = shlex.split(best["command"])
    assert (program, command, pasted[0]) == ("loadcheck", "load", "llama31-8b-instruct-4bit")
    assert cli.run(["predict", "--json", *pasted, *arguments[:2], *ram]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == best["figures"]


def test_the_command_is_quoted_for_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A model folder with a space in its name stays one argument, and its weights are the folder's."""
    folder = tmp_path / "my model"
    folder.mkdir()
    model = find_model("llama-3.2-1b-instruct")
    assert model is not None
    (folder / "config.json").write_text(json.dumps(model.config))
    assert cli.run(["fit", "--gpu", "T4", "--model", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"loadcheck load llama31-8b-instruct-4bit --model '{folder}' --weights local --max-seq-length" in out


@pytest.mark.parametrize("goal", GOALS)
def test_given_settings_are_not_varied(goal: Goal):
    """A given length, utilization or conservativeness is not varied, whatever the goal."""
    for key, value in (("max_seq_length", 1024), ("gpu_memory_utilization", 0.7), ("conservativeness", 0.3)):
        asked = changed(PROFILE, {key: value})
        found = fit(known_config(), asked, card_from_table("T4"), RAM, goal, frozenset({key}))
        assert found.proposals
        assert {getattr(each.profile, key) for each in found.proposals} == {value}


def test_with_a_given_length_most_requests_come_first():
    """For the longest requests with a given length, proposals are ordered by how many run at once."""
    asked = changed(PROFILE, {"max_seq_length": 4096})
    found = fit(known_config(), asked, card_from_table("H100"), RAM, "length", frozenset({"max_seq_length"}))
    sequences = [each.prediction.figures.max_num_seqs or 0 for each in found.proposals]
    served = [
        min(each.prediction.figures.max_concurrency or 0, n) for each, n in zip(found.proposals, sequences, strict=True)
    ]
    assert served == sorted(served, reverse=True) and len(set(served)) > 1


def _would_fit(**changes: Any) -> str:
    card = changes.pop("card", card_from_table("T4"))
    config, goal = changes.pop("config", known_config()), changes.pop("goal", "length")
    found = fit(config, changed(PROFILE, changes), card, RAM, goal, frozenset(changes))
    assert not found.proposals
    return "\n".join(found.would_fit)


def test_4_bit_is_proposed_if_16_bits_do_not_fit():
    """If 16 bits do not fit, the same model in 4-bit is proposed, with all flags."""
    proposal = _would_fit(config=known_config(quantization="16bit"), load_in_4bit=False)
    assert proposal.startswith("in 4-bit: --max-seq-length") and proposal.splitlines()[0].endswith("--load-in-4bit")


def test_the_longest_length_is_proposed_if_the_given_does_not_fit():
    """If a given length does not fit, the longest that does is proposed with its flags."""
    proposal = _would_fit(goal="concurrency", max_seq_length=60_000)
    longest = _fit("length").proposals[0].profile.max_seq_length
    assert f"requests no longer than fit: --max-seq-length {longest} " in proposal


def test_another_utilization_is_proposed_if_the_given_cannot_work():
    """If a given utilization cannot work, one that works is proposed."""
    assert _would_fit(gpu_memory_utilization=0.2).startswith("other settings than those given: --max-seq-length")


def test_a_suggested_card_is_really_bigger():
    """A T4 in use is told of an empty T4, not of a bigger card called T4; an H100 is not told of a T4."""
    t4, h100 = card_from_table("T4"), card_from_table("H100")
    proposal = _would_fit(card=dataclasses.replace(t4, name="Tesla T4", free_bytes=5_000_000_000)).splitlines()
    assert "T4 with nothing else on it" in proposal and "a bigger card: T4" not in proposal
    proposal = _would_fit(card=dataclasses.replace(h100, name="H100", free_bytes=5_000_000_000)).splitlines()
    assert proposal == ["H100 with nothing else on it", "a bigger card: H200"]


def test_the_table_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """At 80 columns the table's heads are whole words on one line."""
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(["fit", "--gpu", "H200", "--for", "concurrency"]) == 0
    heads = ["length", "utilization", "sequences", "concurrency", "KV", "GiB", "peak", "full", "batch", "left"]
    assert heads in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_fit_exit_codes(capsys: pytest.CaptureFixture[str]):
    """Exit code 0 with a proposal; 1 if nothing fits, with what would: flags to append, or another card."""
    assert cli.run(["fit", "--gpu", "T4"]) == 0
    assert "  loadcheck load llama31-8b-instruct-4bit --max-seq-length" in capsys.readouterr().out
    assert cli.run(["fit", "--gpu", "T4", "--load-in-16bit"]) == 1
    out = capsys.readouterr().out
    assert "NOTHING FITS" in out and "What would fit, with the flags to append to yours:\n  in 4-bit: --max" in out


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("gpu", ["T4", "L4", "H100"])
def test_the_lowest_utilization_of_the_same_load_is_proposed(goal: Goal, gpu: str):
    """Above its cap unsloth takes no more memory, so the lowest utilization with the same figures is proposed."""
    search = search_of(known_config(), card_from_table(gpu), RAM, PROFILE)
    for proposal in _fit(goal, gpu).proposals:
        hundredths = round(proposal.profile.gpu_memory_utilization * 100)
        for fewer in range(1, min(hundredths, 4)):
            lower = changed(proposal.profile, {"gpu_memory_utilization": (hundredths - fewer) / 100})
            assert search.predict(lower).figures != proposal.prediction.figures


def test_a_utilization_above_the_cap_is_not_proposed():
    """The longest length on an H100 is held at 0.74 as at 0.99: what unsloth keeps for training caps both."""
    best = _fit("length", "H100").proposals[0]
    assert best.profile.gpu_memory_utilization < 0.8
    highest = changed(best.profile, {"gpu_memory_utilization": 0.99})
    assert (
        search_of(known_config(), card_from_table("H100"), RAM, PROFILE).predict(highest).figures
        == best.prediction.figures
    )


def test_a_given_utilization_is_not_lowered():
    """A given utilization is not lowered."""
    asked = changed(PROFILE, {"gpu_memory_utilization": 0.99})
    search = search_of(known_config(), card_from_table("H100"), RAM, PROFILE, frozenset({"gpu_memory_utilization"}))
    proposal = search.propose(changed(asked, {"max_seq_length": 131_072}))
    assert proposal is not None and search.same_at_lower_utilization(proposal) is proposal
