"""What a profile asks vLLM for, against what a log says that it loaded."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Finding


def check_settings(evidence: Evidence) -> Iterator[Finding]:
    """The engine's own line against the profile; of a log of no known profile nothing was asked for."""
    profile = evidence.profile
    if profile is None:
        return
    wanted_of = {
        "engine": "V0",
        "kv_cache_dtype": "fp8" if profile.float8_kv_cache else "auto",
        "prefix_caching": str(profile.caches_prefixes),
        "load_format": "bitsandbytes" if profile.load_in_4bit else "auto",
        "pipeline_parallel_size": "1",
        "speculative_config": "None",
    }
    why = f"profile {profile.name} has vLLM load with {{figure}} {{wanted}}"
    yield from evidence.asked(wanted_of, why, "load with this profile's settings, or give the raw output of one load")


CHECKS = (check_settings,)
