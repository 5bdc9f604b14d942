"""Every figure of a load, from the model's shape, the card and the settings alone."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadcheck.figures import figure_specs
from loadcheck.predict import Card, card_from_table
from loadcheck.predict.terms import Term
from loadcheck.specs.files import changed
from loadcheck.specs.lora import adapter_params, base_params
from loadcheck.specs.model import load_models
from loadcheck.specs.profile import LINEAR_MODULES, Adapters, Profile, load_profile
from loadcheck.specs.shape import ModelConfig, Quantization
from loadcheck.stacks import parse_log
from loadcheck.stacks.unsloth_vllm.activation import SEGMENTED_SORT_ROWS, activation_peak, forward_peak, sampler_peak
from loadcheck.stacks.unsloth_vllm.adapters import adapter_memory, patched
from loadcheck.stacks.unsloth_vllm.allocator import rounded
from loadcheck.stacks.unsloth_vllm.bands import bands
from loadcheck.stacks.unsloth_vllm.graphs import capture_sizes
from loadcheck.stacks.unsloth_vllm.kv import config_block_bytes, kv_cache_memory
from loadcheck.stacks.unsloth_vllm.outside_budget import adapter_extras, engine_extras, training_memory
from loadcheck.stacks.unsloth_vllm.plan import num_sequences, swap_gib, swap_space_bytes, unsloth_plan
from loadcheck.stacks.unsloth_vllm.slots import lora_slots, slots_only
from loadcheck.stacks.unsloth_vllm.weights import weights
from loadcheck.units import GIB, MIB
from tests.cases import predict

CONFIGS = {
    (model.name, quantization): model.config_for(quantization)
    for model in load_models()
    if model.refused is None
    for quantization in get_args(Quantization)
}
LLAMA = CONFIGS["llama-3.1-8b-instruct", "nf4"]
PROFILE = load_profile("llama31-8b-instruct-4bit")
COLAB_RAM = 11 * GIB  # gives the T4 log's swap space


def _profile(**changes: Any) -> Profile:
    """The profile with these changes; the rank of its adapters is at most that of its slots."""
    assert PROFILE.adapters is not None
    rank = min(PROFILE.adapters.r, changes.get("max_lora_rank", PROFILE.max_lora_rank))
    return changed(PROFILE, {"adapters": changed(PROFILE.adapters, {"r": rank}), **changes})


def _figures(gpu: str, ram: int, **changes: Any) -> dict[str, Any]:
    return predict(LLAMA, _profile(**changes), card_from_table(gpu), ram).figures.to_json()


def test_the_t4_reference_from_the_table_alone():
    """Every figure of the T4 log is predicted as printed, the blocks included, from the constants of the card's table."""
    figures = _figures("T4", COLAB_RAM)
    assert {
        "gpu_total_gib": 14.741, "compute_capability": "7.5", "dtype": "float16", "quantization": "nf4",
        "gpu_memory_utilization_pct": 59.59, "kv_estimate_gib": 2.61, "max_num_seqs": 160, "max_model_len": 512,
        "chunked_prefill_tokens": 512, "swap_gib": 2, "weights_gib": 5.3541, "activation_peak_gib": 0.74,
        "budget_gib": 8.78, "non_torch_gib": 0.05, "kv_cache_gib": 2.64, "num_gpu_blocks": 1353, "num_cpu_blocks": 1024,
        "max_concurrency": 42.28, "num_cuda_graphs": 23, "cuda_graph_gib": 0.58,
        "patched_layers": 32, "patched_qkv": 32, "patched_o": 32, "patched_mlp": 32,
        "trainable_params": 83_886_080, "total_params": 8_114_147_328,
    }.items() <= figures.items()  # fmt: skip


def test_the_h100_run_from_the_table_alone():
    """Every figure of our H100 run is predicted as printed."""
    figures = _figures("H100", 100 * GIB)
    assert {
        "gpu_memory_utilization_pct": 59.61, "kv_estimate_gib": 41.02, "max_num_seqs": 226, "swap_gib": 6,
        "weights_gib": 5.3541, "activation_peak_gib": 1.07, "budget_gib": 47.2, "num_cuda_graphs": 32,
        "num_cpu_blocks": 3072, "dtype": "bfloat16", "cuda_graph_gib": 0.48, "kv_cache_gib": 40.62,
    }.items() <= figures.items()  # fmt: skip
    assert abs(figures["num_gpu_blocks"] / 20797 - 1) < 0.001


