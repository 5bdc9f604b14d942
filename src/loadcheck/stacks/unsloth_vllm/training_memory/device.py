"""Memory of a training on the card and the host beyond what torch's allocator hands out."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.predict import Case, Prediction
from loadcheck.predict.card import Card
from loadcheck.predict.terms import Term, total
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm.training_memory.prediction import TrainMemory
from loadcheck.stacks.unsloth_vllm.training_memory.reserve import reserve
from loadcheck.units import MIB

GAPS = "torch's allocator, gaps"
# On an H100 (driver 580.159.04) two trainings without vLLM, alone in their process, ended with 236,978,176 bytes beside context and
# reserve, where vLLM's profile counts 167,813,120 as non_torch. Kernels' memory depends on the card, so the same ratio is used for others.
MODULES_SHARE = 236_978_176 / 167_813_120
# Before the first step fewer kernels are loaded: 96,468,992 bytes on an H200 (driver 580.159.04, 12 trainings of seven models).
EARLY_MODULES_SHARE = 96_468_992 / 167_813_120
# With vLLM most kernels are loaded already: 64 and 66 MiB more after training steps (tests/runs/h100, h200: reference-train3), and
# 168 MiB after GRPO (first row of tests/training/truth.tsv, without the optimizer's paged states).
MODULES_BESIDE_ENGINE_BYTES = {"sft": 64 * MIB, "grpo": 168 * MIB}


def device_peak(case: Case, settings: TrainSettings, engine: Prediction | None, memory: TrainMemory) -> Term:
    """The peak memory in use on the card, as nvidia-smi shows it, other processes included.

    The allocator's reserve assumes expandable segments. It is larger where the driver does not support them (some virtual machines; torch warns).
    """
    card = case.gpu
    found = reserve(_loaded_blocks(memory), memory.ledger.events, memory.started_at)
    before = [
        *_reserved(found.before_bytes, memory.before, memory.check),
        *_beside_torch(settings, card, engine, stepped=False),
    ]
    steps = [
        *_reserved(found.steps_bytes, memory.first_step, memory.later_step),
        *_beside_torch(settings, card, engine, stepped=True),
        Term("paged optimizer states", memory.paged_bytes, "bitsandbytes/functional.py: get_paged"),
    ]
    largest = max(before, steps, key=lambda parts: sum(part.num_bytes for part in parts))
    used = Term("context", card.total_bytes - card.free_bytes, "used before the load: CUDA's own, and other processes")
    return total("train_peak_device", [used, *largest])


def short_bytes(case: Case, settings: TrainSettings, engine: Prediction | None, memory: TrainMemory) -> int:
    """What the card lacks for the first request that torch cannot serve, even after releasing its gaps; 0 where all are served."""
    card = case.gpu
    beside = sum(term.num_bytes for term in _beside_torch(settings, card, engine, stepped=True))
    room = card.free_bytes - beside - memory.paged_bytes
    return reserve(_loaded_blocks(memory), memory.ledger.events, memory.started_at, room).short_bytes


def _loaded_blocks(memory: TrainMemory) -> list[int]:
    return [term.num_bytes for _, term in memory.loaded.walk() if not term.parts]


def _reserved(num_bytes: int, *moments: Term) -> Iterator[Term]:
    """What torch's allocator reserves: its blocks at the peak of these moments, and the gaps between them."""
    peak = max(moments, key=lambda moment: moment.num_bytes)
    yield Term("torch's allocator, at its peak", peak.num_bytes, f"training_memory/prediction.py: {peak.name}")
    yield Term(GAPS, num_bytes - peak.num_bytes, "c10/cuda/CUDACachingAllocator.cpp with expandable segments")


def _beside_torch(settings: TrainSettings, card: Card, engine: Prediction | None, stepped: bool) -> Iterator[Term]:
    """Kernel modules, and the CUDA graphs' memory in the driver and in their own pool.

    Args:
        stepped: whether a step has run, which loads most of the kernels.
    """
    source = "measured on an H100 and an H200 (driver 580.159.04); by the card's non_torch elsewhere"
    if engine is None:
        share = MODULES_SHARE if stepped else EARLY_MODULES_SHARE
        yield Term("modules", int(share * card.assumed_non_torch_bytes), source)
        return
    yield Term("non_torch", card.assumed_non_torch_bytes, "vllm/worker/worker.py:205-271; env/gpus.toml")
    yield Term("modules for training", MODULES_BESIDE_ENGINE_BYTES[settings.method] if stepped else 0, source)
    graphs = next((part for part in engine.memory.peak.parts if part.name == "cuda_graph"), None)
    if graphs is not None:  # torch allocates their cuBLAS workspace
        yield total(graphs.name, [part for part in graphs.parts if part.name != "cuBLAS workspace"])


def host_peak(case: Case, settings: TrainSettings, engine: Prediction | None) -> Term:
    """Pinned host memory: activations offloaded by checkpointing, and vLLM's swap space. Python, libraries and data come on top."""
    config, adapters = case.config, case.profile.adapters
    parts = []
    if adapters is not None and adapters.use_gradient_checkpointing == "unsloth":
        one = _pinned(2 * settings.rows * settings.row_tokens * config.hidden_size)
        # GRPO's reference pass holds one more in flight while the policy's are kept.
        blocks = config.num_hidden_layers + (settings.method == "grpo")
        parts.append(
            Term("offloaded hidden states", blocks * one, "unsloth_zoo/gradient_checkpointing.py: Unsloth_Offloaded")
        )
    swap = None if engine is None else engine.figures.swap_bytes
    parts.append(Term("swap space of the engine", swap or 0, "unsloth_zoo/vllm_utils.py:931-940"))
    return total("train_peak_host", parts)


def _pinned(num_bytes: int) -> int:
    """torch rounds pinned memory up to a power of two (aten/src/ATen/core/CachingHostAllocator.h)."""
    return 1 << (num_bytes - 1).bit_length()
