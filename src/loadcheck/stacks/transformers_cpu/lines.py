"""The line that peft prints about the adapters; everything else in such a log is our own events."""

from __future__ import annotations

from loadcheck.logs.dialect import Dialect
from loadcheck.logs.formats import (
    COUNT,
    LineFormat,
    Stage,
    exact,
    repeated,
)

FORMATS: tuple[LineFormat, ...] = (
    # print_trainable_parameters, which a trainer may call again
    repeated("trainable", "peft 0.14.0 peft_model.py:784", Stage.ADAPTERS, "trainable params: ",
          rf"trainable params: {COUNT} \|\| all params: {COUNT}", exact("trainable_params"), exact("total_params")),
)  # fmt: skip

DIALECT = Dialect(FORMATS, heads=("trainable params",))
