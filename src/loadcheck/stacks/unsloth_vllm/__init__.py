"""unsloth 2025.2.5 with vLLM 0.7.2 on a GPU: the pinned stack."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.stack import JudgedStack
from loadcheck.logs import Attempt
from loadcheck.logs.events import Started
from loadcheck.machine import Check
from loadcheck.predict.account import Obstacle, Prediction
from loadcheck.predict.card import Card
from loadcheck.predict.case import Case
from loadcheck.predict.stack import Concession, LogPrediction, Resolved
from loadcheck.predict.train_account import TrainAccount
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.specs.training import TrainSettings
from loadcheck.specs.trouble import Shortage
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


class UnslothVllm(JudgedStack):
    """See `predict.stack.Stack`."""

    name = "unsloth_vllm"
    engine = "loadcheck.stacks.unsloth_vllm.engine"
    rungs = rungs.RUNGS
    sequence_shares = PROPOSED_SHARES
    peak_slack = PEAK_SLACK
    dialect = DIALECT
    identities = IDENTITIES
    settings_checks = CHECKS
    alternatives = ALTERNATIVES
    variables = machine.VARIABLES

    def loads(self, profile: Profile) -> bool:
        return profile.has_budget and profile.loader == "unsloth"

    def recognises(self, attempt: Attempt) -> bool:
        return attempt.last(Started) is None

    def required_lines(self, attempt: Attempt, profile: Profile | None) -> tuple[str, ...]:
        return required_lines(attempt, profile)

    def ranks_in_log(self, attempt: Attempt, config: ModelConfig) -> tuple[int, ...]:
        return ranks_in_log(attempt, config)

    def why_not_predicted(self, attempt: Attempt) -> str:
        return why_not_predicted(attempt)

    def why_not_judged(self, attempt: Attempt) -> str:
        return why_not_judged(attempt)

    def packages(self, profile: Profile) -> tuple[str, ...]:
        return machine.PACKAGES

    def machine_checks(self, profile: Profile) -> tuple[Check, ...]:
        return machine.CHECKS

    def resolve(self, profile: Profile) -> Resolved:
        return resolve(profile)

    def predict(self, case: Case) -> Prediction:
        return predict(case)

    def predict_training(self, case: Case, settings: TrainSettings, engine: Prediction | None) -> TrainAccount | None:
        from loadcheck.stacks.unsloth_vllm.training_memory.account import predict_training  # not needed for a load

        return predict_training(case, settings, engine)

    def predict_from_log(
        self, attempt: Attempt, config: ModelConfig, profile: Profile | None, gpu: str | None
    ) -> LogPrediction:
        return predict_from_log(attempt, config, profile, gpu)

    def needs(self, case: Case) -> dict[Shortage, int]:
        return needs(case)

    def left(self, case: Case, prediction: Prediction) -> dict[Shortage, int]:
        return amounts_left(case, prediction)

    def slack(self, card: Card) -> dict[Shortage, int]:
        return slack(card)

    def knobs(self, profile: Profile) -> Iterator[tuple[str, Profile]]:
        return rungs.knobs(profile)

    def concessions(self, case: Case) -> Iterator[Concession]:
        return rungs.concessions(case)

    def model_refusals(self, case: Case) -> Iterator[Obstacle]:
        return model_refusals(case)


STACK = UnslothVllm()
