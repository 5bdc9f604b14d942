"""The command line. Every command: what it needs from the layers below, what it prints, and its exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from loadcheck import __version__
from loadcheck.encoding import json_text, print_in_any_encoding
from loadcheck.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAIL,
    EXIT_PASS,
    BadInput,
    LoadcheckError,
    Problem,
    printable,
    printable_lines,
)
from loadcheck.specs.profile import Profile
from loadcheck.specs.settings import Flag, settings_of

if TYPE_CHECKING:
    from rich.console import Console

    from loadcheck.doctor import Report
    from loadcheck.loading import Loaded, Prepared
    from loadcheck.predict import Card, Case

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON document on stdout, and no table anywhere; progress, warnings and errors go to stderr.",
)
EXIT_BROKEN_PIPE = 141
"""Nobody read what was found, so it is no pass: 128 + SIGPIPE, as a shell says it."""
PREDICTED_PROFILE = "llama31-8b-instruct-4bit"
"""What `predict` and `fit` are about where no profile is named: the reference, whatever this machine has."""
SCHEMA = 1
"""Of every document of --json: a key may be added under the same number, and none changes its meaning."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, likewise."""
STEPS = "training.steps"
GPU_HELP = "A card of env/gpus.toml, such as T4 or H100."


class Bytes(click.ParamType):
    """A number of bytes, or of KiB, MiB or GiB with its unit."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from loadcheck.units import parse_bytes

        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(f"{error}; give bytes, or 24GiB", param, ctx)


def setting_option(flag: Flag) -> Callable[[Command], Command]:
    """The option of one setting of a profile; without it, the profile's own value stays."""
    if flag.off is not None:
        return click.option(f"{flag.name}/{flag.off}", flag.parameter, default=None, help=flag.setting.help)
    kind = click.Choice(flag.choices) if flag.choices else {int: int, float: float}.get(flag.kind, str)
    return click.option(flag.name, type=kind, help=flag.setting.help)


def setting_options(wanted: Callable[[Flag], bool]) -> Callable[[Command], Command]:
    """The options of some settings, in the order of the profile's fields."""

    def decorate(command: Command) -> Command:
        for flag in reversed([flag for flag in settings_of(Profile) if wanted(flag)]):
            command = setting_option(flag)(command)
        return command

    return decorate


profile_options = setting_options(lambda flag: not flag.setting.only_load and flag.key != STEPS)
"""For every command that takes a profile: the flags of what a prediction depends on."""
train_steps_option = setting_options(lambda flag: flag.key == STEPS)


def predicted_profile(command: Command) -> Command:
    """PROFILE, as `load` takes it, or --profile, for the commands that predict."""
    option = click.option(
        "--profile", "named", metavar="PROFILE",
        help=f"The same as PROFILE: one of env/profiles, or a .toml file.  [default: {PREDICTED_PROFILE}]",
    )  # fmt: skip
    return click.argument("profile", required=False)(option(command))


