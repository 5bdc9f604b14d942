"""Checks what is wrong with this machine for this stack, before anything is downloaded.

`facts` reads the machine; every check is a function of these facts and the plan.
"""

from __future__ import annotations

from loadcheck.doctor import gpu, host, origin, settings, stack
from loadcheck.doctor.facts import read_machine
from loadcheck.machine import Finding, Level, Machine, Report
from loadcheck.plan import LoadPlan
from loadcheck.stacks import stack_of

__all__ = ["Finding", "Level", "Machine", "Report", "examine", "read_machine"]

CPU_CHECKS = (*host.CHECKS, *stack.CHECKS, *settings.CHECKS, *origin.CHECKS)
GPU_CHECKS = (*gpu.CHECKS, *host.CHECKS, *host.GPU_CHECKS, *stack.CHECKS, *settings.CHECKS, *origin.CHECKS)


def examine(machine: Machine, plan: LoadPlan) -> Report:
    """Run every check for the plan's engine, and those of its stack."""
    neutral = CPU_CHECKS if plan.profile.on_cpu else GPU_CHECKS
    checks = (*neutral, *stack_of(plan.profile).machine_checks(plan.profile))
    return Report(plan.profile.name, tuple(finding for check in checks for finding in check(machine, plan)))
