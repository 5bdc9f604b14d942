"""`loadcheck load`: its options, and the engine's process, which starts before anything else is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loadcheck.cli.ahead import begin_reading, started_ahead
from loadcheck.cli.chosen import overrides
from loadcheck.cli.ci import CiCommand, CiReports
from loadcheck.cli.options import HERE, PATH, json_option, profile_argument, setting_options
from loadcheck.runs.new_folder import refuse_taken


@click.command("load", cls=CiCommand, short_help="Load a model, attach adapters, answer once, check each figure.")
@profile_argument(HERE)
@setting_options(lambda _: True)
@click.option("--no-adapters", is_flag=True, help="Attach no LoRA adapters.")
@click.option("--run-dir", type=PATH, help="Folder of this run.  [default: runs/<time>-<profile>]")
@click.option("--force", is_flag=True, help="Start even if the load is predicted to fail.")
@click.option(
    "--recover", is_flag=True,
    help="If the load does not fit, change settings, cheapest first, until one passes.",
)  # fmt: skip
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

    Exit codes: 0 every figure is in range, 1 one is not, or the load failed or would not fit, 2 bad input, 3 this machine cannot.
    """
    if run_dir is not None:
        refuse_taken(run_dir)
    changed = overrides(flags) | ({"adapters": None} if no_adapters else {})
    if recover:
        from loadcheck.cli import load_job

        options = load_job.load_options(as_json, ci_reports, run_dir, force)
        return load_job.recover(options, load_job.prepared_load(options.out, profile, changed))
    with started_ahead(profile, changed) as ahead:
        from loadcheck.cli import load_job  # only now, as the engine's process already imports

        begin_reading(profile, changed)
        options = load_job.load_options(as_json, ci_reports, run_dir, force)
        return load_job.load(options, load_job.prepared_load(options.out, profile, changed), ahead)
