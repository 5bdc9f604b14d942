"""Shortcuts to known models, and to predictions, fits and searches on the pinned stack."""

from loadcheck.predict import Card, Case, Prediction
from loadcheck.predict.fit import Fit, Goal
from loadcheck.predict.fit import fit as fit_case
from loadcheck.predict.search import NOTHING, Search
from loadcheck.specs.model import find_model
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig, Quantization
from loadcheck.stacks.unsloth_vllm import STACK as UNSLOTH_VLLM


def known_config(name: str = "llama-3.1-8b-instruct", quantization: Quantization = "nf4") -> ModelConfig:
    """The config of a model of env/models."""
    model = find_model(name)
    assert model is not None
    return model.config_for(quantization)


def case_of(config: ModelConfig, profile: Profile, card: Card, ram_bytes: int) -> Case:
    return Case(config=config, profile=profile, card=card, ram_available_bytes=ram_bytes)


def predict(config: ModelConfig, profile: Profile, card: Card, ram_bytes: int) -> Prediction:
    return UNSLOTH_VLLM.predict(case_of(config, profile, card, ram_bytes))


def fit(
    config: ModelConfig,
    profile: Profile,
    card: Card,
    ram_bytes: int,
    goal: Goal = "length",
    given: frozenset[str] = NOTHING,
) -> Fit:
    return fit_case(UNSLOTH_VLLM, case_of(config, profile, card, ram_bytes), goal, given)


def search(
    config: ModelConfig, card: Card, ram_bytes: int, profile: Profile, given: frozenset[str] = NOTHING
) -> Search:
    return Search(UNSLOTH_VLLM, case_of(config, profile, card, ram_bytes), given)
