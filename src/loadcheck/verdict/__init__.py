"""Judges a load: shape, diagnosis, stack, identities, prediction, golden ranges and run, in this order."""

from __future__ import annotations

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status, Verdict
from loadcheck.verdict.card import check_card
from loadcheck.verdict.cause import causes
from loadcheck.verdict.diagnosis import check_diagnosis
from loadcheck.verdict.golden import check_golden
from loadcheck.verdict.identities import check_identities
from loadcheck.verdict.model import check_model
from loadcheck.verdict.request import check_request
from loadcheck.verdict.run import check_run
from loadcheck.verdict.shape import check_shape
from loadcheck.verdict.stack import check_stack

__all__ = ["Check", "Evidence", "Finding", "Status", "Verdict", "causes", "judge"]

STEPS = (
    check_shape,
    check_diagnosis,
    check_stack,
    check_card,
    check_request,
    check_identities,
    check_model,
    check_golden,
    check_run,
)


def judge(evidence: Evidence) -> Verdict:
    """Take every step; a log passes only if no step fails or refuses it."""
    return Verdict(tuple(finding for step in STEPS for finding in step(evidence)))
