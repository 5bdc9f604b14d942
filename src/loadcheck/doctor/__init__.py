"""What is wrong with this machine for this stack, before anything is downloaded.

`facts` reads the machine, and every check is a function of those facts and of the plan alone.
"""

from __future__ import annotations

from loadcheck.doctor import gpu, host, settings, stack
from loadcheck.doctor.facts import read_machine
from loadcheck.doctor.finding import Finding, Level, Report
from loadcheck.doctor.machine import Machine
from loadcheck.plan import LoadPlan

__all__ = ["Finding", "Level", "Machine", "Report", "examine", "read_machine"]

CPU_CHECKS = (*host.CHECKS, *stack.CHECKS, *settings.CHECKS)
GPU_CHECKS = (
    *gpu.CHECKS, *host.CHECKS, *host.GPU_CHECKS, *stack.CHECKS, *stack.GPU_CHECKS, *settings.CHECKS, *settings.GPU_CHECKS,
)  # fmt: skip


def examine(machine: Machine, plan: LoadPlan) -> Report:
    """Every check that the plan's engine calls for."""
    checks = CPU_CHECKS if plan.profile.on_cpu else GPU_CHECKS
    return Report(plan.profile.name, tuple(finding for check in checks for finding in check(machine, plan)))
