"""Makes a plan from a profile: everything is resolved before any process starts."""

from __future__ import annotations

from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.specs.files import Spec, to_data, validate
from loadcheck.specs.model import Checkpoint, find_model, resolve_model
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig, Quantization


class LoadPlan(Spec, frozen=True):
    """A load, fully resolved (plan.json).

    Attributes:
        model_name: the name to show, and of the folder of its weights.
        config: the model's shape, quantization included.
        checkpoint: where its weights are on the hub; None if they come from elsewhere.
    """

    profile: Profile
    model_name: str
    config: ModelConfig
    checkpoint: Checkpoint | None

    @property
    def quantization(self) -> Quantization:
        return self.config.quantization


def make_plan(profile: Profile) -> LoadPlan:
    """Resolve a profile's model; BadInput if the profile's weights are not available."""
    model_name, config = resolve_model(profile.model, profile.load_in_4bit)
    checkpoint = None
    if profile.weights == "hub":
        model = find_model(profile.model)
        checkpoint = model.checkpoints.get(config.quantization) if model else None
        if checkpoint is None:
            raise BadInput(
                Problem(
                    f"profile {profile.name}",
                    f"no pinned {config.quantization} checkpoint of {profile.model} is known",
                    "add it to env/models, or use weights = 'local' or 'synthetic'",
                    "weights",
                )
            )
    return LoadPlan(profile, model_name, config, checkpoint)


def plan_to_json(plan: LoadPlan) -> dict[str, Any]:
    """The plan as JSON data, for the engine's process."""
    return to_data(plan)


def plan_from_json(data: object) -> LoadPlan:
    """The inverse of `plan_to_json`; BadInput for anything else."""
    return validate(LoadPlan, data, "plan.json")
