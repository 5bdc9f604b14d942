"""vLLM's V1 engine, 0.8 to 0.33: its logs are read, and judged by equations between their own figures. It is not predicted."""

from __future__ import annotations

from loadcheck.findings.evidence import is_parallel
from loadcheck.findings.stack import JudgedStack
from loadcheck.logs import Attempt
from loadcheck.predict.account import Prediction
from loadcheck.predict.case import Case
from loadcheck.specs.profile import Profile
from loadcheck.stacks.unsloth_vllm import identities as v0
from loadcheck.stacks.unsloth_vllm.from_log import predict_from_log, why_not_predicted
from loadcheck.stacks.unsloth_vllm.lines import ALTERNATIVES
from loadcheck.stacks.unsloth_vllm.settings_checks import CHECKS
from loadcheck.stacks.vllm_v1.identities import (
    check_fitted_length,
    check_graph_pool,
    check_graphs_as_utilization,
    check_kv_cache,
    check_suggestions,
    check_tokens,
    check_tokens_of_memory,
    check_unread,
    check_weights,
    check_whole_blocks,
)
from loadcheck.stacks.vllm_v1.lines import DIALECT, required_lines

PER_RANK_LINES = {"v1 tokens": "kv_cache_tokens", "concurrency": "max_concurrency"}
"""Lines that the engine core prints for each rank, up to 0.10.1 (core/kv_cache_utils.py:716 at 0.9.2), and their figures: ranks differ in free memory."""


NOTE = "vLLM's V1 engine: judged by what its lines state of each other, and not predicted"


def _recognises(attempt: Attempt) -> bool:
    engine = attempt.reading("engine")
    return str(engine.value) == "V1" if engine is not None else any(name.startswith("v1 ") for name in attempt.formats)


def _required_lines(attempt: Attempt, profile: Profile | None) -> tuple[str, ...]:
    return required_lines(attempt) if profile is None or profile.fast_inference else ()


def _repeated_lines(attempt: Attempt) -> frozenset[str]:
    """The lines that a trial capture prints like the real one (gpu/model_runner.py:1163 at 0.33), and those printed by each rank."""
    ranks = PER_RANK_LINES if is_parallel(attempt) else {}
    return frozenset({"captured", "v1 kv cache", *ranks})


def _restated_figures(attempt: Attempt) -> frozenset[str]:
    lengths = {"max_model_len"} if attempt.formats["v1 auto-fit"] else set()
    ranks = PER_RANK_LINES.values() if is_parallel(attempt) else ()
    return frozenset({"cuda_graph_bytes", "graph_capture_s", *lengths, *ranks})


def _predict(_: Case) -> Prediction:
    raise NotImplementedError(NOTE)


STACK = JudgedStack(
    name="vllm_v1",
    dialect=DIALECT,
    identities=(
        v0.check_budget, check_kv_cache, check_suggestions, check_graph_pool, check_graphs_as_utilization, check_fitted_length,
        check_tokens, check_tokens_of_memory, check_whole_blocks, check_weights, check_unread, v0.check_sequences, v0.check_lengths, v0.check_times, v0.check_dtype, v0.check_model,
        v0.check_patched, v0.check_estimate, v0.check_trainable,
    ),
    settings_checks=CHECKS,
    alternatives={**ALTERNATIVES, "v1 kv cache": ("v1 kv cache", "v1 kv cache given")},
    note=NOTE,
    loads=lambda _: False,
    recognises=_recognises,
    required_lines=_required_lines,
    repeated_lines=_repeated_lines,
    restated_figures=_restated_figures,
    why_not_predicted=why_not_predicted,
    predict=_predict,
    # Called only for a release whose V0 engine is modelled; its formulas hold for the memory that V1 prints, too.
    predict_from_log=predict_from_log,
)  # fmt: skip
