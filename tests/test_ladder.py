"""The ladder: the changes that fix a load short of memory, cheapest first, and what each rung gains."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadcheck.predict import Card, card_from_table
from loadcheck.predict.ladder import Ladder, Step, need_after
from loadcheck.predict.search import at_utilization
from loadcheck.specs.files import changed
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.specs.shape import MLP_LINEARS
from loadcheck.stacks.unsloth_vllm.bands import KV_SLACK_BYTES
from loadcheck.stacks.unsloth_vllm.margin import slack
from loadcheck.stacks.unsloth_vllm.plan import kv_estimate_needed, unsloth_plan
from loadcheck.stacks.unsloth_vllm.rungs import RUNGS
from loadcheck.units import GIB, MIB
from tests.cases import known_config
from tests.cases import search as search_of

CONFIG = known_config()
RAM = 11 * GIB
T4 = card_from_table("T4")


def _profile(**overrides: Any) -> Profile:
    return load_profile("llama31-8b-instruct-4bit", {key.replace("__", "."): value for key, value in overrides.items()})


def _ladder(profile: Profile, card: Card = T4, config: Any = CONFIG) -> Ladder:
    return Ladder(search_of(config, card, RAM, profile), profile)


def _climb(card: Card = T4, **overrides: Any) -> tuple[Ladder, list[Step]]:
    ladder = _ladder(_profile(**overrides), card)
    return ladder, list(ladder.climb())


TIGHT: list[tuple[dict[str, Any], Any]] = [  # settings that do not fit a T4, and what they are short of first
    ({"gpu_memory_utilization": 0.4}, "kv_estimate"),
    ({"max_seq_length": 32768}, "kv_estimate"),
    ({"max_seq_length": 128}, "batch"),
    ({"gpu_memory_utilization": 0.99}, "peak"),
    ({"max_seq_length": 32768, "gpu_memory_utilization": 0.95, "max_lora_rank": 128, "adapters__r": 128,
      "training__steps": 3}, "kv_estimate"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "short"), TIGHT)
def test_the_ladder_ends_at_the_first_step_that_fits(overrides: dict[str, Any], short: str):
    """Steps follow the order of the rungs. Only the last one fits, and it leaves the prediction's uncertainty as slack."""
    ladder, steps = _climb(**overrides)
    assert ladder.base.short == short
    names = [rung.name for rung in RUNGS]
    assert [step.rung.name for step in steps] == names[: len(steps)]
    assert [step.fits for step in steps] == [False] * (len(steps) - 1) + [True]
    assert all(amount >= slack(T4)[what] for what, amount in steps[-1].state.left.items())


@pytest.mark.parametrize(("overrides", "short"), TIGHT)
def test_a_gain_is_the_difference_of_two_predictions(overrides: dict[str, Any], short: str):
    """A step's gain is how much more is left of what was short, in bytes, or in tokens for a batch."""
    ladder, steps = _climb(**overrides)
    before = ladder.base.prediction.figures
    for step in steps:
        after = step.state.prediction.figures
        gained = {
            "batch": (before.max_num_seqs or 0) - (after.max_num_seqs or 0),
            "peak": (before.peak_device_bytes or 0) - (after.peak_device_bytes or 0),
            "kv_estimate": (after.kv_estimate_bytes or 0) - (before.kv_estimate_bytes or 0)
            + kv_estimate_needed(CONFIG, ladder.base.profile.max_seq_length)
            - kv_estimate_needed(CONFIG, step.state.profile.max_seq_length),
        }  # fmt: skip
        assert step.at == short
        assert step.gain == gained[short]


@pytest.mark.parametrize(("utilization", "away"), [(0.4, -0.01), (0.99, 0.01)])
def test_utilization_changes_no_more_than_needed(utilization: float, away: float):
    """Utilization rises for KV cache and falls for the room beside it, and one hundredth less would not fit."""
    ladder, steps = _climb(gpu_memory_utilization=utilization)
    found = steps[-1].state.profile
    assert steps[-1].rung.name == "another utilization"
    assert (found.gpu_memory_utilization - utilization) * away < 0
    milder = at_utilization(found, round(100 * (found.gpu_memory_utilization + away)))
    assert not ladder.state(milder).fits


def test_a_step_has_one_rung_if_that_suffices():
    """A step that fits with one rung does not include the previous rung, which did not suffice."""
    _, steps = _climb(gpu_memory_utilization=0.4)
    assert steps[0].changes and not steps[0].fits
    assert [change.split()[0] for change in steps[1].changes] == ["gpu_memory_utilization"]


def test_a_step_combines_rungs_if_one_does_not_suffice():
    """Rungs add up if one does not suffice, and what is not needed of them is undone."""
    ladder, steps = _climb(**TIGHT[-1][0])
    found, base = steps[-1].state.profile, ladder.base.profile
    keys = [change.split()[0] for change in steps[-1].changes]
    assert keys == ["max_seq_length", "max_lora_rank", "adapters.r"]
    assert found.adapters is not None and base.adapters is not None
    assert not ladder.state(changed(found, {"max_seq_length": base.max_seq_length})).fits
    assert not ladder.state(changed(found, {"max_lora_rank": 128, "adapters": base.adapters})).fits


