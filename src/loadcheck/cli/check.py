"""`loadcheck check`: the verdict on a log or a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loadcheck.checking import gather
from loadcheck.cli.chosen import log_file, overrides
from loadcheck.cli.ci import CiCommand, CiReports
from loadcheck.cli.options import GPU_HELP, PATH, json_option, profile_options
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_FAIL, EXIT_PASS
from loadcheck.loading import judge_folder
from loadcheck.runs.folder import RunFolder
from loadcheck.show.ci.report import of_verdict
from loadcheck.show.train import show_trained
from loadcheck.show.verdict import judged_as, show_verdict
from loadcheck.terminal import console, print_words
from loadcheck.training import is_training, judge_training_folder
from loadcheck.verdict import Evidence, Verdict, judge


@click.command("check", cls=CiCommand, short_help="Judge a run or a log: pass, or what is wrong and the fix.")
@click.argument("target", metavar="RUN|LOG", type=PATH)
@click.option(
    "--profile", metavar="PROFILE", help="Judge as a load of this profile; then any version but the pinned one fails."
)
@click.option("--gpu", help=GPU_HELP)
@profile_options
@json_option
def command(
    target: Path, profile: str | None, gpu: str | None, as_json: bool, ci_reports: CiReports, **flags: Any
) -> int:
    """Judge a run folder or a LOG: shape, stack, identities, prediction, golden ranges. Use - to read a log from stdin.

    A run folder states its settings. A log does not state all of them: it is judged as the profile whose settings it prints, or as none.
    --profile names the profile, and the other flags name settings that differed from it.

    Exit codes: 0 pass, 1 anything else, 2 bad input.
    """
    changed = overrides(flags)
    if target.is_dir() and is_training(RunFolder(target).read_record()):
        return _training(target, as_json, ci_reports)
    if target.is_dir():
        loaded = judge_folder(target, profile, gpu, changed)
        evidence, verdict, record = loaded.evidence, loaded.verdict, loaded.record
    else:
        with log_file(target) as file:
            evidence = gather(file, profile, gpu, overrides=changed)
            verdict, record = judge(evidence), None
    ci_reports.write(lambda: of_verdict(f"check {target}", evidence, verdict, record))
    if as_json:
        named = evidence.profile.name if evidence is not None and evidence.profile is not None else None
        print_json({"profile": named, **verdict.to_json()})
    else:
        _show(target, evidence, verdict)
    return EXIT_PASS if verdict.passed else EXIT_FAIL


def _show(target: Path, evidence: Evidence | None, verdict: Verdict) -> None:
    out = console()
    if evidence is not None:
        print_words(out, f"{target}: {judged_as(evidence)}")
    show_verdict(out, evidence, verdict)


def _training(folder: Path, as_json: bool, ci_reports: CiReports) -> int:
    """Judge a training, which states its settings itself."""
    trained = judge_training_folder(folder)
    ci_reports.write(lambda: of_verdict(f"check {folder}", trained.evidence, trained.verdict, trained.record))
    if as_json:
        print_json({"profile": trained.record.profile.get("name"), **trained.verdict.to_json()})
    else:
        show_trained(console(), trained)
    return trained.exit_code
