"""This host: no files and no commands, as `loadcheck fleet run` starts the loads itself (fleet/local.py)."""

from __future__ import annotations

from loadcheck.fleet.engines import Files
from loadcheck.fleet.plan import FleetPlan


def files(_: FleetPlan) -> Files:
    return {}


def start(_: FleetPlan) -> list[list[str]]:
    return []


def stop(_: FleetPlan) -> list[list[str]]:
    return []