@pytest.mark.parametrize(
    ("name", "quantization", "num_bytes"),
    [
        ("llama-3.1-8b-instruct", "nf4", 5_748_957_184),
        ("llama-3.1-8b-instruct", "16bit", 16_106_725_376),
        ("llama-3.2-3b-instruct", "nf4", 2_293_712_896),
        ("llama-3.2-3b-instruct", "16bit", 6_476_412_928),
        ("llama-3.2-1b-instruct", "nf4", 1_047_646_208),
        ("smollm2-135m-instruct", "nf4", 113_546_752),
        ("phi-4", "nf4", 9_118_189_568),
        ("mistral-7b-instruct-v0.3", "nf4", 4_163_510_272),
        ("mistral-7b-instruct-v0.3", "16bit", 14_521_278_464),
        ("qwen2.5-0.5b-instruct", "nf4", 466_262_016),
        ("qwen2.5-1.5b-instruct", "16bit", 3_098_889_216),
        ("qwen2.5-7b-instruct", "nf4", 5_597_697_024),
    ],
)
def test_weights_are_those_of_vllms_own_classes(name: str, quantization: str, num_bytes: int):
    """Weights equal, to the byte, those of vLLM's own model classes (traced under FakeTensorMode, 2026-11-24)."""
    assert weights(CONFIGS[name, quantization]).num_bytes == num_bytes


