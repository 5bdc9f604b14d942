"""The job that the flags of `train` describe, or that of an earlier run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadcheck.data import read_data
from loadcheck.errors import BadInput, Problem
from loadcheck.runs.checkpoints import check_whole, checkpoints
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.record import RunRecord
from loadcheck.specs.files import changed, validate
from loadcheck.specs.profile import Profile
from loadcheck.specs.settings import settings_of
from loadcheck.specs.training import CPU_OPTIMIZERS, Schedule, TrainJob, TrainSettings
from loadcheck.stacks import trainer_of
from loadcheck.stacks.serving import MAX_SERVED_RANK

GRPO_LEARNING_RATE = 5e-6
"""From unsloth's notebooks; with SFT's the policy diverges."""


def chosen_job(profile: Profile, data: Path, flags: dict[str, Any]) -> TrainJob:
    """The training that the flags describe; BadInput for settings that no trainer takes."""
    settings = {"method": "sft", **given_settings(profile, flags)}
    schedule = {
        flag.key: flags[flag.parameter] for flag in settings_of(Schedule) if flags.get(flag.parameter) is not None
    }
    if settings["method"] == "grpo":
        schedule.setdefault("learning_rate", GRPO_LEARNING_RATE)
    rewards = flags["reward_functions"]
    given = {
        "settings": settings,
        "schedule": schedule,
        "data": str(data.absolute()),
        "data_sha256": read_data(data, settings["method"]).sha256,
        "limit_tokens": _limit(profile, settings),
        "truncate": flags["truncate"],
        "reward_functions": None if rewards is None else str(rewards.absolute()),
    }
    job = validate(TrainJob, given, "command line")
    refuse(profile, job)
    return job


def schedule_problems(flags: dict[str, Any]) -> tuple[Problem, ...]:
    """What is wrong with the values of the schedule's flags, each named by its flag."""
    given = {flag.key: flag for flag in settings_of(Schedule) if flags.get(flag.parameter) is not None}
    try:
        validate(Schedule, {key: flags[flag.parameter] for key, flag in given.items()}, "command line")
    except BadInput as error:
        return tuple(
            Problem(given[each.key].name, each.what, each.remedy) if each.key in given else each
            for each in error.problems
        )
    return ()


def given_settings(profile: Profile, flags: dict[str, Any]) -> dict[str, Any]:
    """The settings that the flags give, and on a CPU an optimizer that runs there."""
    given = {name: flags[name] for name in TrainSettings.__struct_fields__ if flags.get(name) is not None}
    if profile.on_cpu:
        given.setdefault("optim", CPU_OPTIMIZERS[0])
    return given


def _limit(profile: Profile, settings: dict[str, Any]) -> int:
    """Tokens of a row: as asked, or the length that the model is loaded for; for GRPO, tokens of a prompt."""
    if settings["method"] == "grpo":
        return int(settings.get("max_prompt_length", 256))
    return int(settings.get("train_seq_length", profile.max_seq_length))


def refuse_settings(profile: Profile, settings: TrainSettings) -> None:
    """BadInput for settings with which this profile's adapters cannot be trained, whatever the data."""
    where = f"profile {profile.name}"
    problems = []
    if importlib.util.find_spec(trainer_of(profile)) is None:
        what, remedy = f"{profile.loader} alone cannot train", "set it to unsloth, or leave --loader out"
        problems.append(Problem(where, what, remedy, "loader"))
    elif profile.adapters is None:
        problems.append(Problem(where, "has no adapters to train", "name another profile", "adapters"))
    if profile.on_cpu and settings.optim not in CPU_OPTIMIZERS:
        problems.append(Problem("command line", f"{settings.optim} needs a GPU", f"use {CPU_OPTIMIZERS[0]}", "--optim"))
    if settings.packing and settings.method == "grpo":
        what = "GRPO's rows are generated, and cannot be packed"
        problems.append(Problem("command line", what, "leave it out", "--packing"))
    if problems:
        raise BadInput(problems)


