"""`loadcheck doctor`: the problems of this machine."""

from __future__ import annotations

from typing import Any

import click

from loadcheck import device, doctor
from loadcheck.cli.chosen import chosen_profile, overrides
from loadcheck.cli.ci import CiCommand, CiReports
from loadcheck.cli.options import HERE, json_option, profile_argument, profile_options, setting_options
from loadcheck.cli.output import print_json
from loadcheck.plan import make_plan
from loadcheck.preparing import default_profile, refuse_bad_input, reject_ignored_flags
from loadcheck.show.ci.report import of_machine
from loadcheck.show.doctor import show_report
from loadcheck.terminal import console


@click.command("doctor", cls=CiCommand, short_help="Report what would stop a load here, before any download.")
@profile_argument(HERE)
@profile_options
@setting_options(lambda flag: flag.key == "weights")
@json_option
def command(as_json: bool, ci_reports: CiReports, profile: str | None, **flags: Any) -> int:
    """Report what would stop a load of PROFILE on this machine, before anything is downloaded.

    Exit codes: 0 the load can start (there may be warnings), 1 problems to fix, 2 bad input, 3 this machine cannot.
    """
    gpu, changed = device.read_gpu(), overrides(flags)
    plan = make_plan(chosen_profile(profile or default_profile(gpu)[0], changed))
    reject_ignored_flags(plan.profile, changed)
    refuse_bad_input(plan)
    report = doctor.examine(doctor.read_machine(plan, gpu), plan)
    ci_reports.write(lambda: of_machine(report))
    if as_json:
        print_json(report.to_json())
    else:
        show_report(console(), report)
    return report.exit_code
