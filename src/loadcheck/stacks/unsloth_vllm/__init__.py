"""unsloth 2025.2.5 with vLLM 0.7.2 on a GPU: the pinned stack."""

from __future__ import annotations

from loadcheck.findings.stack import JudgedStack
from loadcheck.logs.events import Started
from loadcheck.predict.account import Prediction
from loadcheck.predict.case import Case
from loadcheck.predict.train_account import TrainAccount
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm import machine, rungs
from loadcheck.stacks.unsloth_vllm.bands import PEAK_SLACK
from loadcheck.stacks.unsloth_vllm.from_log import predict_from_log, why_not_judged, why_not_predicted
from loadcheck.stacks.unsloth_vllm.identities import IDENTITIES, ranks_in_log
from loadcheck.stacks.unsloth_vllm.lines import ALTERNATIVES, DIALECT, required_lines
from loadcheck.stacks.unsloth_vllm.margin import amounts_left, needs, slack
from loadcheck.stacks.unsloth_vllm.names import resolve
from loadcheck.stacks.unsloth_vllm.prediction import predict
from loadcheck.stacks.unsloth_vllm.refusals import model_refusals
from loadcheck.stacks.unsloth_vllm.rungs import PROPOSED_SHARES
from loadcheck.stacks.unsloth_vllm.settings_checks import CHECKS


def _predict_training(case: Case, settings: TrainSettings, engine: Prediction | None) -> TrainAccount:
    from loadcheck.stacks.unsloth_vllm.training_memory.account import predict_training  # not needed for a load

    return predict_training(case, settings, engine)


STACK = JudgedStack(
    name="unsloth_vllm",
    engine="loadcheck.stacks.unsloth_vllm.engine",
    rungs=rungs.RUNGS,
    sequence_shares=PROPOSED_SHARES,
    peak_slack=PEAK_SLACK,
    dialect=DIALECT,
    identities=IDENTITIES,
    settings_checks=CHECKS,
    alternatives=ALTERNATIVES,
    variables=machine.VARIABLES,
    loads=lambda profile: profile.has_budget and profile.loader == "unsloth",
    recognises=lambda attempt: attempt.last(Started) is None,
    required_lines=required_lines,
    ranks_in_log=ranks_in_log,
    why_not_predicted=why_not_predicted,
    why_not_judged=why_not_judged,
    packages=lambda _: machine.PACKAGES,
    machine_checks=lambda _: machine.CHECKS,
    resolve=resolve,
    predict=predict,
    predict_training=_predict_training,
    predict_from_log=predict_from_log,
    needs=needs,
    left=amounts_left,
    slack=slack,
    knobs=rungs.knobs,
    concessions=rungs.concessions,
    model_refusals=model_refusals,
)
