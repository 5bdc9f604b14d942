"""`loadcheck load`: one load, judged; with --recover until one passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from loadcheck import device, doctor
from loadcheck.cli.ahead import begin_reading, if_for, started_ahead
from loadcheck.cli.chosen import chosen_profile, overrides
from loadcheck.cli.ci import CiReports, ci_options
from loadcheck.cli.options import json_option, setting_options
from loadcheck.cli.output import print_json
from loadcheck.doctor import Report
from loadcheck.errors import EXIT_FAIL, printable
from loadcheck.loading import Loaded
from loadcheck.loading import load as run_load
from loadcheck.preparing import Prepared, default_profile, prepare, reject_ignored_flags, settled_gpu
from loadcheck.recovery import Effects, Recovery
from loadcheck.recovery import recover as walk
from loadcheck.runs.ahead import Ahead
from loadcheck.runs.folder import default_folder, refuse_taken
from loadcheck.show.ci.report import Report as CiReport
from loadcheck.show.ci.report import of_machine, of_prediction, of_verdict
from loadcheck.show.doctor import show_troubles
from loadcheck.show.gauge import Gauge, gauge
from loadcheck.show.prediction import show_prediction
from loadcheck.show.progress import Progress
from loadcheck.show.recovery import show_recovery
from loadcheck.show.verdict import show_end, show_verdict
from loadcheck.terminal import console


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a load beside its settings."""

    out: Console
    as_json: bool
    ci_reports: CiReports
    run_dir: Path | None
    force: bool


@click.command("load", short_help="Load a model, attach adapters, answer once, check each figure.")
@click.argument("profile", required=False)
@setting_options(lambda _: True)
@click.option("--no-adapters", is_flag=True, help="Attach no LoRA adapters.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), help="Folder of this run.  [default: runs/<time>-<profile>]"
)
@click.option("--force", is_flag=True, help="Start even if the load is predicted to fail.")
@click.option(
    "--recover", is_flag=True,
    help="If the load does not fit, change settings, cheapest first, until one passes.",
)  # fmt: skip
@ci_options
@json_option
def command(
    profile: str | None,
    as_json: bool,
    ci_reports: CiReports,
    no_adapters: bool,
    run_dir: Path | None,
    force: bool,
    recover: bool,
    **flags: Any,
) -> int:
    """Load the model of PROFILE, attach adapters, answer once, and check every memory figure.

    Without PROFILE: the reference on a GPU, the small model on the CPU otherwise.
    """
    if run_dir is not None:
        refuse_taken(run_dir)
    asked = Asked(console(stderr=as_json), as_json, ci_reports, run_dir, force)
    changed = overrides(flags) | ({"adapters": None} if no_adapters else {})
    if recover:
        return _recover(asked, _prepared(asked.out, profile, changed))
    with started_ahead(profile, changed) as ahead:
        begin_reading(profile, changed)
        return _load(asked, _prepared(asked.out, profile, changed), ahead)


def _prepared(out: Console, profile: str | None, changed: dict[str, Any]) -> Prepared:
    """The load that is asked for, with its prediction."""
    gpu = device.read_gpu()
    if profile is None:
        profile, why = default_profile(gpu)
        out.print(f"Profile {profile}: {printable(why)}", markup=False)
    chosen = chosen_profile(profile, changed)
    reject_ignored_flags(chosen, changed)
    return prepare(chosen, gpu)


def _load(asked: Asked, prepared: Prepared, ahead: Ahead | None) -> int:
    out, profile = asked.out, prepared.plan.profile
    if not prepared.prediction.fits and not asked.force:
        asked.ci_reports.write(lambda: of_prediction(f"load {profile.name}", prepared.prediction))
        if asked.as_json:
            print_json({"run": None, "outcome": "refused", **prepared.prediction.to_json()})
        else:
            show_prediction(out, prepared.prediction, tree=False)
        out.print("Nothing was loaded. Add --force to load anyway.")
        return EXIT_FAIL
    report = doctor.examine(doctor.read_machine(prepared.plan, prepared.gpu, files=False), prepared.plan)
    if refused_by(out, report, asked.as_json, asked.force, asked.ci_reports):
        return report.exit_code
    with Progress(out, _gauge(prepared)) as progress:
        loaded = run_load(prepared, asked.run_dir, progress.feed, if_for(ahead, profile))
    asked.ci_reports.write(lambda: _report(loaded), loaded.folder.path)
    if asked.as_json:
        print_json(loaded.to_json())
    else:
        show_verdict(out, loaded.evidence, loaded.verdict, loaded.record, loaded.folder.path)
    return loaded.exit_code


def _gauge(prepared: Prepared) -> Gauge:
    return gauge(prepared.plan.profile.on_cpu, prepared.prediction.figures.peak_device_bytes)


def _report(loaded: Loaded) -> CiReport:
    return of_verdict(f"load {loaded.record.id}", loaded.evidence, loaded.verdict, loaded.record)


def refused_by(out: Console, report: Report, as_json: bool, force: bool, ci_reports: CiReports) -> bool:
    """Show the problems of the machine; whether they stop the load."""
    show_troubles(out, report)
    refused = bool(report.problems) and not force
    if refused:
        ci_reports.write(lambda: of_machine(report))
        if as_json:
            print_json({"run": None, **report.to_json(), "outcome": "refused"})
        out.print("Nothing was started. Add --force to start anyway; run `loadcheck doctor` for details.")
    return refused


def _recover(asked: Asked, prepared: Prepared) -> int:
    """`load --recover`: like load, but walks the ladder when memory is short; JSON has one more key, `recovery`."""
    out, name = asked.out, prepared.plan.profile.name
    machine = doctor.read_machine(prepared.plan, prepared.gpu, files=False)
    report = doctor.examine(machine, prepared.plan).without("memory")  # which is what is going to be fixed
    if refused_by(out, report, asked.as_json, asked.force, asked.ci_reports):
        return report.exit_code

    def run(attempt: Prepared, folder: Path) -> Loaded:
        with Progress(out, _gauge(attempt)) as progress:
            return run_load(attempt, folder, progress.feed)

    effects = Effects(
        lambda profile: prepare(profile, settled_gpu(prepared.gpu)), run, lambda text: out.print(text, markup=False)
    )
    found = walk(prepared, effects, asked.run_dir or default_folder(name), asked.force)
    loaded = found.attempts[-1].loaded if found.attempts else None
    if loaded is None:
        asked.ci_reports.write(lambda: of_prediction(f"load {name}", prepared.prediction))
    else:
        asked.ci_reports.write(lambda: _report(loaded), loaded.folder.path)
    if asked.as_json:
        said = loaded.to_json() if loaded else {"run": None, "outcome": "refused", **prepared.prediction.to_json()}
        print_json({**said, "recovery": found.to_json()})
    else:
        _show_recovered(out, loaded, found)
    return found.exit_code


def _show_recovered(out: Console, loaded: Loaded | None, found: Recovery) -> None:
    """Show the last load, and the steps to it."""
    if loaded is not None and loaded.evidence is not None:
        show_verdict(out, loaded.evidence, loaded.verdict, loaded.record, loaded.folder.path)
    elif loaded is not None:
        show_end(out, loaded.record, loaded.folder.path)
    show_recovery(out, found)
