"""`loadcheck train`: fine-tune the adapters on a file of data, and judge the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from loadcheck import device, doctor
from loadcheck.cli.chosen import chosen_profile, overrides
from loadcheck.cli.ci import CiCommand, CiReports
from loadcheck.cli.config_option import config_option
from loadcheck.cli.load_job import refused_by
from loadcheck.cli.options import HERE, PATH, json_option, profile_argument, setting_options
from loadcheck.cli.output import print_json
from loadcheck.cli.train_job import chosen_job, resumed, schedule_problems
from loadcheck.cli.train_options import train_options
from loadcheck.data import read_data
from loadcheck.errors import EXIT_FAIL, BadInput, Problem, printable
from loadcheck.preparing import Prepared, default_profile, prepare, reject_ignored_flags, require
from loadcheck.runs.new_folder import refuse_taken
from loadcheck.show.ci.report import of_peaks, of_verdict
from loadcheck.show.train import TrainProgress, show_counted, show_data, show_trained
from loadcheck.specs.profile import Profile
from loadcheck.specs.training import Schedule, TrainJob
from loadcheck.terminal import console
from loadcheck.training import DoesNotFitError, Trained, Training, train
from loadcheck.workloads.peaks import Peaks

TRAINERS = ("trl", "datasets")
"""The packages that a training also needs."""
OF_OTHERS = ("training.", "generation.", "adapters.use_gradient_checkpointing", "weights", "fast_inference")
"""Settings of a profile that a training does not have, or has as its own options."""


@click.command("train", cls=CiCommand, short_help="Fine-tune the adapters on your data, predicted and judged.")
@profile_argument(HERE)
@click.option(
    "--data", type=PATH, metavar="FILE", help="Data: a .jsonl or .json file; docs/training.md lists the forms."
)
@train_options
@setting_options(lambda _: True, Schedule)
@setting_options(lambda flag: not flag.key.startswith(OF_OTHERS))
@click.option("--truncate", is_flag=True, help="Cut rows that are too long instead of refusing them.")
@click.option(
    "--reward-functions", type=PATH, metavar="FILE", help="GRPO: Python file with functions that take `completions`."
)
@click.option("--resume", type=PATH, metavar="RUN", help="Continue from the newest checkpoint of an earlier run.")
@click.option("--run-dir", type=PATH, help="Folder of this run.  [default: runs/<time>-<profile>]")
@click.option("--force", is_flag=True, help="Start even if the training is predicted not to fit.")
@json_option
@config_option
def command(
    profile: str | None,
    as_json: bool,
    ci_reports: CiReports,
    data: Path | None,
    resume: Path | None,
    run_dir: Path | None,
    force: bool,
    **flags: Any,
) -> int:
    """Fine-tune the adapters of PROFILE on a file of data with trl's own trainers, and judge the result.

    Without PROFILE: the reference on a GPU, the small model on the CPU otherwise. SFT trains without vLLM unless --fast-inference is given.

    Exit codes: 0 it trained, and every figure is in range, 1 it did not, or one is not, 2 bad input, 3 this machine cannot.
    """
    out = console(stderr=as_json)
    if run_dir is not None:
        refuse_taken(run_dir)
    gpu = device.read_gpu()
    given = {**flags, "profile": profile}
    chosen, job = _chosen(out, given, data, gpu) if resume is None else resumed(resume, data, given)
    show_data(out, read_data(Path(job.data), job.settings.method))
    prepared = prepare(chosen, gpu)
    require(TRAINERS, chosen)
    report = doctor.examine(doctor.read_machine(prepared.plan, gpu, files=False), prepared.plan)
    if refused_by(out, report, as_json, force, ci_reports):
        return report.exit_code
    try:
        trained = _run(out, prepared, job, run_dir, force)
    except DoesNotFitError as error:
        return _refused(out, prepared.plan.profile.name, error.peaks, as_json, ci_reports)
    title = f"train {trained.record.id}"
    ci_reports.write(lambda: of_verdict(title, trained.evidence, trained.verdict, trained.record), trained.folder.path)
    if as_json:
        print_json(trained.to_json())
    else:
        show_trained(out, trained)
    return trained.exit_code


def _run(out: Console, prepared: Prepared, job: TrainJob, run_dir: Path | None, force: bool) -> Trained:
    """Train, and show the progress."""
    with TrainProgress(out) as progress:

        def predicted(final: TrainJob, peaks: Peaks, counted: dict[str, Any]) -> None:
            progress.peak_bytes = peaks.allocated_bytes or peaks.host_bytes
            show_counted(out, final, peaks, counted)

        return train(prepared, Training(prepared.case, job, predicted, force), run_dir, progress.feed)


def _chosen(
    out: Console, flags: dict[str, Any], data: Path | None, gpu: device.GpuDevice | None
) -> tuple[Profile, TrainJob]:
    """The profile and the job that the flags describe; BadInput without data."""
    if data is None:
        raise BadInput(Problem("command line", "is missing", "name the file to train on", "--data"))
    name = flags["profile"]
    if name is None:
        name, why = default_profile(gpu)
        out.print(f"Profile {name}: {printable(why)}", markup=False)
    changed = overrides(flags)
    if flags["method"] != "grpo" and changed.get("loader") != "vllm":  # which is refused by its own name
        changed.setdefault("fast_inference", False)
    chosen = _trained_profile(name, changed, flags)
    reject_ignored_flags(chosen, changed)
    return chosen, chosen_job(chosen, data, flags)


def _trained_profile(name: str, changed: dict[str, Any], flags: dict[str, Any]) -> Profile:
    """The profile to train; BadInput for every wrong flag of the profile or of the schedule at once."""
    problems = schedule_problems(flags)
    try:
        chosen = chosen_profile(name, changed, follows_rank=True)
    except BadInput as error:
        problems += tuple(each for each in error.problems if each not in problems)
    if problems:
        raise BadInput(problems)
    return chosen


def _refused(out: Console, name: str, peaks: Peaks, as_json: bool, ci_reports: CiReports) -> int:
    ci_reports.write(lambda: of_peaks(f"train {name}", peaks))
    out.print(
        "[bold red]DOES NOT FIT[/]  Nothing was trained. Add --force to train anyway; `loadcheck fit --method` shows what fits."
    )
    if as_json:
        print_json({"run": None, "outcome": "refused", "fits": False, "predicted": peaks.to_json()})
    return EXIT_FAIL