def test_no_graphs_is_the_last_resort():
    """If only a load without CUDA graphs fits the card, that is the last rung."""
    card = _small_card(6_860 * MIB)
    _, steps = _climb(card, max_lora_rank=8, adapters__r=8, adapters__target_modules=list(MLP_LINEARS), conservativeness=0.1,
                      max_seq_length=256, gpu_memory_utilization=0.9)  # fmt: skip
    assert steps[-1].rung.name == "no CUDA graphs"
    assert steps[-1].fits and steps[-1].state.profile.enforce_eager


def _small_card(total_bytes: int) -> Card:
    """A T4 with less memory."""
    return Card(
        name="small", compute_capability=7.5, total_bytes=total_bytes, free_bytes=total_bytes - 102 * MIB,
        non_torch_bytes=T4.non_torch_bytes, graph_node_bytes=T4.graph_node_bytes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("card", "overrides"),
    [
        (Card(name="P100", compute_capability=6.0, total_bytes=16 * GIB, free_bytes=16 * GIB), {"max_seq_length": 32768}),
        (T4, {"max_seq_length": 200_000}),
        (T4, {"conservativeness": 0.001}),
    ],
)  # fmt: skip
def test_a_problem_that_is_not_memory_has_no_ladder(card: Card, overrides: dict[str, Any]):
    """An unsupported card, and settings that more memory would not help, have no steps."""
    ladder, steps = _climb(card, **overrides)
    assert not ladder.base.prediction.fits
    assert steps == []


def test_a_model_too_large_for_the_card_tries_every_rung():
    """If nothing fits, every rung is listed, and none of them fits."""
    steps = list(_ladder(_profile(load_in_4bit=False), config=known_config(quantization="16bit")).climb())
    assert [step.rung for step in steps] == list(RUNGS)
    assert not any(step.fits for step in steps)


def test_after_a_failure_more_is_needed_than_was_predicted():
    """After a failure the next step must leave more than was predicted to be left, plus the slack, and what the log says was missing."""
    needs = slack(T4)
    assert need_after(needs, slack(T4), "kv_cache", 100 * MIB, None)["kv_cache"] == 100 * MIB + KV_SLACK_BYTES
    assert need_after(needs, slack(T4), "kv_cache", 100 * MIB, -50 * MIB)["kv_cache"] == 150 * MIB + KV_SLACK_BYTES
    assert need_after(needs, slack(T4), "kv_cache", -80 * MIB, -80 * MIB)["kv_cache"] == KV_SLACK_BYTES
    assert need_after(needs, slack(T4), "batch", 0, None)["batch"] == 1
    assert need_after(needs, slack(T4), "peak", GIB, None) == {**needs, "peak": GIB + needs["peak"]}


def test_a_step_after_a_failure_leaves_more():
    """After a failure of settings that were predicted to fit, the next step leaves more of what was short."""
    profile = _profile(gpu_memory_utilization=0.9)
    search = search_of(CONFIG, T4, RAM, profile)
    left = Ladder(search, profile).base.left["peak"]
    steps = list(Ladder(search, profile, need_after(slack(T4), slack(T4), "peak", left, None)).climb())
    assert steps[-1].fits
    assert steps[-1].gain >= slack(T4)["peak"]


TRIED = st.fixed_dictionaries({
    "max_seq_length": st.sampled_from([128, 512, 8192, 32768, 131072]),
    "gpu_memory_utilization": st.integers(5, 99).map(lambda hundredths: hundredths / 100),
    "max_lora_rank": st.sampled_from([32, 64, 256]),
})  # fmt: skip


@given(card=st.sampled_from(["T4", "RTX3090", "H100"]), tried=TRIED)
def test_the_ladder_fixes_what_the_furthest_settings_fix(card: str, tried: dict[str, Any]):
    """If the furthest setting of every rung fits at some utilization, the ladder ends in a step that fits."""
    ladder = _ladder(_profile(**tried), card_from_table(card))
    if ladder.base.short is None:
        return
    assert ladder.base.profile.adapters is not None
    adapters = changed(ladder.base.profile.adapters, {"r": 8, "target_modules": MLP_LINEARS})
    harshest = changed(ladder.base.profile, {"conservativeness": 0.1, "max_seq_length": min(256, tried["max_seq_length"]), "max_lora_rank": 8, "adapters": adapters, "enforce_eager": True})  # fmt: skip
    if any(ladder.state(at_utilization(harshest, hundredths)).fits for hundredths in range(1, 100)):
        assert list(ladder.climb())[-1].fits


@given(length=st.integers(1, 40_000), free=st.integers(6 * GIB, 14 * GIB))
def test_the_estimate_required_for_a_length_is_exact(length: int, free: int):
    """unsloth cuts the length exactly where its estimate leaves less than our requirement."""
    plan = unsloth_plan(
        CONFIG, total_bytes=40 * GIB, free_bytes=free, max_seq_length=length, max_lora_rank=32,
        gpu_memory_utilization=1.0, conservativeness=1.0, swap_bytes=0,
    )  # fmt: skip
    assert (plan.cut_from is None) == (plan.kv_estimate_bytes >= kv_estimate_needed(CONFIG, length))
