"""Provides the weights as a Hugging Face directory: from the hub, a package, a local directory, or synthetic."""

from __future__ import annotations

from pathlib import Path

from loadcheck.errors import BadInput, Problem
from loadcheck.plan import LoadPlan
from loadcheck.weights import hub, package, synthetic
from loadcheck.weights.cache import check_usable, explained, weights_dir
from loadcheck.weights.mirror import check_sums
from loadcheck.weights.opened import unsafe


def check(plan: LoadPlan) -> None:
    """BadInput if the plan's weights are not available, as far as can be checked without a download: their source, and the cache."""
    source = plan.profile.weights
    if source == "local":
        local(plan.profile.model)
    elif source == "package":
        package.locked(plan.model_name)
    elif source == "hub":
        hub.pinned(plan)
    try:
        found = in_cache(plan)
    except OSError as error:  # such as a folder that this user may not read
        raise explained(weights_dir(), error) from None
    if not found:
        check_usable()


def in_cache(plan: LoadPlan) -> bool:
    """Whether the cache has the plan's folder under its final name; its content is checked only before a load."""
    source = plan.profile.weights
    if source == "local":
        return True
    if source == "package":
        return any(weights_dir().glob(package.directory_name(plan.model_name, plan.quantization, "*")))
    return cached_folder(plan) is not None


def cached_folder(plan: LoadPlan) -> Path | None:
    """The cached folder of the plan's weights, synthetic or from the hub, under its final name; None if there is none."""
    source, cache, checkpoint = plan.profile.weights, weights_dir(), plan.checkpoint
    if source == "synthetic":
        folder = cache / "synthetic" / synthetic.directory_name(plan.model_name, plan.config)
    elif source == "hub" and checkpoint is not None and checkpoint.revision is not None:
        folder = cache / checkpoint.revision[:12] / hub.directory_name(checkpoint, plan.quantization)
    else:
        return None
    return folder if folder.is_dir() else None


def prepare(plan: LoadPlan) -> Path:
    """The directory of the plan's weights, made or downloaded if it does not exist yet.

    BadInput or UnsupportedMachine if that is not possible.
    """
    source = plan.profile.weights
    if source == "package":
        return package.prepare(plan)
    if source == "hub":
        return hub.prepare(plan)
    if source == "synthetic":
        return synthetic.prepare(plan, weights_dir())
    refuse_unsafe(plan)  # again: it may have changed since the load was prepared
    directory = local(plan.profile.model)
    check_sums(directory)
    return directory


def unsafe_local(plan: LoadPlan) -> tuple[Problem, ...]:
    """Problems of a local directory in which the engine would open anything but pure data: pickles, code, files that only look like weights."""
    if plan.profile.weights != "local":
        return ()
    directory = local(plan.profile.model)
    try:
        return unsafe(directory, by_engine=not plan.profile.on_cpu and plan.profile.fast_inference)
    except OSError as error:
        return (Problem(str(directory), f"cannot be read ({error.strerror})", "check its permissions", "model"),)


def refuse_unsafe(plan: LoadPlan) -> None:
    """BadInput if the engine would open a pickle; this check does not open it."""
    problems = unsafe_local(plan)
    if problems:
        raise BadInput(problems)


def local(model: str) -> Path:
    """The user's own directory; BadInput if it has no config.json."""
    directory = Path(model).expanduser()
    if not (directory / "config.json").is_file():
        what = f"{model!r} is not a directory with a config.json"
        remedy = "give the directory of a Hugging Face checkpoint, or other weights than local"
        raise BadInput(Problem("profile", what, remedy, "model"))
    return directory.resolve()
