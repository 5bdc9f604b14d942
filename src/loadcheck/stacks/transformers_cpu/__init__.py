"""transformers, bitsandbytes and peft without vLLM: on a CPU, and on a GPU where vLLM is left out. Its memory has no budget."""

from __future__ import annotations

from loadcheck.logs import Attempt
from loadcheck.predict.account import Prediction
from loadcheck.predict.case import Case
from loadcheck.predict.stack import FromLog, Stack
from loadcheck.specs.model import ModelConfig
from loadcheck.specs.profile import Profile
from loadcheck.stacks.transformers_cpu.prediction import predict


class TransformersCpu(Stack):
    """See `predict.stack.Stack`. No settings of it are known that would make a load fit."""

    name = "transformers_cpu"
    engine = "loadcheck.stacks.transformers_cpu.engine"

    def loads(self, profile: Profile) -> bool:
        return profile.engine == "cpu" or not profile.fast_inference

    def recognises(self, attempt: Attempt) -> bool:
        return attempt.event("started") is not None

    def predict(self, case: Case) -> Prediction:
        return predict(case)

    def predict_from_log(
        self, attempt: Attempt, config: ModelConfig, profile: Profile | None, gpu: str | None
    ) -> FromLog:
        if profile is None:  # another model than the profile's is a finding of its own
            return FromLog()
        if profile.engine == "gpu":
            return FromLog(note="a load without vLLM has no plan, so its memory is not predicted")
        return FromLog(predict(Case(config=config, profile=profile)).figures)


STACK = TransformersCpu()
