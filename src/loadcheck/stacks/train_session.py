"""A training to run: its job, its rows, and where its results are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadcheck.data import Data, read_data
from loadcheck.data.faults import Faults
from loadcheck.errors import BadInput, Problem
from loadcheck.plan import LoadPlan
from loadcheck.runs.folder import RunFolder
from loadcheck.specs.profile import MAX_COUNT
from loadcheck.specs.training import TrainJob
from loadcheck.stacks.packing import PackedRows, TokenRows, check_enough_rows, pack
from loadcheck.stacks.preflight import check_tokens
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.rows import RowTokenizer, TokenRow, check_vocabulary, end_ids
from loadcheck.stacks.step_monitor import Backend

NEVER = 10**9
"""The save_steps of a training that saves a checkpoint only at its end."""


@dataclass(frozen=True, slots=True)
class TrainSession:
    """A training to run: its job, and where its results are kept."""

    plan: LoadPlan
    job: TrainJob
    directory: Path
    folder: RunFolder
    recorder: Recorder

    @property
    def partial(self) -> Path:
        """Where unfinished files are written."""
        return self.folder.path / "checkpoints" / ".partial"

    def data(self) -> Data:
        """The rows; BadInput where the file has changed since the run began."""
        data = read_data(Path(self.job.data), self.job.settings.method)
        if data.sha256 != self.job.data_sha256:
            what = "has changed since this run began"
            raise BadInput(Problem(self.job.data, what, "restore the file, or start a new training", "--data"))
        return data

    def tokens(self, tokenizer: Any, faults: Faults) -> TokenRows:
        """Every row as tokens, and packed where requested; packing has no limit on a row's length."""
        settings = self.job.settings
        limit = MAX_COUNT if settings.packing else self.job.limit_tokens
        row_tokenizer = RowTokenizer(tokenizer, end_ids(tokenizer, self.directory), limit, self.job.truncate)
        rows = self.data().rows
        tokenize = row_tokenizer.prompts if settings.method == "grpo" else row_tokenizer.rows
        examples = tokenize(rows, faults)
        check_vocabulary(examples, self.plan.config.vocab_size, faults)
        packed = self._packed(examples, tokenizer.eos_token_id, faults) if settings.packing and not faults else None
        token_rows = TokenRows(examples, row_tokenizer.learned, packed)
        if not faults:
            check_tokens(self.folder, token_rows.summary()["tokens_sha256"])
        return token_rows

    def _packed(self, rows: list[TokenRow], eos_id: int | None, faults: Faults) -> PackedRows:
        settings, length = self.job.settings, self.job.limit_tokens
        packed = pack(rows, length, eos_id, self.job.schedule.seed)
        check_enough_rows(packed, length, settings.rows * settings.gradient_accumulation_steps, faults)
        return packed

    def config_arguments(self, backend: Backend) -> dict[str, Any]:
        """The arguments that SFTConfig and GRPOConfig share (transformers/training_args.py)."""
        settings, schedule = self.job.settings, self.job.schedule
        return {
            "output_dir": str(self.partial),
            "per_device_train_batch_size": settings.per_device_train_batch_size,
            "gradient_accumulation_steps": settings.gradient_accumulation_steps,
            "optim": settings.optim,
            "max_steps": schedule.max_steps or -1,
            "num_train_epochs": schedule.num_train_epochs,
            "learning_rate": schedule.learning_rate,
            "lr_scheduler_type": schedule.lr_scheduler_type,
            "warmup_steps": schedule.warmup_steps,
            "warmup_ratio": schedule.warmup_ratio,
            "weight_decay": schedule.weight_decay,
            "seed": schedule.seed,
            "save_strategy": "steps",
            "save_steps": schedule.save_steps or NEVER,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            **backend.arguments,
        }
