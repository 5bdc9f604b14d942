"""One row of training data, in the same form for all forms of files."""

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
        line: where the row begins in its file, from 1.
        messages: empty for a plain text.
        text: of a row without a template; None for a chat.
        columns: the row's other keys, for GRPO's reward functions.
    """

    line: int
    messages: tuple[Message, ...] = ()
    text: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages in the form of a chat template's input."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


@dataclass(frozen=True, slots=True)
class Data:
    """A file of training data, read and validated.

    Attributes:
        sha256: of the file's bytes.
        form: the keys that identify its form, such as "messages".
        unused: keys of its rows that are ignored.
    """

    path: Path
    sha256: str
    form: str
    rows: tuple[Row, ...]
    unused: tuple[str, ...] = ()
