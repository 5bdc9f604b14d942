"""One row of training data in the one form that is trained on, whatever form its file has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """A chat, or a plain text.

    Attributes:
        line: of its file, from 1, where the row begins.
        messages: empty for a plain text.
        text: of a row without a template; None for a chat.
        columns: what else the row holds, for GRPO's reward functions.
    """

    line: int
    messages: tuple[Message, ...] = ()
    text: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages as a chat template takes them."""
        return [{"role": each.role, "content": each.content} for each in self.messages]


@dataclass(frozen=True, slots=True)
class Data:
    """A file of training data, read and found right.

    Attributes:
        sha256: of the file's bytes.
        form: the keys by which it was known, such as "messages".
        unused: keys of its rows that nothing reads.
    """

    path: Path
    sha256: str
    form: str
    rows: tuple[Row, ...]
    unused: tuple[str, ...] = ()
