"""Implements `loadcheck load`: one load and its verdict; with --recover, loads until one passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from loadcheck import device, doctor
from loadcheck.cli.ahead import if_for
from loadcheck.cli.chosen import chosen_profile
from loadcheck.cli.ci import CiReports
from loadcheck.cli.output import print_json
from loadcheck.doctor import Report
from loadcheck.errors import EXIT_FAIL, printable
from loadcheck.loading import Loaded
from loadcheck.loading import load as run_load
from loadcheck.preparing import Prepared, default_profile, prepare, reject_ignored_flags, settled_gpu
from loadcheck.recovery import Effects, Recovery
from loadcheck.recovery import recover as walk
from loadcheck.runs.ahead import Ahead
from loadcheck.runs.new_folder import default_folder
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
class LoadOptions:
    """The options of a load besides its settings; `out` is for people: stderr if JSON goes to stdout."""

    as_json: bool
    ci_reports: CiReports
    run_dir: Path | None
    force: bool
    out: Console


def load_options(as_json: bool, ci_reports: CiReports, run_dir: Path | None, force: bool) -> LoadOptions:
    return LoadOptions(as_json, ci_reports, run_dir, force, console(stderr=as_json))


def prepared_load(out: Console, profile: str | None, changed: dict[str, Any]) -> Prepared:
    """The requested load, with its prediction."""
    gpu = device.read_gpu()
    if profile is None:
        profile, why = default_profile(gpu)
        out.print(f"Profile {profile}: {printable(why)}", markup=False)
    chosen = chosen_profile(profile, changed)
    reject_ignored_flags(chosen, changed)
    return prepare(chosen, gpu)


def load(options: LoadOptions, prepared: Prepared, ahead: Ahead | None) -> int:
    out, profile = options.out, prepared.plan.profile
    if not prepared.prediction.fits and not options.force:
        options.ci_reports.write(lambda: of_prediction(f"load {profile.name}", prepared.prediction))
        if options.as_json:
            print_json({"run": None, "outcome": "refused", **prepared.prediction.to_json()})
        else:
            show_prediction(out, prepared.prediction, tree=False)
        out.print("Nothing was loaded. Add --force to load anyway.")
        return EXIT_FAIL
    report = doctor.examine(doctor.read_machine(prepared.plan, prepared.gpu, files=False), prepared.plan)
    if refused_by(out, report, options.as_json, options.force, options.ci_reports):
        return report.exit_code
    with Progress(out, _gauge(prepared)) as progress:
        loaded = run_load(prepared, options.run_dir, progress.feed, if_for(ahead, profile))
    options.ci_reports.write(lambda: _report(loaded), loaded.folder.path)
    if options.as_json:
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


def recover(options: LoadOptions, prepared: Prepared) -> int:
    """`load --recover`: like load, but walks the ladder when memory is short; its JSON has one more key, `recovery`."""
    out, name = options.out, prepared.plan.profile.name
    machine = doctor.read_machine(prepared.plan, prepared.gpu, files=False)
    report = doctor.examine(machine, prepared.plan).without("memory")  # recovery fixes that
    if refused_by(out, report, options.as_json, options.force, options.ci_reports):
        return report.exit_code

    def run(attempt: Prepared, folder: Path) -> Loaded:
        with Progress(out, _gauge(attempt)) as progress:
            return run_load(attempt, folder, progress.feed)

    effects = Effects(
        lambda profile: prepare(profile, settled_gpu(prepared.gpu)), run, lambda text: out.print(text, markup=False)
    )
    found = walk(prepared, effects, options.run_dir or default_folder(name), options.force)
    loaded = found.attempts[-1].loaded if found.attempts else None
    if loaded is None:
        options.ci_reports.write(lambda: of_prediction(f"load {name}", prepared.prediction))
    else:
        options.ci_reports.write(lambda: _report(loaded), loaded.folder.path)
    if options.as_json:
        output = loaded.to_json() if loaded else {"run": None, "outcome": "refused", **prepared.prediction.to_json()}
        print_json({**output, "recovery": found.to_json()})
    else:
        _show_recovered(out, loaded, found)
    return found.exit_code


def _show_recovered(out: Console, loaded: Loaded | None, recovery: Recovery) -> None:
    """Show the last load, and the steps to it."""
    if loaded is not None and loaded.evidence is not None:
        show_verdict(out, loaded.evidence, loaded.verdict, loaded.record, loaded.folder.path)
    elif loaded is not None:
        show_end(out, loaded.record, loaded.folder.path)
    show_recovery(out, recovery)