def refuse(profile: Profile, job: TrainJob) -> None:
    """BadInput for a job that cannot run, before anything is made."""
    refuse_settings(profile, job.settings)
    problems = list(_problems(profile, job))
    if problems:
        raise BadInput(problems)


def _problems(profile: Profile, job: TrainJob) -> Iterator[Problem]:
    settings = job.settings
    if profile.adapters is not None and profile.adapters.r > MAX_SERVED_RANK:
        what = f"rank {profile.adapters.r} is above {MAX_SERVED_RANK}, the highest that is served"
        yield Problem("command line", what, f"lower it to {MAX_SERVED_RANK}", "--lora-r")
    if settings.method == "sft" and job.limit_tokens > profile.max_seq_length:
        what = f"{job.limit_tokens} is above max_seq_length {profile.max_seq_length}"
        yield Problem("command line", what, "raise --max-seq-length", "--train-seq-length")
    if settings.packing and job.truncate:
        what = "no row is too long with --packing: it continues in the next one"
        yield Problem("command line", what, "leave it out", "--truncate")
    yield from completion_problems(profile, settings)
    if settings.method == "grpo" and job.reward_functions is None:
        yield Problem("command line", "GRPO needs reward functions", "name a Python file of them", "--reward-functions")
    elif settings.method == "grpo" and job.reward_functions is not None and not Path(job.reward_functions).is_file():
        yield Problem(job.reward_functions, "no such file", "name a Python file", "--reward-functions")
    if settings.method == "sft" and job.reward_functions is not None:
        what = "only GRPO uses reward functions"
        yield Problem("command line", what, "add --method grpo, or leave it out", "--reward-functions")


def completion_problems(profile: Profile, settings: TrainSettings) -> Iterator[Problem]:
    """A problem if the prompts and completions of GRPO are longer than the model is loaded for."""
    if settings.method == "grpo" and settings.row_tokens > profile.max_seq_length:
        what = f"prompt and completion are {settings.row_tokens} tokens, above max_seq_length {profile.max_seq_length}"
        yield Problem("command line", what, "raise --max-seq-length", "--max-completion-length")


def resumed(run: Path, data: Path | None, flags: dict[str, Any]) -> tuple[Profile, TrainJob]:
    """The profile and the job of an earlier run, to continue from its newest checkpoint.

    BadInput if it has no complete one, if nothing is left to do, and for other flags: the run states its settings itself.
    """
    record = RunFolder(run).read_record()
    found = checkpoints(run / "checkpoints")
    if (problem := _not_resumable(run, record, found, flags)) is not None:
        raise BadInput(problem)
    assert record.training is not None
    check_whole(found[-1])
    profile = validate(Profile, record.profile, f"run.json of {record.id}: profile")
    job = validate(TrainJob, record.training.get("job"), f"run.json of {record.id}: training.job")
    file = Path(job.data) if data is None else data
    if read_data(file, job.settings.method).sha256 != job.data_sha256:
        raise BadInput(
            Problem(str(file), "is not the data that this run was trained on", "put the file back", "--data")
        )
    return profile, changed(job, {"resume_from": str(found[-1].absolute()), "data": str(file.absolute())}, "train.json")


def _not_resumable(run: Path, record: RunRecord, found: list[Path], flags: dict[str, Any]) -> Problem | None:
    given = [name for name, value in flags.items() if value not in (None, False)]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        return Problem(
            "command line",
            f"{names} cannot be combined with --resume: the run continues with its own settings",
            "leave it out",
            "--resume",
        )
    if record.training is None:
        return Problem(str(run), "is a load, not a training", "name the folder of a training", "--resume")
    if record.outcome == "completed":
        return Problem(str(run), "is completed", "start a new training with more --max-steps", "--resume")
    if not found:
        return Problem(str(run), "has no checkpoint", "start a new training with --save-steps", "--resume")
    return None
