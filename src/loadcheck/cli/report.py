"""`loadcheck report`: show a run folder again, also as a page."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.cli.ci import CiCommand, CiReports
from loadcheck.cli.options import PATH, json_option
from loadcheck.cli.output import html_option, print_json
from loadcheck.cli.written import write_page
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.loading import Loaded, judge_folder
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.sampler import read_samples
from loadcheck.show.ci.report import of_verdict
from loadcheck.show.page import run_page, trained_part
from loadcheck.show.train import show_trained
from loadcheck.show.verdict import show_verdict
from loadcheck.terminal import console
from loadcheck.training import Trained, is_training, judge_training_folder


@click.command("report", cls=CiCommand, short_help="Show a run again: its figures, its verdict, how it ended.")
@click.argument("run", type=PATH)
@html_option
@json_option
def command(run: Path, as_json: bool, html: Path | None, ci_reports: CiReports) -> int:
    """Show a RUN folder again: its figures, its verdict, how it ended.

    Exit codes: 0 pass, 1 anything else, 2 bad input.
    """
    if run.is_file():
        raise BadInput(Problem(str(run), "is a log, not a run folder", f"use: loadcheck check {run}"))
    loaded = judge_training_folder(run) if is_training(RunFolder(run).read_record()) else judge_folder(run)
    ci_reports.write(lambda: of_verdict(f"run {loaded.record.id}", loaded.evidence, loaded.verdict, loaded.record))
    if not as_json:
        _show(loaded)
    if html is not None:
        samples = read_samples(loaded.folder.memory_path)
        training = trained_part(loaded) if isinstance(loaded, Trained) else None
        page = run_page(loaded.record, loaded.evidence, loaded.verdict, samples, training)
        write_page(html, page, loaded.folder.path)
    if as_json:  # last, as an error would be the one document
        print_json(loaded.to_json())
    return EXIT_PASS if loaded.verdict.passed else EXIT_FAIL


def _show(loaded: Loaded | Trained) -> None:
    if isinstance(loaded, Trained):
        show_trained(console(), loaded)
        return
    show_verdict(console(), loaded.evidence, loaded.verdict, loaded.record, loaded.folder.path)