@pytest.mark.parametrize(
    ("num_bytes", "counted"),
    [
        (0, 0), (1, 512), (513, 1024), (131_072, 131_072), (131_073, 131_584), (262_145, 263_168),
        (64 * MIB + 1, 64 * MIB + MIB // 2), (128 * MIB + 1, 128 * MIB + 512), (1_052_770_304, 1_056_964_608),
    ],
)  # fmt: skip
def test_the_allocator_rounds(num_bytes: int, counted: int):
    """Sizes are rounded up to 512 bytes, or to 1/256, 1/128 or 1/32 of the power of two below, by the size."""
    assert rounded(num_bytes) == counted


def test_the_samplers_sort_is_the_t4s_peak():
    """160 sequences of 128256 logits: 794,231,296 bytes with the workspace, rounded as the allocator does."""
    term = sampler_peak(LLAMA, 512, 160, 7.5)
    assert term.num_bytes + 8_519_680 == 794_231_296


@pytest.mark.parametrize(
    ("name", "quantization", "tokens", "sequences", "capability", "gib"),
    [
        ("phi-4", "nf4", 512, 128, 7.5, 0.47),  # Kaggle T4 log of 2025-02-06
        ("qwen2.5-3b-instruct", "nf4", 1024, 192, 7.5, 1.05),  # Kaggle T4 log of 2025-02-06
        ("mistral-7b-instruct-v0.3", "nf4", 1024, 192, 7.5, 0.24),  # T4 log of 2025-05-12
        ("llama-3.2-3b-instruct", "16bit", 2048, 160, 7.5, 0.75),  # T4 log of 2025-05-16
        ("llama-3.1-8b-instruct", "nf4", 512, 226, 9.0, 1.07),  # our H100 log
    ],
)
def test_activation_peaks_of_public_logs(
    name: str, quantization: str, tokens: int, sequences: int, capability: float, gib: float
):
    """The activation peak equals, to the printed digit, that in logs of other models, lengths and cards."""
    assert round(activation_peak(CONFIGS[name, quantization], tokens, sequences, capability).num_bytes / GIB, 2) == gib


def test_long_prompts_peak_in_a_layer_not_in_the_sampler():
    """Above about 6,500 tokens an 8B model's gate and up product outweighs the sort of 160 sequences."""
    assert "sampler" in activation_peak(LLAMA, 6_000, 160, 7.5).name
    assert "gate_up_proj" in activation_peak(LLAMA, 7_000, 160, 7.5).name
    assert "down_proj" in forward_peak(CONFIGS["qwen2.5-7b-instruct", "nf4"], 4_096, 8.0).name


def test_fewer_than_128_sequences_can_cost_more():
    """Below 128 rows torch's sort needs more scratch memory: 127 sequences peak higher than 128, which is the retry's trap."""
    assert sampler_peak(LLAMA, 512, 127, 7.5).num_bytes > 1.25 * sampler_peak(LLAMA, 512, 128, 7.5).num_bytes


@pytest.mark.parametrize(
    ("gib", "sequences"),
    [(0, 128), (2, 128), (2.01, 160), (8, 192), (8.01, 224), (40, 320), (40.01, 226), (48, 226), (80, 368), (81, 400)],
)
def test_the_ladder_of_sequences(gib: float, sequences: int):
    """Each step of the number of sequences includes its bound; the one at 40 to 48 GiB is upstream's own 226."""
    assert num_sequences(gib) == sequences


def test_without_graphs_the_peak_is_lower_by_them():
    """enforce_eager removes the graphs, their bytes and their input buffers from the peak, and changes nothing else."""
    card = card_from_table("T4")
    with_graphs, without = (
        predict(LLAMA, changed(PROFILE, {"enforce_eager": eager}), card, COLAB_RAM).figures for eager in (False, True)
    )
    assert (without.num_cuda_graphs, without.cuda_graph_bytes) == (0, 0)
    moved = {name for name, value in without.known().items() if value != getattr(with_graphs, name)}
    assert moved == {"num_cuda_graphs", "cuda_graph_bytes", "peak_device_bytes"}
    saved = (with_graphs.peak_device_bytes or 0) - (without.peak_device_bytes or 0)
    assert 0 <= saved - (with_graphs.cuda_graph_bytes or 0) < MIB


def test_conservativeness_scales_the_sequences():
    """conservativeness scales the number of sequences, rounded down as upstream does."""
    assert num_sequences(3, 0.1) == 16
    assert num_sequences(3, 0.999) == 159


@pytest.mark.parametrize(("ram_gib", "swap"), [(4, 0), (4.1, 1), (12, 2), (24, 4), (48, 5), (48.1, 6), (1000, 6)])
def test_the_ladder_of_swap_space(ram_gib: float, swap: int):
    """Swap space follows the available RAM in steps."""
    assert swap_gib(ram_gib) == swap


@pytest.mark.parametrize(("sequences", "count", "largest"), [(1, 1, 1), (3, 3, 4), (128, 19, 128), (160, 23, 160), (226, 32, 232), (368, 49, 368)])  # fmt: skip
def test_graph_sizes(sequences: int, count: int, largest: int):
    """Graphs are captured for 1, 2, 4 and each multiple of 8, up to the first that holds all sequences."""
    sizes = capture_sizes(sequences)
    assert (len(sizes), sizes[-1]) == (count, largest)


def test_slots_of_the_h100_run():
    """The slots' tensors are those listed in the H100 log; index buffers and rounding add a little."""
    assert slots_only(LLAMA, 32) == 188_940_288
    assert lora_slots(LLAMA, 32, 512, 226).num_bytes == 188_971_008


def test_the_h100s_memory_to_the_byte():
    """torch's allocated bytes after the load, get_peft_model and training equal sums of our terms, to the byte."""
    card = card_from_table("H100")
    cache = kv_cache_memory(LLAMA, 20797).num_bytes
    # the capture stream's cuBLAS workspace is part of cuda_graph; the graphs' pool is not in torch's allocated bytes
    workspace = 33_554_432
    loaded = (
        weights(LLAMA).num_bytes
        + lora_slots(LLAMA, 32, 512, 226).num_bytes
        + cache
        + engine_extras(LLAMA, 512, 226, card.compute_capability, captures_graphs=True).num_bytes
        + workspace
    )
    assert loaded == 50_045_434_880
    with_adapters = loaded + adapter_memory(LLAMA, Adapters(r=32)).num_bytes + adapter_extras(LLAMA, 512).num_bytes
    assert with_adapters == 50_382_027_776
    # 512 bytes fewer after one prompt was sampled; the batch's ids and loss are 8,704 more
    peak = with_adapters - 512 + 8_704 + training_memory(LLAMA, PROFILE, 1024, 9.0).num_bytes
    assert peak == 52_208_655_360


def test_adapters_of_the_reference():
    """The adapters have 83,886,080 parameters in fp32; the base counts 8,030,261,248."""
    assert adapter_params(LLAMA, 32, LINEAR_MODULES) == 83_886_080
    assert adapter_memory(LLAMA, Adapters(r=32)).num_bytes == 4 * 83_886_080
    assert base_params(LLAMA) == 8_030_261_248


@pytest.mark.parametrize(
    ("targets", "dropout", "counts"),
    [
        (LINEAR_MODULES, 0.0, (32, 32, 32)),
        (("gate_proj", "up_proj", "down_proj"), 0.0, (0, 0, 32)),
        (("q_proj", "v_proj", "o_proj"), 0.0, (0, 32, 0)),
        (LINEAR_MODULES, 0.1, (0, 0, 0)),
    ],
)
def test_what_unsloth_patches(targets: tuple[str, ...], dropout: float, counts: tuple[int, int, int]):
    """A group without all of its targets is not patched; with dropout nothing is."""
    found = patched(LLAMA, targets, dropout)
    assert (found["patched_qkv"], found["patched_o"], found["patched_mlp"]) == counts


def _obstacles(card: Card, config: ModelConfig = LLAMA, **changes: Any) -> str:
    found = predict(config, _profile(**changes), card, COLAB_RAM)
    assert found.fits is (not found.obstacles)
    return "\n".join(obstacle.engine_says for obstacle in found.obstacles)


def test_the_reference_fits_a_t4():
    """The reference fits a T4 without obstacles."""
    assert _obstacles(card_from_table("T4")) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_seq_length": 100}, "max_num_batched_tokens (100) must be greater than or equal to max_num_seqs (160)."),
        ({"gpu_memory_utilization": 0.3}, "No available memory for the cache blocks."),
        ({"gpu_memory_utilization": 0.3}, "Your GPU cannot handle sequence lengths of 256 due to"),
        ({"max_seq_length": 25_000}, "Your GPU cannot handle sequence lengths of 25000 due to"),
        ({"max_seq_length": 200_000}, "Fast inference does not yet work with RoPE Scaling."),
        ({"gpu_memory_utilization": 1.0}, "CUDA out of memory."),
        ({"conservativeness": 0.001}, "max_num_seqs must be positive"),
    ],
)
def test_failures_are_predicted_in_the_engines_own_words(changes: dict[str, Any], words: str):
    """A load that will fail is predicted to, in the words that the engine would print."""
    assert words in _obstacles(card_from_table("T4"), **changes)


