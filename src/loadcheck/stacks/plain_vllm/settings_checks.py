"""Compares the settings of a profile with those that vLLM logged."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.figures import Value
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Finding
from loadcheck.specs.profile import Profile
from loadcheck.stacks.plain_vllm.plan import MAX_NUM_SEQS, chunks_prefill
from loadcheck.stacks.unsloth_vllm.graphs import capture_sizes, captures_graphs
from loadcheck.stacks.unsloth_vllm.kv import kv_cache_dtype_of
from loadcheck.stacks.unsloth_vllm.settings_checks import check_tokenizer


def check_settings(evidence: Evidence) -> Iterator[Finding]:
    """The engine's own line against the profile; without a profile there is nothing to compare."""
    profile = evidence.profile
    if profile is None:
        return
    wanted_of: dict[str, Value] = {
        "engine": "V0",
        "kv_cache_dtype": kv_cache_dtype_of(profile),
        "prefix_caching": str(profile.caches_prefixes),
        "load_format": "bitsandbytes" if profile.load_in_4bit else "auto",
        "pipeline_parallel_size": "1",
        "tensor_parallel_size": "1",
        "speculative_config": "None",
        "scheduler_steps": "1",
        "remote_code": "False",
        **({} if evidence.config is None else {"chunked_prefill": str(chunks_prefill(profile, evidence.config))}),
        **_graphs(profile),
    }
    why = f"profile {profile.name} has vLLM load with {{figure}} {{wanted}}"
    yield from evidence.setting_findings(
        wanted_of, why, "load with this profile's settings, or give the raw output of one load"
    )
    yield from check_tokenizer(evidence)


def _graphs(profile: Profile) -> dict[str, Value]:
    """The batch sizes whose graphs are captured. This engine prints the sizes, but not their number."""
    if not captures_graphs(profile):
        return {}
    sizes = capture_sizes(profile.max_num_seqs or MAX_NUM_SEQS)
    return {"graph_sizes": ",".join(map(str, reversed(sizes))), "largest_graph": sizes[-1]}


CHECKS = (check_settings,)
