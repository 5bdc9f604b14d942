"""What this stack needs of a machine, beyond doctor's general checks."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.machine import Check, Finding, Machine
from loadcheck.machine.ram import ram_for
from loadcheck.plan import LoadPlan
from loadcheck.stacks.transformers_cpu.peak import cpu_peak
from loadcheck.stacks.transformers_cpu.prediction import cpu_weights
from loadcheck.units import GIB

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy")
BASE_BYTES = GIB
"""Python with torch and transformers, and what a conversion holds: loads of the small model peaked at 0.9 GB in total."""


def check_ram(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """Whether the host's memory suffices; a load on a CPU uses no other."""
    weights = cpu_weights(plan.config)
    peak = cpu_peak(plan.config, plan.profile, weights)
    yield from ram_for(machine, max(BASE_BYTES + weights.num_bytes, 0 if peak is None else peak.num_bytes))


CHECKS: tuple[Check, ...] = (check_ram,)