def _obstacle_texts(card: Card, config: ModelConfig = LLAMA, **changes: Any) -> list[tuple[str, str, str]]:
    """Every obstacle: what, the fix, the engine's words."""
    found = predict(config, _profile(**changes), card, COLAB_RAM).obstacles
    return [(each.what, each.remedy, each.engine_says) for each in found]


def test_weights_that_do_not_fit_are_the_one_cause():
    """If the weights exceed the free memory, that is the only obstacle, and its fix is one that helps: room, 4-bit, or another model."""
    t4 = card_from_table("T4")
    in_use = _obstacle_texts(dataclasses.replace(t4, free_bytes=5_000_000_000))
    assert in_use == [
        ("the weights alone take 5.35 GiB, and 4.66 GiB of the card are free", "free the card: 10.08 GiB of it are in use",
         "CUDA out of memory.")
    ]  # fmt: skip
    (sixteen,) = _obstacle_texts(t4, CONFIGS["llama-3.1-8b-instruct", "16bit"])
    assert sixteen[1] == "load in 4-bit, which takes 5.35 GiB"
    (small,) = _obstacle_texts(dataclasses.replace(t4, total_bytes=5 * GIB, free_bytes=5 * GIB))
    assert small[1] == "use a smaller model, or a card with more memory"


def test_a_batch_that_does_not_fit_beside_the_weights_is_the_one_cause():
    """If the weights fit and the profile run does not, the only obstacle is that CUDA runs out of memory in it, at any utilization."""
    ((what, remedy, says),) = _obstacle_texts(dataclasses.replace(card_from_table("T4"), free_bytes=6_200_000_000))
    assert "weights, LoRA slots and a full batch take 6.1" in what
    assert remedy.startswith("lower conservativeness") and says == "CUDA out of memory."


def test_a_length_whose_training_takes_the_card_is_the_one_cause():
    """unsloth keeps room to train on a whole request. If that leaves nothing, the fix is a shorter request, not a utilization."""
    positions, kept = _obstacle_texts(card_from_table("T4"), max_seq_length=200_000)
    assert positions[1] == "lower max_seq_length to 131072 or less"
    assert "nothing is left for vLLM" in kept[0] and kept[1].startswith("lower max_seq_length")
    assert kept[2].startswith("No available memory for the cache blocks.")


