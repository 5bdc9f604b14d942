"""Weights: from the hub, a package, a local directory, or made up; always a Hugging Face directory in the end."""

from __future__ import annotations

from pathlib import Path

from loadcheck.errors import BadInput, Problem
from loadcheck.plan import LoadPlan
from loadcheck.weights import hub, package, synthetic
from loadcheck.weights.cache import weights_dir


def prepare(plan: LoadPlan) -> Path:
    """The directory that holds the plan's weights, made or fetched where it is not there yet.

    BadInput or MachineCannot, in words, where it cannot be had.
    """
    source = plan.profile.weights
    if source == "package":
        return package.prepare(plan)
    if source == "hub":
        return hub.prepare(plan)
    if source == "synthetic":
        return synthetic.prepare(plan, weights_dir())
    return local(plan.profile.model)


def local(model: str) -> Path:
    """A directory of the user's own; BadInput where it is none with a config.json."""
    directory = Path(model).expanduser()
    if not (directory / "config.json").is_file():
        what = f"{model!r} is no directory with a config.json"
        raise BadInput(Problem("profile", what, "give the directory of a Hugging Face checkpoint", "model"))
    return directory.resolve()
