"""The forms of rows, and how each is converted to a chat or a text.

chat `messages` (OpenAI, trl), `conversations` (sharegpt), `instruction`/`input`/`output` (alpaca), `prompt`/`completion` (trl), `text`;
for GRPO `prompt` and the columns that reward functions use, such as `answer` (trl).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadcheck.data.faults import Faults
from loadcheck.data.rows import Message, Role, Row

RowBuilder = Callable[[int, dict[str, Any], Faults], Row | None]

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system", "user": "user", "human": "user", "input": "user", "assistant": "assistant", "gpt": "assistant", "output": "assistant",
}  # fmt: skip
"""The role names of sharegpt files (unsloth 2025.2.5 chat_templates.py: standardize_sharegpt)."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a row.

    Attributes:
        needs: the keys that identify it.
        keys: all keys that it reads.
        method: "sft" or "grpo"; None for both.
    """

    name: str
    needs: tuple[str, ...]
    keys: tuple[str, ...]
    method: str | None
    row: RowBuilder

    def fits(self, record: dict[str, Any]) -> bool:
        return all(key in record for key in self.needs)


def names_of(forms: list[Form]) -> str:
    return "; ".join(form.name for form in forms)


def _messages(line: int, record: dict[str, Any], faults: Faults) -> Row | None:
    return _chat_row(line, _turns(line, record["messages"], "messages", ("role", "content"), ROLES, faults), faults)


def _conversations(line: int, record: dict[str, Any], faults: Faults) -> Row | None:
    turns = _turns(line, record["conversations"], "conversations", ("from", "value"), SHAREGPT_ROLES, faults)
    return _chat_row(line, turns, faults)


def _alpaca(line: int, record: dict[str, Any], faults: Faults) -> Row | None:
    instruction = _text(line, record, "instruction", faults)
    answer = _text(line, record, "output", faults)
    more = record.get("input") or ""
    if not isinstance(more, str):
        faults.add(line, "must be a string", "write it in quotes, or leave it out", "input")
        return None
    if instruction is None or answer is None:
        return None
    return _pair(line, f"{instruction}\n\n{more}" if more.strip() else instruction, answer)


def _completion(line: int, record: dict[str, Any], faults: Faults) -> Row | None:
    if isinstance(record["prompt"], list) and isinstance(record["completion"], list):
        turns = _turns(line, record["prompt"] + record["completion"], "prompt", ("role", "content"), ROLES, faults)
        return _chat_row(line, turns, faults)
    prompt, completion = _text(line, record, "prompt", faults), _text(line, record, "completion", faults)
    return None if prompt is None or completion is None else _pair(line, prompt, completion)


def _plain(line: int, record: dict[str, Any], faults: Faults) -> Row | None:
    text = _text(line, record, "text", faults)
    return None if text is None else Row(line, text=text)


def _prompt(line: int, record: dict[str, Any], faults: Faults) -> Row | None:
    """GRPO's: the prompt as a chat, and all other columns for the reward functions."""
    columns = {key: value for key, value in record.items() if key != "prompt"}
    if not isinstance(record["prompt"], list):
        prompt = _text(line, record, "prompt", faults)
        return None if prompt is None else Row(line, (Message("user", prompt),), columns=columns)
    turns = _turns(line, record["prompt"], "prompt", ("role", "content"), ROLES, faults)
    if turns is None or not _alternate(line, turns, faults):
        return None
    if turns[-1].role == "assistant":
        faults.add(
            line,
            "the prompt ends with an assistant turn",
            "end it with a user turn: GRPO generates the answers",
            "prompt",
        )
        return None
    return Row(line, turns, columns=columns)


FORMS = (
    Form("messages", ("messages",), ("messages",), "sft", _messages),
    Form("conversations", ("conversations",), ("conversations",), "sft", _conversations),
    Form("instruction, output", ("instruction", "output"), ("instruction", "input", "output"), "sft", _alpaca),
    Form("prompt, completion", ("prompt", "completion"), ("prompt", "completion"), "sft", _completion),
    Form("text", ("text",), ("text",), "sft", _plain),
    Form("prompt", ("prompt",), ("prompt",), "grpo", _prompt),
)
"""In the order in which they are tried."""