@given(
    free=st.integers(2 * GIB, 14 * GIB), length=st.integers(200, 140_000), share=st.floats(0.05, 1.0),
    rank=st.sampled_from([8, 64, 256]), quantization=st.sampled_from(["nf4", "16bit"]),
)  # fmt: skip
def test_no_remedy_contradicts_another(free: int, length: int, share: float, rank: int, quantization: str):
    """No two obstacles ask for both a higher and a lower utilization, and none names a negative amount."""
    card = dataclasses.replace(card_from_table("T4"), free_bytes=free)
    config = CONFIGS["llama-3.1-8b-instruct", quantization]
    found = _obstacle_texts(card, config, max_seq_length=length, gpu_memory_utilization=share, max_lora_rank=rank)
    remedies = " ".join(remedy for _, remedy, _ in found)
    assert not ("raise gpu_memory" in remedies and "lower gpu_memory" in remedies)
    assert not any(" -" in what for what, _, _ in found)


def test_a_budget_below_the_weights_asks_for_a_higher_utilization_alone():
    """If the budget is below the weights, neither fewer sequences nor shorter requests are suggested."""
    remedies = [remedy for _, remedy, _ in _obstacle_texts(card_from_table("T4"), gpu_memory_utilization=0.3)]
    assert remedies == [
        "raise gpu_memory_utilization",
        "raise gpu_memory_utilization: the budget does not even hold the weights",
    ]


def test_a_sorted_batch_needs_the_activation_peak_on_top():
    """With top-k or top-p, a full batch needs vLLM's whole activation peak on top of what stays; memory in both is counted once."""
    prediction = predict(LLAMA, PROFILE, card_from_table("T4"), COLAB_RAM)
    activation = activation_peak(LLAMA, 512, 160, 7.5).num_bytes
    once = 8_519_680 + 5_120 * 32  # cuBLAS's workspace, LoRA's pointers
    assert prediction.memory.sorted_batch.num_bytes == prediction.memory.peak.num_bytes + activation - once
    assert (
        prediction.memory.largest_bytes
        == prediction.memory.sorted_batch.num_bytes
        > prediction.memory.full_batch.num_bytes
    )
    assert prediction.figures.peak_device_bytes == prediction.memory.peak.num_bytes


def test_training_and_a_full_batch_do_not_add_up():
    """The engine idles during training, so the full batch peak is the larger of the two, not their sum."""
    trained = changed(PROFILE.training, {"steps": 5})
    with_steps, without = (
        predict(LLAMA, _profile(training=each), card_from_table("T4"), COLAB_RAM)
        for each in (trained, PROFILE.training)
    )
    assert with_steps.memory.sorted_batch == without.memory.sorted_batch
    assert with_steps.memory.full_batch == without.memory.full_batch
    assert with_steps.memory.largest_bytes == max(
        with_steps.memory.peak.num_bytes, without.memory.sorted_batch.num_bytes
    )


def test_a_load_that_fits_but_not_with_a_full_batch_is_warned_of():
    """If a load fits but a full batch would not, the load goes on with a warning."""
    card = card_from_table("T4")
    tight = predict(LLAMA, _profile(gpu_memory_utilization=0.94), card, COLAB_RAM)
    assert tight.fits and tight.memory.peak.num_bytes <= card.total_bytes < tight.memory.largest_bytes
    assert "192 requests at once" in tight.warnings[0]
    assert predict(LLAMA, PROFILE, card, COLAB_RAM).warnings == ()
    full = predict(LLAMA, _profile(gpu_memory_utilization=1.0), card, COLAB_RAM)
    assert not full.fits and full.warnings == ()


def test_a_sliding_window_is_refused():
    """A model with a sliding window is refused: unsloth always enables prefix caching, which vLLM rejects with a window."""
    windowed = changed(CONFIGS["mistral-7b-instruct-v0.3", "nf4"], {"sliding_window": True})
    assert "Prefix caching is not supported with sliding window." in _obstacles(card_from_table("H100"), windowed)


