"""The prediction that a log is judged by: from the log's own card, free memory and settings, or from the unsloth plan that it prints."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import structs

from loadcheck.errors import BadInput
from loadcheck.figures import Figures, Reading
from loadcheck.logs import Attempt
from loadcheck.logs.events import Device, RamFound
from loadcheck.predict.band import Band
from loadcheck.predict.card import Card, card_from_device, card_from_table
from loadcheck.predict.case import Case
from loadcheck.predict.stack import LogPrediction
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.specs.versions import release_numbers, release_of
from loadcheck.stacks.unsloth_vllm.bands import EXACT, Rounding, bands
from loadcheck.stacks.unsloth_vllm.graphs import captured_in_log
from loadcheck.stacks.unsloth_vllm.kv import config_block_bytes, number_bytes
from loadcheck.stacks.unsloth_vllm.plan import SWAP_BEYOND, SWAP_LADDER, EnginePlan
from loadcheck.stacks.unsloth_vllm.prediction import engine_figures, plan_of, predict_from_plan
from loadcheck.units import GIB

# A bare log provides these, and the prediction starts from them, so comparing them would prove nothing.
_GIVEN_BY_LOG = (
    "gpu_memory_utilization_pct",
    "kv_estimate_bytes",
    "max_num_seqs",
    "swap_bytes",
    "chunked_prefill_tokens",
    "max_model_len",
)


def predict_from_log(attempt: Attempt, config: ModelConfig, profile: Profile | None, gpu: str | None) -> LogPrediction:
    """The figures that the log should contain; without a profile, only those that follow from the plan that the log prints.

    Without a profile, rank and target modules are unknown, and what depends on them is not predicted.

    Args:
        gpu: the card's key in env/gpus.toml; None for a card that is not in it.
    """
    dtype = attempt.reading("kv_cache_dtype")
    size = number_bytes(None if dtype is None else str(dtype.value))
    if size is None:
        return LogPrediction(
            note=f"a KV cache of {dtype.value if dtype else None} is not modelled, so nothing is predicted"
        )
    log = LogFacts(attempt, structs.replace(config, kv_number_bytes=size), profile, gpu)
    card = log.card()
    if card is None:
        return LogPrediction(note="the log does not say the card's memory, so nothing is predicted")
    if profile is not None:
        ram, swap = log.ram_available_bytes(), log.swap_bytes()
        case = Case(config=config, profile=profile, card=card, ram_available_bytes=ram)
        figures = predict_from_plan(case, plan_of(case, None if ram is not None else swap or 0)).figures
        if ram is None and swap is None:  # the available RAM is unknown
            figures = dataclasses.replace(figures, swap_bytes=None, num_cpu_blocks=None)
        return LogPrediction(figures, log.bands(figures), case=case)
    printed = log.plan()
    if printed is None:
        return LogPrediction(note="the log does not say unsloth's plan, so nothing is predicted")
    figures = engine_figures(log.config, card, printed)
    return LogPrediction(dataclasses.replace(figures, **dict.fromkeys(_GIVEN_BY_LOG)), log.bands(figures))


class Memory(NamedTuple):
    """The memory before a load: the card's total and free memory, and the host's available RAM."""

    total_bytes: int
    free_bytes: int
    ram_available_bytes: int


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What one attempt logs about the card, its free memory and the plan."""

    attempt: Attempt
    config: ModelConfig
    profile: Profile | None
    gpu: str | None

    def device(self) -> Memory | None:
        """What our engine measured before the load; None for a foreign log, or where a number is missing."""
        event = self.attempt.last(Device)
        if event is None or not (event.device_total_bytes and event.device_free_bytes and event.ram_available_bytes):
            return None
        return Memory(event.device_total_bytes, event.device_free_bytes, event.ram_available_bytes)

    def ram_available_bytes(self) -> int | None:
        """As unsloth found it, else as our engine did shortly before; None for a foreign log."""
        device, found = self.device(), self.attempt.last(RamFound)
        return None if device is None else (found and found.ram_available_bytes) or device.ram_available_bytes

    def swap_bytes(self) -> int | None:
        """The logged swap space if unsloth requests that amount on some machine, else the largest that it requests; None if not logged."""
        reading = self.attempt.reading("swap_bytes")
        if reading is None:
            return None
        printed = int(reading.value) // GIB
        return GIB * (printed if printed in [step for _, step in SWAP_LADDER] else SWAP_BEYOND)

    def plan(self) -> EnginePlan | None:
        """unsloth's plan as logged; None where a part of it is missing or invalid."""
        names = ("gpu_memory_utilization_pct", "max_model_len", "max_num_seqs", "swap_bytes")
        readings = [self.attempt.reading(name) for name in names]
        if any(reading is None for reading in readings):
            return None
        utilization, length, sequences, swap = (float(reading.value) for reading in readings if reading is not None)
        if length < 1 or sequences < 1:
            return None
        graphs = captured_in_log(self.attempt)
        return EnginePlan(utilization / 100, 0.0, int(length), int(sequences), int(swap), captures_graphs=graphs)

    def card(self) -> Card | None:
        """The card of this load, with the measured non_torch, on which the later figures depend."""
        card = self.card_before_non_torch()
        reading = self.attempt.reading("non_torch_bytes")
        if card is None or reading is None:
            return card
        if card.non_torch_bytes is not None and reading.agrees(card.non_torch_bytes):
            return card  # the table is more precise than two decimals
        return dataclasses.replace(card, non_torch_bytes=int(reading.value))

    def card_before_non_torch(self) -> Card | None:
        """The card as in env/gpus.toml, with the logged memory; None where the log does not say."""
        name, capability = self.attempt.reading("gpu_name"), self.attempt.reading("compute_capability")
        if name is None or capability is None:
            return None
        if (device := self.device()) is not None:
            return card_from_device(str(name.value), str(capability.value), device.total_bytes, device.free_bytes)
        total_read, utilization = (
            self.attempt.reading("gpu_total_bytes"),
            self.attempt.reading("gpu_memory_utilization_pct"),
        )
        if total_read is None or utilization is None or int(total_read.value) <= 0:
            return None
        return self._card_of_foreign_log(str(name.value), str(capability.value), total_read, utilization)

    def _card_of_foreign_log(self, name: str, capability: str, total: Reading, utilization: Reading) -> Card:
        """With the table's memory if the utilization agrees with it; else the free memory follows from the utilization."""
        share = None if self.profile is None else self.profile.gpu_memory_utilization
        total_bytes = int(total.value)
        known = self._known_card()
        if known is not None and total.agrees(known.total_bytes):
            if share is not None and utilization.agrees(100 * share * known.free_bytes / known.total_bytes):
                return dataclasses.replace(known, name=name)
            total_bytes = known.total_bytes
        # without a profile the share is unknown, but then nothing is predicted from the free memory
        free_bytes = total_bytes if share is None else round(float(utilization.value) / 100 * total_bytes / share)
        return card_from_device(name, capability, total_bytes, free_bytes)

    def _known_card(self) -> Card | None:
        try:
            return card_from_table(self.gpu) if self.gpu else None
        except BadInput:
            return None

    def bands(self, figures: Figures) -> dict[str, Band]:
        """The bands of these figures on this card, widened by the log's rounding."""
        card = self.card_before_non_torch()
        return bands(figures, card, self._rounding()) if card is not None else {}

    def _rounding(self) -> Rounding:
        """The uncertainty from this log's rounding: always of non_torch, and of the free memory unless our engine measured it."""
        card = self.card()
        if card is None:
            return EXACT
        budget_bytes = non_torch_bytes = 0.0
        if (printed := self.attempt.reading("non_torch_bytes")) is not None:
            non_torch_bytes = abs(float(printed.value) - card.assumed_non_torch_bytes) + printed.tolerance
        share, total = self.attempt.reading("gpu_memory_utilization_pct"), self.attempt.reading("gpu_total_bytes")
        if self.device() is None and share is not None and total is not None:
            budget_bytes = (share.tolerance * card.total_bytes + total.tolerance * float(share.value)) / 100
        return Rounding(budget_bytes, non_torch_bytes, config_block_bytes(self.config))