def _pair(line: int, prompt: str, answer: str) -> Row:
    return Row(line, (Message("user", prompt), Message("assistant", answer)))


def _text(line: int, record: dict[str, Any], key: str, faults: Faults) -> str | None:
    """A non-empty string; otherwise None, and a fault."""
    value = record[key]
    if not isinstance(value, str):
        faults.add(line, "must be a string", "write it in quotes", key)
    elif not value.strip():
        faults.add(line, "is empty", "write the text, or remove the row", key)
    elif not _encodable(value):
        faults.add(line, "contains an unpaired surrogate, which is not a character", "write the character itself", key)
    else:
        return value
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _turns(
    line: int, value: Any, key: str, names: tuple[str, str], roles: dict[str, Role], faults: Faults
) -> tuple[Message, ...] | None:
    """The turns of a chat; None, and a fault for each wrong one, where not all are turns."""
    if not isinstance(value, list) or not value:
        faults.add(
            line, "must be a list of turns, at least one", f'write [{{"{names[0]}": …, "{names[1]}": …}}, …]', key
        )
        return None
    before = len(faults)
    turns = [_turn(line, turn, f"{key}[{number}]", names, roles, faults) for number, turn in enumerate(value)]
    return None if len(faults) > before else tuple(turn for turn in turns if turn is not None)


def _turn(
    line: int, turn: Any, key: str, names: tuple[str, str], roles: dict[str, Role], faults: Faults
) -> Message | None:
    role_name, content_name = names
    if not isinstance(turn, dict) or role_name not in turn or content_name not in turn:
        faults.add(
            line, f"must have {role_name} and {content_name}", f'write {{"{role_name}": …, "{content_name}": …}}', key
        )
        return None
    unknown = [name for name in turn if name not in names]
    if unknown:
        faults.add(line, f"has {', '.join(unknown)}, which is not supported", "remove it: only text is trained on", key)
        return None
    role = roles.get(turn[role_name]) if isinstance(turn[role_name], str) else None
    if role is None:
        faults.add(line, f"unknown role {turn[role_name]!r:.40}", f"one of {', '.join(roles)}", f"{key}.{role_name}")
        return None
    content = _text(line, {f"{key}.{content_name}": turn[content_name]}, f"{key}.{content_name}", faults)
    return None if content is None else Message(role, content)


def _chat_row(line: int, turns: tuple[Message, ...] | None, faults: Faults) -> Row | None:
    """A chat that can be learned from: its turns alternate, and it ends with an assistant turn."""
    if turns is None:
        return None
    if all(turn.role != "assistant" for turn in turns):
        faults.add(line, "has no assistant turn, so there is nothing to learn", "add the answer, or remove the row")
        return None
    if not _alternate(line, turns, faults):
        return None
    if turns[-1].role != "assistant":
        faults.add(
            line,
            f"ends with a {turns[-1].role} turn, from which nothing is learned",
            "add the answer, or remove the turn",
        )
        return None
    return Row(line, turns)


def _alternate(line: int, turns: tuple[Message, ...], faults: Faults) -> bool:
    """Whether at most the first turn is a system turn, a user turn comes next, and no role but tool has two turns in a row."""
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[0] == "system" else roles
    if "system" in spoken:
        faults.add(line, "has a system turn that is not the first", "move it to the beginning")
    elif not spoken or spoken[0] != "user":
        faults.add(line, "does not begin with a user turn", "begin with a user turn, after at most one system turn")
    elif twice := next((a for a, b in pairwise(spoken) if a == b != "tool"), None):
        faults.add(line, f"has two {twice} turns in a row", "merge them, or add the missing turn between them")
    else:
        return True
    return False