@pytest.mark.parametrize(
    ("capability", "words"), [(6.0, "too old"), (10.0, "no kernel image"), (12.0, "no kernel image")]
)
def test_cards_out_of_reach(capability: float, words: str):
    """This stack cannot run on cards below 7.0 or above 9.0."""
    card = dataclasses.replace(card_from_table("H100"), compute_capability=capability)
    assert words in _obstacles(card)


def test_what_was_never_measured_is_said_to_be_assumed():
    """A card without measured constants gets no non_torch figure, and a note on what was assumed."""
    card = Card(name="X", compute_capability=8.9, total_bytes=24 * GIB, free_bytes=23 * GIB)
    prediction = predict(LLAMA, PROFILE, card, COLAB_RAM)
    assert prediction.figures.non_torch_bytes is None
    assert any("assumed" in note for note in prediction.notes)


SHAPES = st.sampled_from(sorted(CONFIGS)).map(CONFIGS.__getitem__)


@given(
    config=SHAPES,
    free=st.integers(4 * GIB, 140 * GIB),
    used=st.integers(0, 4 * GIB),
    capability=st.sampled_from([7.0, 7.5, 8.0, 8.6, 8.9, 9.0]),
    length=st.integers(1, 40_000),
    rank=st.sampled_from([8, 16, 32, 64, 128, 256]),
    utilization=st.floats(0.05, 1.0),
)
def test_terms_always_sum(
    config: ModelConfig, free: int, used: int, capability: float, length: int, rank: int, utilization: float
):
    """In every tree each term is the sum of its parts, and the root is the peak."""
    card = Card(name="X", compute_capability=capability, total_bytes=free + used, free_bytes=free)
    assert PROFILE.adapters is not None
    profile = _profile(
        max_seq_length=length,
        max_lora_rank=rank,
        gpu_memory_utilization=utilization,
        adapters=changed(PROFILE.adapters, {"r": rank}),
    )
    prediction = predict(config, profile, card, COLAB_RAM)
    for _, term in prediction.memory.peak.walk():
        assert not term.parts or term.num_bytes == sum(part.num_bytes for part in term.parts)
    assert prediction.figures.peak_device_bytes == prediction.memory.peak.num_bytes


@given(config=SHAPES, more=st.integers(1, 40), free=st.integers(8 * GIB, 140 * GIB))
def test_more_layers_never_leave_more_blocks(config: ModelConfig, more: int, free: int):
    """With the same number of sequences, more weights never mean more KV memory."""
    larger = changed(config, {"num_hidden_layers": config.num_hidden_layers + more})
    card = Card(name="X", compute_capability=8.0, total_bytes=free + GIB, free_bytes=free)
    small, large = (predict(each, PROFILE, card, COLAB_RAM).figures for each in (config, larger))
    assert weights(larger).num_bytes > weights(config).num_bytes
    if small.max_num_seqs == large.max_num_seqs:
        assert (large.num_gpu_blocks or 0) <= (small.num_gpu_blocks or 0)


@given(config=SHAPES, length=st.integers(1, 20_000), sequences=st.integers(2, 400))
def test_more_sequences_never_peak_lower_within_one_sort(config: ModelConfig, length: int, sequences: int):
    """With the same kind of sort, one more sequence never lowers the activation peak."""
    if sequences + 1 == SEGMENTED_SORT_ROWS:
        return
    few, many = (activation_peak(config, length, n, 8.0).num_bytes for n in (sequences, sequences + 1))
    assert few <= many


