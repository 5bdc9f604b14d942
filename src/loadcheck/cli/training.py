"""`predict --method` and `fit --method`: the memory of a training.

Imported only with --method: simulating a training needs modules that a load does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadcheck.cli.chosen import with_card
from loadcheck.cli.output import given_command, print_json
from loadcheck.cli.train_job import completion_problems, given_settings, refuse_settings
from loadcheck.cli.written import write_page
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.predict import Case
from loadcheck.show.case import case_json, show_case
from loadcheck.show.prediction import show_fits, show_prediction
from loadcheck.show.train import show_peaks
from loadcheck.show.training import packed_note, show_fit_training, show_training
from loadcheck.specs.files import to_data, validate
from loadcheck.specs.profile import Profile
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks import predict
from loadcheck.terminal import console, print_words
from loadcheck.units import gib_figures
from loadcheck.workloads.peaks import predict_peaks
from loadcheck.workloads.training import TrainPrediction, fit_training, predict_training


def predicted(case: Case, flags: dict[str, Any], as_json: bool, tree: bool, html: Path | None = None) -> int:
    """`predict --method`: the load, where vLLM is in it, and the training of its adapters."""
    settings = settings_of_training(flags, case.profile)
    if case.profile.on_cpu:
        if html is not None:
            what = "there is no page for a training on the CPU, which has only one figure"
            raise BadInput(Problem("--html", what, "leave it out, or use --json"))
        return _predicted_on_cpu(case, settings, as_json)
    case = with_card(case, flags)
    training = predict_training(case, settings)
    if html is not None:
        from loadcheck.show.page import training_page

        write_page(html, training_page(case, training, given_command()))
    load = training.engine if training.engine is not None else predict(case)
    if as_json:
        print_json(_document(training, {**case_json(case), **load.to_json()}))
    else:
        out = console()
        show_case(out, case)
        if training.engine is not None:
            show_prediction(out, load, tree=False)
        show_training(out, training, tree)
    return EXIT_PASS if training.fits else EXIT_FAIL


def _predicted_on_cpu(case: Case, settings: TrainSettings, as_json: bool) -> int:
    """The peak of the training process, where it was measured for this model."""
    peaks = predict_peaks(case, settings)
    load = predict(case).to_json()
    if as_json:
        host = {"train_peak_host_bytes": peaks.host_bytes}
        figures, sizes = {**load["figures"], **gib_figures(host)}, {**load["bytes"], **host}
        said = {"settings": to_data(settings), "fits": peaks.fits, "notes": [peaks.note] if peaks.note else []}
        print_json(
            {**case_json(case), **load, "fits": peaks.fits, "figures": figures, "bytes": sizes, "training": said}
        )
    else:
        out = console()
        show_case(out, case)
        show_peaks(out, peaks)
        if settings.packing:
            print_words(out, f"Note: {packed_note(settings)}")
        show_fits(out, peaks.fits)
    return EXIT_PASS if peaks.fits else EXIT_FAIL


def fitted(case: Case, flags: dict[str, Any], as_json: bool) -> int:
    """`fit --method`: the most of each setting of the training that this card holds."""
    if case.profile.on_cpu:
        what = "is for the CPU, whose memory is not limited by a card"
        raise BadInput(Problem(f"profile {case.profile.name}", what, "see loadcheck predict --method sft", "engine"))
    settings = settings_of_training(flags, case.profile)
    case = with_card(case, flags)
    found = fit_training(case, settings)
    if as_json:
        print_json({**case_json(case), "most": [each.to_json() for each in found]})
    else:
        out = console()
        show_case(out, case)
        show_fit_training(out, found)
    return EXIT_PASS if any(each.value for each in found) else EXIT_FAIL


def settings_of_training(flags: dict[str, Any], profile: Profile) -> TrainSettings:
    """The training that the flags describe.

    BadInput for a profile without adapters and for rows longer than the model takes.
    """
    given = {"train_seq_length": profile.max_seq_length, **given_settings(profile, flags)}
    settings = validate(TrainSettings, given, "command line")
    refuse_settings(profile, settings)
    if problems := list(completion_problems(profile, settings)):
        raise BadInput(problems)
    return settings


def _document(training: TrainPrediction, base: dict[str, Any]) -> dict[str, Any]:
    """The document of `predict --json`: the load's, with the training's figures among its own."""
    return {
        **base,
        "fits": training.fits,
        "figures": {**base["figures"], **gib_figures(training.bytes_json())},
        "bytes": {**base["bytes"], **training.bytes_json()},
        "training": training.to_json(),
    }
