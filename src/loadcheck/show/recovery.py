"""A recovery for people: each step with its gain, the attempts, what they measured, and the settings to keep."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from rich.console import Console

from loadcheck.predict.ladder import Step
from loadcheck.recovery.attempt import Attempt, Gain
from loadcheck.recovery.walk import Recovery, Walked
from loadcheck.specs.trouble import Shortage
from loadcheck.terminal import escape, print_table, print_whole, print_words
from loadcheck.units import to_gib

SHORT: dict[Shortage, str] = {
    "kv_estimate": "KV cache by unsloth's estimate",
    "batch": "tokens in a batch",
    "profile": "room in the profile run",
    "kv_cache": "KV cache",
    "peak": "room at the peak",
}


def show_recovery(out: Console, recovery: Recovery) -> None:
    """Print steps, attempts, gains and the end; only the end if nothing had to be fixed."""
    if not recovery.needed:
        _show_end(out, recovery, "Nothing to recover:")
        return
    out.print("\nRecovery, cheapest step first; gains are predicted, from the settings asked for:", markup=False)
    _show_steps(out, recovery)
    for attempt in recovery.attempts:
        print_words(out, f"attempt {attempt.number} {_ended(attempt)}; kept in {attempt.loaded.folder.path}")
    _show_gains(out, recovery.gains())
    _show_end(out, recovery, "[green]RECOVERED[/]")
    if recovery.flags:
        print_whole(out, f"flags: {recovery.flags}")
    if recovery.kept is not None:
        print_words(out, f"profile: {recovery.kept} (for `loadcheck load`)")


def _show_end(out: Console, recovery: Recovery, passed: str) -> None:
    out.print(f"{passed if recovery.passed else '[bold red]NOT RECOVERED[/]'} {escape(recovery.end)}")


def _show_steps(out: Console, recovery: Recovery) -> None:
    number = 0
    for after, walked in groupby(recovery.walked, lambda entry: entry.after):
        if after:
            short = recovery.attempts[after - 1].short
            what = "something unknown" if short is None else SHORT[short]
            out.print(f"after attempt {after}, which was short of {what}:", markup=False)
        for entry in walked:
            number += 1
            out.print(f"{number:>2} {_step(entry)}", markup=False)
            for change in entry.step.changes:
                out.print(f"     {change}", markup=False)


def _step(walked: Walked) -> str:
    step = walked.step
    done = "skipped" if walked.attempt is None else f"attempt {walked.attempt}"
    return f"{step.rung.name}: {show_gain(step)}; {'fits' if step.fits else _lacks(step)}; {done}"


def show_gain(step: Step) -> str:
    """The gain of a step in what is short, with its unit."""
    amount = f"{step.gain:+d}" if step.at == "batch" else f"{to_gib(step.gain):+.2f} GiB of"
    return f"{amount} {SHORT[step.at]}"


def _lacks(step: Step) -> str:
    """What is still missing, named if the gain is of something else."""
    short = step.state.short
    lack = None if short is None else step.state.lacks.get(short)
    if short is None or lack is None:
        return "does not fit"
    amount = f"{lack}" if short == "batch" else f"{to_gib(lack):.2f} GiB"
    return f"lacks {amount}" if short == step.at else f"lacks {amount} of {SHORT[short]}"


def _ended(attempt: Attempt) -> str:
    if attempt.passed:
        return "passed"
    if attempt.short is not None:
        return f"failed, short of {SHORT[attempt.short]}"
    return attempt.loaded.record.outcome if attempt.loaded.record.outcome != "completed" else "did not pass"


def _show_gains(out: Console, gains: Iterable[Gain]) -> None:
    """Print predicted and measured gains: a table for each load or refusal that the passing one is compared with."""
    for before, group in groupby(gains, lambda gain: gain.before):
        what = "the settings asked for, as predicted" if before is None else f"attempt {before}"
        out.print(f"\nChange in GiB from {what}, to the load that passed:", markup=False)
        print_table(out, ("figure", "predicted", "measured", ""), "lrrl", map(_gain_row, group))


def _gain_row(gain: Gain) -> tuple[str, ...]:
    measured = "not in log" if gain.measured_bytes is None else f"{to_gib(gain.measured_bytes):+.2f}"
    word = {None: "", True: "ok", False: "DIFFERS"}[gain.agrees]
    return gain.name, f"{to_gib(gain.predicted_bytes):+.2f}", measured, word