@given(tokens=st.integers(1, 2**36))
def test_rounding_never_shrinks(tokens: int):
    """The allocator counts at least the requested bytes, and above its smallest block at most a 16th more."""
    assert tokens <= rounded(tokens) <= max(512, tokens * 17 // 16 + 512)


RENDERED = """\
==((====))==  Unsloth 2025.2.5: Fast Llama patching. Transformers: 4.48.2.
   \\\\   /|    GPU: {gpu_name}. Max memory: {gpu_total_gib} GB. Platform: Linux.
Unsloth: vLLM loading m with actual GPU utilization = {gpu_memory_utilization_pct}%
Unsloth: Your GPU has CUDA compute capability {compute_capability} with VRAM = {vram} GB.
Unsloth: Using conservativeness = 1.0. Chunked prefill tokens = {chunked_prefill_tokens}. Num Sequences = {max_num_seqs}.
Unsloth: vLLM's KV Cache can use up to {kv_estimate_gib} GB. Also swap space = {swap_gib} GB.
INFO model_runner.py:1115] Loading model weights took {weights_gib:.4f} GB
INFO worker.py:267] the current vLLM instance can use total_gpu_memory (1GiB) x gpu_memory_utilization (0.6) = {budget_gib:.2f}GiB
INFO worker.py:267] model weights take 1GiB; non_torch_memory takes {non_torch_gib:.2f}GiB; PyTorch activation peak memory takes {activation_peak_gib:.2f}GiB; the rest of the memory reserved for KV Cache is {kv_cache_gib:.2f}GiB.
INFO executor_base.py:110] # CUDA blocks: {num_gpu_blocks}, # CPU blocks: {num_cpu_blocks}
INFO executor_base.py:115] Maximum concurrency for {max_model_len} tokens per request: {max_concurrency:.2f}x
INFO model_runner.py:1562] Graph capturing finished in 9 secs, took {cuda_graph_gib:.2f} GiB
Unsloth 2025.2.5 patched {patched_layers} layers with {patched_qkv} QKV layers, {patched_o} O layers and {patched_mlp} MLP layers.
"""


@given(gpu=st.sampled_from(["T4", "H100"]), ram=st.integers(0, 200 * GIB), length=st.integers(600, 8_192))
def test_a_rendered_prediction_reads_back_the_same(gpu: str, ram: int, length: int, tmp_path_factory: Any):
    """A predicted log parses to the predicted figures, digit for digit."""
    figures = _figures(gpu, ram, max_seq_length=length)
    log: Path = tmp_path_factory.mktemp("rendered") / "log"
    log.write_text(RENDERED.format(**figures, vram=round(figures["gpu_total_gib"], 2)))
    read = parse_log(log).last
    for spec in figure_specs().values():
        reading = read.reading(spec.attribute)
        if reading is not None and figures[spec.name] is not None and spec.name != "gpu_total_gib":
            assert spec.to_edge(reading.value) == figures[spec.name], spec.name


def test_a_term_knows_its_depth():
    """Walking a tree yields each term once, with its depth."""
    tree = Term("a", 3, parts=(Term("b", 1), Term("c", 2, parts=(Term("d", 2),))))
    assert [(depth, term.name) for depth, term in tree.walk()] == [(0, "a"), (1, "b"), (1, "c"), (2, "d")]


def test_the_plan_of_a_smaller_share_of_free_memory():
    """Utilization is the share of the free memory, relative to the whole card."""
    plan = unsloth_plan(
        LLAMA, total_bytes=100 * GIB, free_bytes=50 * GIB, max_seq_length=512, max_lora_rank=32,
        gpu_memory_utilization=0.5, conservativeness=1.0, swap_bytes=swap_space_bytes(0),
    )  # fmt: skip
    assert plan.utilization == 0.25
    assert plan.swap_bytes == 0
    assert config_block_bytes(LLAMA) == 2_097_152


def test_a_card_never_measured_has_a_wide_band_of_graphs():
    """If the driver's memory per graph node is unknown, the band holds both known constants, and no exact figure is given."""
    measured = card_from_table("H100")
    unknown = dataclasses.replace(measured, graph_node_bytes=None)
    prediction = predict(LLAMA, PROFILE, unknown, 128 * GIB)
    band = bands(prediction.figures, unknown)["cuda_graph_bytes"]
    as_on_a_t4 = predict(LLAMA, PROFILE, dataclasses.replace(measured, graph_node_bytes=8_200), 128 * GIB)
    assert prediction.figures.cuda_graph_bytes is not None and as_on_a_t4.figures.cuda_graph_bytes is not None
    assert band.low < prediction.figures.cuda_graph_bytes < as_on_a_t4.figures.cuda_graph_bytes < band.high
    narrow = bands(predict(LLAMA, PROFILE, measured, 128 * GIB).figures, measured)["cuda_graph_bytes"]
    assert narrow.high - narrow.low < (band.high - band.low) / 3


def test_no_graphs_have_no_band():
    """Without graphs their memory is exactly 0."""
    card = card_from_table("H100")
    assert "cuda_graph_bytes" not in bands(predict(LLAMA, _profile(enforce_eager=True), card, 128 * GIB).figures, card)