def card_options(command: Command) -> Command:
    """The flags that describe a card and its machine, for the commands that predict."""
    options = (
        click.option("--gpu", help=GPU_HELP + " Without it: the GPU of this machine."),
        click.option(
            "--gpu-total-bytes", type=Bytes(), help="The card's memory as CUDA reports it: bytes, or 23.6GiB."
        ),
        click.option("--gpu-free-bytes", type=Bytes(), help="What of it is free right before the load."),
        click.option("--compute-capability", help="Such as 8.9."),
        click.option("--non-torch-bytes", type=Bytes(), help="What vLLM will count as non_torch, where you know it."),
        click.option(
            "--ram-available-bytes",
            type=Bytes(),
            help="Available RAM, which decides the swap space; default: this machine's.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


class Group(click.Group):
    """A group that names the nearest command for a misspelt one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from loadcheck.errors import suggestion

            raise click.UsageError(f"{error.message} {suggestion(args[0], self.commands)}", ctx) from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="loadcheck %(version)s")
@click.option("--debug", is_flag=True, help="Show a traceback for every error.")
def cli(debug: bool) -> None:
    """Predict, measure and judge every memory figure of a 4-bit load with Unsloth and vLLM.

    Exit codes: 0 in range, 1 out of range or would not fit, 2 bad input, 3 this machine cannot.
    """


@contextmanager
def log_file(target: Path) -> Iterator[Path]:
    """`target` itself; for "-" and a pipe a file with what they say, as a log is read more than once."""
    from loadcheck.logs.text import rereadable

    with rereadable(target, sys.stdin.buffer if str(target) == "-" else None) as file:
        yield file


@cli.command(short_help="Print every figure of a log, with its line.")
@click.argument("target", metavar="RUN|LOG", type=click.Path(path_type=Path))
@json_option
def parse(target: Path, as_json: bool) -> int:
    """Read every figure of a load LOG, or of a RUN folder's; - reads a log from stdin."""
    from loadcheck.checking import read_log
    from loadcheck.report import reading_rows
    from loadcheck.terminal import print_table

    with log_file(target) as file:
        parsed = read_log(file)
    if as_json:
        _print_json(parsed.to_json())
        return EXIT_PASS
    out = _console()
    for number, attempt in enumerate(parsed.attempts, 1):
        out.print(f"attempt {number} of {len(parsed.attempts)}: {attempt.outcome.value}")
        print_table(out, ("", "", ""), "lrl", reading_rows(attempt))
        if attempt.error is not None:
            out.print(f"  error, line {attempt.error.line}: {printable(attempt.error.text)}", markup=False)
    return EXIT_PASS


@cli.command(short_help="Judge a run or a log: pass, or what is wrong and the fix.")
@click.argument("target", metavar="RUN|LOG", type=click.Path(path_type=Path))
@click.option("--profile", help="Judge as a load of this profile; a version other than the pinned one then fails.")
@click.option("--gpu", help=GPU_HELP)
@profile_options
@json_option
def check(target: Path, profile: str | None, gpu: str | None, as_json: bool, **flags: Any) -> int:
    """Judge a run folder or a LOG: shape, identities, prediction, golden ranges. - reads a log from stdin.

    A run folder says its settings itself. A log does not say them all: without --profile it is judged as the profile whose settings it
    prints, or as one of no known profile; the flags say which settings were others.
    """
    from loadcheck.checking import gather
    from loadcheck.loading import judge_folder
    from loadcheck.report import judged_as, show_verdict
    from loadcheck.terminal import print_words
    from loadcheck.verdict import judge

    changed = overrides(flags)
    if target.is_dir():
        loaded = judge_folder(target, profile, gpu, changed)
        evidence, verdict = loaded.evidence, loaded.verdict
    else:
        with log_file(target) as file:
            evidence = gather(file, profile, gpu, overrides=changed)
            verdict = judge(evidence)
    if as_json:
        named = evidence.profile.name if evidence is not None and evidence.profile is not None else None
        _print_json({"profile": named, **verdict.to_json()})
        return EXIT_PASS if verdict.passed else EXIT_FAIL
    out = _console()
    if evidence is not None:
        print_words(out, f"{target}: {judged_as(evidence)}")
    show_verdict(out, evidence, verdict)
    return EXIT_PASS if verdict.passed else EXIT_FAIL


@cli.command(short_help="Show a run again: its figures, its verdict, how it ended.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write it as a page, too: one file.")
@json_option
def report(run: Path, as_json: bool, html: Path | None) -> int:
    """Show a RUN folder again: its figures, its verdict, how it ended."""
    from loadcheck.loading import judge_folder
    from loadcheck.report import show_end, show_verdict
    from loadcheck.terminal import print_words

    if run.is_file():
        raise BadInput(Problem(str(run), "a log, not a run folder", f"use: loadcheck check {run}"))
    loaded = judge_folder(run)
    if not as_json:
        show_verdict(_console(), loaded.evidence, loaded.verdict)
        show_end(_console(), loaded.record, loaded.folder.path)
    if html is not None:
        _write_page(html, loaded)
        if not as_json:
            print_words(_console(), f"wrote {html}")
    if as_json:  # last, as an error would be the one document
        _print_json(loaded.to_json())
    return EXIT_PASS if loaded.verdict.passed else EXIT_FAIL


def _refuse_target(path: Path, run: Path) -> None:
    """BadInput where writing `path` would go through a link, or over a folder, a device or a file of the run."""
    from loadcheck.runs.folder import FILES, PARTIAL, RESERVE

    own = {name + end for name in (*FILES, RESERVE) for end in ("", PARTIAL)}
    in_run = path.parent.resolve() == run.resolve()
    if path.is_symlink():
        what = "is a link, and what it leads to would be written over"
    elif path.exists() and not path.is_file():
        what = "is a folder or a device"
    elif in_run and (path.name in own or (path.exists() and path.suffix.lower() not in (".html", ".htm"))):
        what = "is a file of the run itself"
    elif path.exists() and any(path.samefile(each) for each in run.iterdir() if each.is_file() and each != path):
        what = "is a file of the run under another name"
    else:
        return
    raise BadInput(Problem(str(path), what, "name another file, such as page.html", "--html"))


def _write_page(path: Path, loaded: Loaded) -> None:
    """BadInput where `path` cannot be written."""
    from loadcheck.page import run_page
    from loadcheck.runs.private import write_whole
    from loadcheck.runs.redact import Redactor
    from loadcheck.runs.sampler import read_samples
    from loadcheck.runs.secrets import secrets

    page = run_page(loaded.record, loaded.evidence, loaded.verdict, read_samples(loaded.folder.memory_path))
    _refuse_target(path, loaded.folder.path)
    try:
        write_whole(path, Redactor(secrets(os.environ)).text(page))
    except OSError as error:
        raise BadInput(Problem(str(path), error.strerror or str(error), "name a file that can be written")) from None


@cli.command(short_help="Print every figure of a load before it, and whether it fits.")
@predicted_profile
@profile_options
@train_steps_option
@card_options
@click.option("--tree", is_flag=True, help="Show every term of the device's memory with its source.")
@json_option
def predict(
    as_json: bool, tree: bool, profile: str | None, named: str | None, ram_available_bytes: int | None, **flags: Any
) -> int:
    """Say every figure of the load log of PROFILE, and whether it fits, before anything is loaded.

    Of a load without vLLM, as on a CPU, weights, adapters and parameters are all that is predicted; it needs no --gpu.
    """
    from loadcheck.report import show_case, show_prediction, show_without_vllm
    from loadcheck.show.case import case_json
    from loadcheck.stacks import predict as predict_load

    case = _case(_profile(_one_profile(profile, named), overrides(flags), one_rank=True), flags, ram_available_bytes)
    prediction = predict_load(case)
    if prediction.account is not None and ram_available_bytes is None and _names_card(flags):
        prediction = replace(prediction, notes=(*prediction.notes, _ram_note(case.ram_available_bytes or 0)))
    if as_json:
        _print_json({**case_json(case), **prediction.to_json()})
    else:
        out = _console()
        show_case(out, case)
        if prediction.account is None:
            show_without_vllm(out, prediction.figures)
        else:
            show_prediction(out, prediction, tree)
    return EXIT_PASS if prediction.fits else EXIT_FAIL


def _ram_note(ram_bytes: int) -> str:
    from loadcheck.units import show_bytes

    return f"num_cpu_blocks and swap_gib assume this machine's RAM, {show_bytes(ram_bytes)} available; --ram-available-bytes says another's"


@cli.command(short_help="Print the settings that fit a model on a card, best first.")
@predicted_profile
@click.option(
    "--for", "goal", type=click.Choice(["length", "concurrency", "training"]), default="length", show_default=True,
    help="What to have most of: the longest requests (a length that does not fit stops the load, fewer sequences only slow it), "
    "the most requests at once, or the most memory left for training.",
)  # fmt: skip
@profile_options
@train_steps_option
@card_options
@json_option
def fit(
    as_json: bool, goal: Any, profile: str | None, named: str | None, ram_available_bytes: int | None, **flags: Any
) -> int:
    """Say which settings fit this model on this GPU, best first, and what each of them moves.

    The search starts from PROFILE: its model, rank, targets and length. What a flag says is kept; the others are looked for:
    --gpu-memory-utilization, --conservativeness and, for the longest requests, --max-seq-length.
    """
    from loadcheck.predict.fit import fit as find_fit
    from loadcheck.predict.fit import searched
    from loadcheck.report import show_case, show_fit
    from loadcheck.show.case import case_json
    from loadcheck.specs.profile import load_profile
    from loadcheck.specs.settings import load_command
    from loadcheck.stacks import stack_of

    name, changed = _one_profile(profile, named), overrides(flags)
    base = _with_local_weights(_profile(name, changed, one_rank=True))
    given = frozenset(_one_rank(changed))
    case = _case(base, flags, ram_available_bytes)
    if case.card is None:
        raise BadInput(_nothing_to_fit(base))
    found = find_fit(stack_of(base), case, goal, given)
    command = partial(load_command, base=load_profile(name), name=name)
    if as_json:
        _print_json({**case_json(case, searched(goal, given)), **found.to_json(base, command)})
    else:
        out = _console()
        show_case(out, case, searched(goal, given))
        show_fit(out, found, command)
    return EXIT_PASS if found.proposals else EXIT_FAIL


def _with_local_weights(profile: Profile) -> Profile:
    """A model that is no name of env/models is a folder here, and so are its weights."""
    from loadcheck.specs.files import changed
    from loadcheck.specs.model import find_model

    known = profile.weights not in ("hub", "package") or find_model(profile.model) is not None
    return profile if known else changed(profile, {"weights": "local"})


def _nothing_to_fit(profile: Profile) -> Problem:
    return Problem(
        f"profile {profile.name}",
        "loads without vLLM, and what fit looks for are vLLM's settings",
        f"see `loadcheck predict {profile.name}`, or take a profile with engine = 'gpu' and fast_inference = true",
        "engine" if profile.engine == "cpu" else "fast_inference",
    )


def _one_profile(profile: str | None, named: str | None) -> str:
    """PROFILE or --profile, or the default; BadInput where the two name different ones."""
    if profile and named and profile != named:
        raise BadInput(Problem("profile", f"{profile!r} and --profile {named!r} are two", "name one of them"))
    return profile or named or PREDICTED_PROFILE


def _case(profile: Profile, flags: dict[str, Any], ram_available_bytes: int | None) -> Case:
    """The load that is asked about; BadInput or UnsupportedMachine where its model or its card is not to be had."""
    from loadcheck.device import ram_available_bytes as read_ram
    from loadcheck.predict import Case
    from loadcheck.specs.model import resolve_model

    name, config = resolve_model(profile.model, profile.load_in_4bit)
    card = _card(**{name: flags[name] for name in CARD_FLAGS}) if profile.uses_vllm else None
    ram = read_ram() if ram_available_bytes is None else ram_available_bytes
    return Case(model_name=name, config=config, profile=profile, card=card, ram_available_bytes=ram)


def _profile(name: str, given: dict[str, Any], one_rank: bool = False) -> Profile:
    """The profile with the flags given laid over it; BadInput names the flag where the wrong value came from one."""
    from loadcheck.specs.profile import load_profile

    try:
        follows = one_rank and load_profile(name).adapters is not None
        return load_profile(name, _one_rank(given) if follows else given)
    except BadInput as error:
        flags = {flag.key: flag.name for flag in settings_of(Profile) if flag.key in given}
        raise BadInput(
            Problem(flags[problem.key], problem.what, problem.remedy) if problem.key in flags else problem
            for problem in error.problems
        ) from None


def _one_rank(changed: dict[str, Any]) -> dict[str, Any]:
    """Asked about a largest rank alone, adapters of that rank are meant."""
    rank = {"adapters.r": changed["max_lora_rank"]} if "max_lora_rank" in changed else {}
    return rank | changed


CARD_FLAGS = ("gpu", "gpu_total_bytes", "gpu_free_bytes", "compute_capability", "non_torch_bytes")


def _card(
    gpu: str | None,
    gpu_total_bytes: int | None,
    gpu_free_bytes: int | None,
    compute_capability: str | None,
    non_torch_bytes: int | None,
) -> Card:
    """The card that the flags describe, else this machine's; BadInput names every flag that is missing or absurd."""
    from loadcheck.predict.card import described_card, present_card

    described = {"gpu_total_bytes": gpu_total_bytes, "gpu_free_bytes": gpu_free_bytes}
    if not _names_card({"gpu": gpu, "compute_capability": compute_capability, **described}):
        return present_card(non_torch_bytes)
    return described_card(gpu, gpu_total_bytes, gpu_free_bytes, compute_capability, non_torch_bytes)


def _names_card(flags: dict[str, Any]) -> bool:
    """Whether the flags name or describe a card, which then is not taken for this machine's."""
    names = ("gpu", "gpu_total_bytes", "gpu_free_bytes", "compute_capability")
    return any(flags[name] is not None for name in names)


@cli.command(short_help="Load a model, attach adapters, answer once, check each figure.")
@click.argument("profile", required=False)
@setting_options(lambda _: True)
@click.option("--no-adapters", is_flag=True, help="Load only; attach no LoRA adapters.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), help="The folder of this run; default: runs/<time>-<profile>."
)
@click.option("--force", is_flag=True, help="Start even a load that is predicted to fail.")
@click.option(
    "--recover", is_flag=True,
    help="Where it does not fit, by the prediction or by the load itself, change settings, cheapest first, until a load passes.",
)  # fmt: skip
@json_option
def load(
    profile: str | None,
    as_json: bool,
    no_adapters: bool,
    run_dir: Path | None,
    force: bool,
    recover: bool,
    **flags: Any,
) -> int:
    """Load the model of PROFILE, attach adapters, answer once, and check every memory figure.

    Without PROFILE: the reference where there is a GPU, the small model on the CPU where there is none.
    """
    from loadcheck.device import read_gpu
    from loadcheck.doctor import examine, read_machine
    from loadcheck.loading import default_profile, prepare, reject_ignored_flags
    from loadcheck.loading import load as run_load
    from loadcheck.progress import Progress
    from loadcheck.report import show_end, show_prediction, show_verdict
    from loadcheck.runs.folder import refuse_taken

    out = _console(stderr=as_json)
    if run_dir is not None:
        refuse_taken(run_dir)
    gpu = read_gpu()
    if profile is None:
        profile, why = default_profile(gpu)
        out.print(f"Profile {profile}: {printable(why)}", markup=False)
    changed = overrides(flags) | ({"adapters": None} if no_adapters else {})
    chosen = _profile(profile, changed)
    reject_ignored_flags(chosen, changed)
    prepared = prepare(chosen, gpu)
    if recover:
        return _recover(out, prepared, as_json, run_dir, force)
    if not prepared.prediction.fits and not force:
        if as_json:
            _print_json({"run": None, "outcome": "refused", **prepared.prediction.to_json()})
        else:
            show_prediction(out, prepared.prediction, tree=False)
        out.print("Nothing was loaded. --force loads anyway.")
        return EXIT_FAIL
    report = examine(read_machine(prepared.plan, gpu, files=False), prepared.plan)
    if _refused(out, report, as_json, force):
        return report.exit_code
    with Progress(out) as progress:
        loaded = run_load(prepared, run_dir, progress.feed)
    if as_json:
        _print_json(loaded.to_json())
    else:
        show_verdict(out, loaded.evidence, loaded.verdict)
        show_end(out, loaded.record, loaded.folder.path)
    return loaded.exit_code


def _refused(out: Console, report: Report, as_json: bool, force: bool) -> bool:
    """Show what is wrong with the machine, and whether that keeps the load from starting."""
    from loadcheck.doctor.show import show_troubles

    show_troubles(out, report)
    refused = bool(report.problems) and not force
    if refused:
        if as_json:
            _print_json({"run": None, **report.to_json(), "outcome": "refused"})
        out.print("Nothing was loaded. --force loads anyway; `loadcheck doctor` says more.")
    return refused


def _recover(out: Console, prepared: Prepared, as_json: bool, run_dir: Path | None, force: bool) -> int:
    """`load --recover`: as load, but where memory is short the ladder is walked; JSON has a further key `recovery`."""
    from loadcheck.doctor import examine, read_machine
    from loadcheck.loading import load as run_load
    from loadcheck.loading import prepare, settled_gpu
    from loadcheck.progress import Progress
    from loadcheck.recovery import Effects, recover
    from loadcheck.recovery.show import show_recovery
    from loadcheck.report import show_end, show_verdict
    from loadcheck.runs.folder import default_folder

    machine = read_machine(prepared.plan, prepared.gpu, files=False)
    report = examine(machine, prepared.plan).without("memory")  # which is what is going to be fixed
    if _refused(out, report, as_json, force):
        return report.exit_code

    def run(attempt: Prepared, folder: Path) -> Loaded:
        with Progress(out) as progress:
            return run_load(attempt, folder, progress.feed)

    effects = Effects(
        lambda profile: prepare(profile, settled_gpu(prepared.gpu)), run, lambda text: out.print(text, markup=False)
    )
    found = recover(prepared, effects, run_dir or default_folder(prepared.plan.profile.name), force)
    loaded = found.attempts[-1].loaded if found.attempts else None
    if as_json:
        said = loaded.to_json() if loaded else {"run": None, "outcome": "refused", **prepared.prediction.to_json()}
        _print_json({**said, "recovery": found.to_json()})
        return found.exit_code
    if loaded is not None:
        if loaded.evidence is not None:
            show_verdict(out, loaded.evidence, loaded.verdict)
        show_end(out, loaded.record, loaded.folder.path)
    show_recovery(out, found)
    return found.exit_code


@cli.command(short_help="Say what keeps this machine from a load, before it is fetched.")
@click.option("--profile", help="What is to be loaded; default: what `loadcheck load` would take here.")
@profile_options
@setting_options(lambda flag: flag.key == "weights")
@json_option
def doctor(as_json: bool, profile: str | None, **flags: Any) -> int:
    """Say what is wrong with this machine for this stack, before anything is downloaded.

    Exit code 0: the load can start (there may be warnings), 1: problems to fix, 2: bad input, as load says it, 3: this
    machine cannot.
    """
    from loadcheck.device import read_gpu
    from loadcheck.doctor import examine, read_machine
    from loadcheck.doctor.show import show_report
    from loadcheck.loading import default_profile, refuse_bad_input, reject_ignored_flags
    from loadcheck.plan import make_plan

    gpu, changed = read_gpu(), overrides(flags)
    plan = make_plan(_profile(profile or default_profile(gpu)[0], changed))
    reject_ignored_flags(plan.profile, changed)
    refuse_bad_input(plan)
    report = examine(read_machine(plan, gpu), plan)
    if as_json:
        _print_json(report.to_json())
    else:
        show_report(_console(), report)
    return report.exit_code


@cli.command(short_help="Say what is installed, and what of it is not as locked.")
@click.option("--files", is_flag=True, help="Hash every file too, and compare with its wheel: half a minute.")
@json_option
def manifest(files: bool, as_json: bool) -> int:
    """Say what is really installed here, and what of it is not as locked."""
    from loadcheck.manifest import read_manifest
    from loadcheck.report import show_manifest

    found = read_manifest(files)
    if as_json:
        _print_json(found.to_json())
    else:
        show_manifest(_console(), _console(stderr=True), found)
    return EXIT_FAIL if found.problems else EXIT_PASS


@cli.command("list", short_help="List the cards, models and profiles that are known by name.")
@click.argument("kind", required=False, type=click.Choice(["cards", "models", "profiles"]))
@json_option
def list_(kind: str | None, as_json: bool) -> int:
    """List the cards, models and profiles that are known by name; without a word, all three.

    CC is the compute capability. What is not measured of a card is an estimate in its predictions; without its free memory there
    is none by name.
    """
    from loadcheck.listing import LISTS, show_list

    kinds = [kind] if kind else list(LISTS)
    if as_json:
        _print_json({each: LISTS[each]() for each in kinds})
        return EXIT_PASS
    out = _console()
    for number, each in enumerate(kinds):
        if number:
            out.print()
        show_list(out, each)
    return EXIT_PASS


def overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """The profile's keys that flags override, by dotted key."""
    keys = {flag.parameter: flag.key for flag in settings_of(Profile)}
    changed = {keys[name]: value for name, value in flags.items() if name in keys and value is not None}
    if "generation.prompt" in changed:  # the word that the profile expects answers its own question
        changed.setdefault("generation.expect", None)
    targets = "adapters.target_modules"
    if targets in changed:
        changed[targets] = [name.strip() for name in changed[targets].split(",") if name.strip()]
    checkpointing = "adapters.use_gradient_checkpointing"
    if changed.get(checkpointing) in ("true", "false"):
        changed[checkpointing] = changed[checkpointing] == "true"
    return changed


def _console(stderr: bool = False) -> Console:
    from loadcheck.terminal import console

    return console(stderr)


def _print_json(data: dict[str, Any]) -> None:
    try:
        click.echo(json_text({"schema": SCHEMA, "profile": None, "run": None, **data}))
    except BrokenPipeError:
        raise BrokenPipeError from None  # without its number, by which click would know it, and exit with 1 itself


def main() -> None:
    """Entry point: errors as `Error: FILE: KEY: what is wrong; how to fix it` on stderr, and the exit code that they mean."""
    print_in_any_encoding()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    from loadcheck.runs.redact import redacted_output
    from loadcheck.runs.secrets import secrets

    with redacted_output(secrets(os.environ)):
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    debug, as_json = "--debug" in arguments, "--json" in arguments
    try:
        code = cli.main(arguments, prog_name="loadcheck", standalone_mode=False)
        return code if isinstance(code, int) else EXIT_PASS
    except LoadcheckError as error:
        _show_errors(error.problems, debug)
        return emit_json_error(error.problems, error.exit_code, as_json)
    except click.ClickException as error:
        error.message = printable_lines(error.message)
        error.show()
        usage = Problem("command line", error.format_message(), "see loadcheck --help")
        return emit_json_error((usage,), EXIT_BAD_INPUT, as_json)
    except (click.Abort, KeyboardInterrupt):
        from loadcheck.runs.child import ignore_signals

        with ignore_signals():  # asked for once more while it is said, it is reported all the same
            click.echo("Error: interrupted", err=True)
            return emit_json_error((Problem("loadcheck", "interrupted", "run it again"),), EXIT_INTERRUPTED, as_json)
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        problem = Problem(str(error.filename or "system"), str(error.strerror), "free the disk or fix the path")
        _show_errors((problem,), debug)
        return emit_json_error((problem,), BadInput.exit_code, as_json)


def emit_json_error(problems: tuple[Problem, ...], exit_code: int, as_json: bool) -> int:
    """The exit code; with --json the problems are the one document on stdout, too."""
    if as_json:
        keys = ("where", "key", "what", "remedy")
        said = [{key: getattr(each, key) for key in keys} for each in problems]
        with suppress(OSError):  # stdout itself may be what is full or gone
            _print_json({"error": said, "exit_code": exit_code})
    return exit_code


def _show_errors(problems: tuple[Problem, ...], debug: bool) -> None:
    if debug:
        click.echo(printable_lines(traceback.format_exc()), err=True)
    for problem in problems:
        click.echo(f"Error: {printable(str(problem))}", err=True)
