"""The two steps of a training that run in child processes: counting the tokens of the rows, and training."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from loadcheck.data.faults import Faults
from loadcheck.logs.events import TrainData
from loadcheck.plan import LoadPlan
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.json_file import write_json
from loadcheck.specs.files import validate
from loadcheck.specs.training import TrainJob
from loadcheck.stacks import trainer_of
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.train_session import TrainSession

ENVIRONMENT = {
    "USE_TORCH": "0",  # the tokenizer does not need torch, whose import takes seconds
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # silences the warning that torch is missing
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
}


def _session(plan: LoadPlan, run_dir: Path, directory: Path, recorder: Recorder) -> TrainSession:
    folder = RunFolder(run_dir.resolve())
    data = json.loads(folder.train_path.read_text(encoding="utf-8"))
    return TrainSession(plan, validate(TrainJob, data, "train.json"), directory.resolve(), folder, recorder)


def count_rows(plan: LoadPlan, run_dir: Path, directory: Path, recorder: Recorder) -> None:
    """Write rows.json: the token counts of the rows, and every fault that only the tokenizer can find."""
    os.environ |= ENVIRONMENT
    from transformers import AutoTokenizer

    session = _session(plan, run_dir, directory, recorder)
    faults = Faults(session.job.data)
    counted = session.tokens(AutoTokenizer.from_pretrained(directory), faults).summary()
    write_json(session.folder.rows_path, {**counted, "problems": list(map(asdict, faults.problems()))})
    recorder.record(TrainData(**counted))


def train(plan: LoadPlan, run_dir: Path, directory: Path, recorder: Recorder) -> None:
    """Run the training of the plan's stack."""
    import_module(trainer_of(plan.profile)).run(_session(plan, run_dir, directory, recorder))