MODELLED = ("0.7.1", "0.7.2")
"""The releases of vLLM that the formulas hold for; from 0.8 on, LoRA slots are counted as weights."""


FIRST_WITH_AN_END = (0, 6, 4)
"""The first release that prints its memory profile (vllm/worker/worker.py) and a line once the engine has started (engine/llm_engine.py)."""


def why_not_judged(attempt: Attempt) -> str:
    """See `findings.stack.JudgedStack`. A server's "Application startup complete" would tell its end, but nothing tells its memory."""
    engine = attempt.reading("vllm")
    release = None if engine is None else release_numbers(str(engine.value))
    if engine is None or release is None or release >= FIRST_WITH_AN_END:
        return ""
    first = ".".join(map(str, FIRST_WITH_AN_END))
    return f"before {first} vLLM prints neither its memory profile nor a line at the end of its start, and this log is of {engine.value}"


def why_not_predicted(attempt: Attempt) -> str:
    """See `findings.stack.JudgedStack`."""
    speculative = attempt.reading("speculative_config")
    if speculative is not None and speculative.value != "None":
        return "speculative decoding is not modelled, so its figures are not predicted"
    engine = attempt.reading("vllm")
    if engine is None or release_of(str(engine.value)) in MODELLED:
        return ""
    return f"vLLM {engine.value} counts memory in its own way, so its figures are not predicted"
